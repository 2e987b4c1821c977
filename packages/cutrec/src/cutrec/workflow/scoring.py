"""Lists for all users, part by part and chunk by chunk, into a folder of parquet files.

A part is one call, in one process; a chunk is what is in memory at a time. The folder holds

- ``part-00002-of-00008-chunk-00001-of-00003.parquet``: user_id, item_id, rank, score, as of the unpartitioned command
- ``_recommend.json``: the model, the log and the options, which are the same for all files of a folder
- ``_part-00002-of-00008.json``: written when a part is complete
- ``_SUCCESS``: an empty file, written when all parts are complete

Readers such as Spark, pyarrow and DuckDB skip names that begin with an underscore or a dot, or are not ``.parquet``.
"""

from __future__ import annotations

import ctypes
import platform
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cutrec.errors import StageError
from cutrec.outputs import atomic_file, read_json, unchanged, write_json
from cutrec.workflow.history_sources import HistorySource, SplitSource
from cutrec.workflow.ranking import scoring_catalogue
from cutrec.workflow.recommendations import ranked_batches, write_recommendations
from rec_data.locks import locked
from rec_data.sequences.histories import Skipped
from rec_data.sequences.parts import Part
from rec_models.encoders import Encoder

JOB = "_recommend.json"
SUCCESS = "_SUCCESS"
BATCHES_BETWEEN_TRIMS = 16
"""Batches of lists after which freed memory is given back."""
MOST_CHUNKS = 256
"""Of a part, whose logs are written at the same time."""
NAMES = {
    "k": "--k",
    "keep_seen": "choice of --keep-seen",
    "ties": "order of equal times (download.ties, seed)",
    "parts": "number of parts (--part)",
    "chunks": "number of chunks (--chunk-events)",
}
"""Keys of `JOB` as the user knows them."""
CHUNK_EVENTS = 5_000_000
"""Events of the log in memory at a time, by default."""


class Scored(NamedTuple):
    """A complete part."""

    users: int
    rows: int
    chunks: int
    ranked: int
    """Chunks that this call ranked; the others were there."""
    unknown_items: Skipped
    """Of the chunks that this call ranked."""
    empty_users: Skipped
    """Users without a usable history, of the chunks that this call ranked."""
    all_complete: bool
    """Whether all parts of the folder are complete."""


