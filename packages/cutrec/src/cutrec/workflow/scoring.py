"""Lists for all users, part by part and chunk by chunk, into a folder of parquet files.

A part is one call, in one process; a chunk is what is in memory at a time. The folder holds

- ``part-00002-of-00008-chunk-00001-of-00003.parquet``: user_id, item_id, rank, score, as of the unpartitioned command
- ``_recommend.json``: the model, the log and the options, which are the same for all files of a folder
- ``_part-00002-of-00008.json``: written when a part is complete
- ``_SUCCESS``: an empty file, written when all parts are complete

Readers such as Spark, pyarrow and DuckDB skip names that begin with an underscore or a dot, or are not ``.parquet``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cutrec.errors import StageError
from cutrec.outputs import atomic_file, read_json, temporary_folder, unchanged, write_json
from cutrec.workflow.ranking import scoring_catalogue
from cutrec.workflow.recommendations import ranked_batches, write_recommendations
from rec_data.errors import refuse_if_full
from rec_data.locks import locked
from rec_data.sequences.histories import Skipped, read_histories
from rec_data.sequences.parts import Part, count_rows, write_chunks
from rec_models.encoders import Encoder

JOB = "_recommend.json"
SUCCESS = "_SUCCESS"
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
    log: Path,
    out: Path,
    part: Part,
    job: dict[str, Any],
    *,
    tie_seed: int | None,
    k: int,
    batch_users: int,
    keep_seen: bool,
    chunk_events: int = CHUNK_EVENTS,
) -> Scored:
    """Rank the catalogue for the users of one part of a log.

    A part that is complete is left as it is. One that was killed goes on after its last complete chunk. Calls for
    different parts may run at the same time, on one machine or on several with a common folder.

    Memory: the model, and about `chunk_events` rows of the log, whatever its size.

    Args:
        encoder: in eval mode.
        items: ``[V]`` original item ids by dense id.
        log: a parquet file as the stage download writes it.
        out: an existing folder.
        part: which users.
        job: what decides the lists (hashes of the model and the log, options) as JSON values.
        tie_seed: seed of the order of events with equal times; None keeps the order of rows.
        k: items per user, at most V.
        batch_users: users per batch.
        keep_seen: recommend items of the history too.
        chunk_events: mean number of events per chunk.

    Raises:
        DataError: the log cannot be read, or there is no space left.
        StageError: the folder holds other files, or parts of another job, or the log was replaced meanwhile.
    """
    chunks = max(1, -(-count_rows(log) // (part.of * chunk_events)))
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
        with unchanged(log), _chunk_logs(log, part, place, of=chunks, wanted=missing) as logs:
            catalogue = scoring_catalogue(encoder) if missing else None
            for chunk, own in logs.items():
                histories = read_histories(own, items, tie_seed=tie_seed)
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
                    for _ in write_recommendations(file, ranked, histories.user_names, items):
                        pass
                unknown, empty = unknown.joined(histories.unknown_items), empty.joined(histories.empty_users)
        users, rows = (sum(counts) for counts in zip(*map(_count, paths.values()), strict=True))
        with atomic_file(_marker(out, part)) as file:
            write_json(file, {"users": users, "rows": rows, "files": [path.name for path in paths.values()]})
    complete = all(_marker(out, Part(number, part.of)).is_file() for number in range(1, 1 + part.of))
    if complete:
        (out / SUCCESS).touch()
    return Scored(users, rows, chunks, len(missing), unknown, empty, complete)


def parts_for(log: Path, chunk_events: int) -> list[Part]:
    """All parts of a log in the fewest parts that its chunks allow: each part is one pass over the log."""
    of = max(1, -(-count_rows(log) // (chunk_events * MOST_CHUNKS)))
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


@contextmanager
def _chunk_logs(log: Path, part: Part, place: Path, *, of: int, wanted: Sequence[int]) -> Iterator[dict[int, Path]]:
    """Yield the log of each chunk that is wanted, in a temporary folder beside the lists; the whole log if it is all.

    A folder that a killed process left is removed.
    """
    if not wanted:
        yield {}
    elif part.of == of == 1:
        yield {1: log}
    else:
        folder = temporary_folder(place)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir()
            yield write_chunks(log, part, folder, of=of, wanted=wanted)
        except Exception as error:
            refuse_if_full(folder, error)
            raise
        finally:
            shutil.rmtree(folder)


def _count(path: Path) -> tuple[int, int]:
    """The users and the rows of a file of lists: each list begins with rank 1.

    Raises:
        StageError: the file is damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            counted = [
                pc.sum(pc.equal(batch.column(0), 1)).as_py() or 0 for batch in file.iter_batches(columns=["rank"])
            ]
            return sum(counted), file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise StageError(f"{path} is damaged ({error}); remove it and run this again") from error