def score_part(
    encoder: Encoder,
    items: pa.Array,
    source: HistorySource,
    out: Path,
    part: Part,
    job: dict[str, Any],
    *,
    k: int,
    batch_users: int,
    keep_seen: bool,
    chunk_events: int = CHUNK_EVENTS,
) -> Scored:
    """Rank the catalogue for the users of one part.

    A part that is complete is left as it is. One that was killed goes on after its last complete chunk. Calls for
    different parts may run at the same time, on one machine or on several with a common folder.

    Memory: the model, and about `chunk_events` events of the histories, however many there are.

    Args:
        encoder: in eval mode.
        items: ``[V]`` original item ids by dense id.
        source: of the histories.
        out: an existing folder.
        part: which users.
        job: what decides the lists (hashes of the model and the log, options) as JSON values.
        k: items per user, at most V.
        batch_users: users per batch.
        keep_seen: recommend items of the history too.
        chunk_events: mean number of events per chunk.

    Raises:
        DataError: a log cannot be read, or there is no space left.
        StageError: the folder holds other files, or parts of another job, or the log or split was replaced meanwhile.
    """
    chunks = max(1, -(-source.rows() // (part.of * chunk_events)))
    if chunks > MOST_CHUNKS:
        raise StageError(
            f"--part: found {chunks:,} chunks in part {part.number} of {part.of}, allowed: {MOST_CHUNKS}; take more "
            "parts or a larger --chunk-events"
        )
    place = out / part.name
    with locked(place):
        _open_folder(out, {"part_of_a_user": "1 + crc32(user_id) % parts", **job, "parts": part.of, "chunks": chunks})
        paths = {
            chunk: out / f"{part.name}-chunk-{chunk:05d}-of-{chunks:05d}.parquet" for chunk in range(1, 1 + chunks)
        }
        missing = [chunk for chunk, path in paths.items() if not path.is_file()]
        unknown, empty = Skipped.none(), Skipped.none()
        with unchanged(source.path), closing(source.chunks(part, place, of=chunks, wanted=missing)) as read:
            catalogue = scoring_catalogue(encoder) if missing else None
            for chunk, histories in read:
                ranked = ranked_batches(
                    encoder,
                    histories.store,
                    k,
                    batch_users=batch_users,
                    filter_seen=not keep_seen,
                    title=f"part {part.number}/{part.of}, chunk {chunk}/{chunks}",
                    catalogue=catalogue,
                )
                with atomic_file(paths[chunk]) as file:
                    written = write_recommendations(file, ranked, histories.user_names, items)
                    for number, _ in enumerate(written, 1):
                        if number % BATCHES_BETWEEN_TRIMS == 0:
                            give_back_memory()
                unknown, empty = unknown.joined(histories.unknown_items), empty.joined(histories.empty_users)
                give_back_memory()
        users, rows = (sum(counts) for counts in zip(*map(_count, paths.values()), strict=True))
        with atomic_file(_marker(out, part)) as file:
            write_json(file, {"users": users, "rows": rows, "files": [path.name for path in paths.values()]})
    complete = all(_marker(out, Part(number, part.of)).is_file() for number in range(1, 1 + part.of))
    if complete:
        (out / SUCCESS).touch()
    return Scored(users, rows, chunks, len(missing), unknown, empty, complete)


def give_back_memory() -> None:
    """Give freed memory back to the system, as glibc itself does for the end of its heap only.

    Batches differ in size, so that tensors which were freed leave holes that later ones do not fit: a process grew from
    470 MB to 1.1 GB within a chunk of 98 batches, and to 2.2 GB over fifty chunks.
    """
    pa.default_memory_pool().release_unused()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def parts_for(source: HistorySource, chunk_events: int) -> list[Part]:
    """All parts: those of a split, or of a log the fewest that its chunks allow, as each is a pass over the log."""
    of = max(1, -(-source.rows() // (chunk_events * MOST_CHUNKS)))
    of = source.parts if isinstance(source, SplitSource) else of
    return [Part(number, of) for number in range(1, 1 + of)]


def _marker(out: Path, part: Part) -> Path:
    return out / f"_{part.name}.json"


def _open_folder(out: Path, job: dict[str, Any]) -> None:
    """Write `JOB` into an empty folder, or compare it with the one that is there.

    Raises:
        StageError: the folder holds other files, or parts of another job.
    """
    with locked(out):
        if (out / JOB).is_file():
            known = read_json(out / JOB)
            for key, value in job.items():
                if known.get(key) != value:
                    old, new = (str(found)[:12] for found in (known.get(key), value))
                    raise StageError(
                        f"--out: {out} holds lists with another {NAMES.get(key, key)}: found {new}, allowed: {old} as "
                        f"there; take another folder, or remove this one (rm -r {out})"
                    )
        elif others := sorted(path.name for path in out.iterdir() if not path.name.startswith(".")):
            raise StageError(
                f"--out: found {out} with other files ({others[0]}), allowed: a new folder, an empty one, or one with "
                "parts of the same lists"
            )
        else:
            with atomic_file(out / JOB) as file:
                write_json(file, job)


def _count(path: Path) -> tuple[int, int]:
    """The users and the rows of a file of lists: each list begins with rank 1.

    Raises:
        StageError: the file is damaged.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            counted = [
                pc.sum(pc.equal(batch.column(0), 1)).as_py() or 0 for batch in file.iter_batches(columns=["rank"])
            ]
            return sum(counted), file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise StageError(f"{path} is damaged ({error}); remove it and run this again") from error
