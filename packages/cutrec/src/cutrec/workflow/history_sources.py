"""Where the histories of all users come from, chunk by chunk: from a log, or from a split where there is no log."""

import hashlib
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cutrec.checksums import checksum, read_output, verified
from cutrec.errors import StageError
from cutrec.outputs import read_json, temporary_folder
from cutrec.paths import LOG, SPLIT
from cutrec.stores import parts_of, read_stores
from rec_data.arrays import Int32s, Mask
from rec_data.errors import refuse_if_full
from rec_data.ids import as_ids, hash_ids, read_ids
from rec_data.sequences.histories import Histories, Skipped, read_histories
from rec_data.sequences.longest import longest_histories
from rec_data.sequences.parts import Part, count_rows, hash_ids_of, write_chunks
from rec_data.sequences.store import SequenceStore
from rec_data.splits.strategies import SUBSETS

ChunkHistories: TypeAlias = Generator[tuple[int, Histories], None, None]


def without_log(log: Path, split: Path, trained_with: str | None) -> bool:
    """Whether there is a split but not its log, as where it was made elsewhere; another log may be in its place.

    `trained_with` is the SHA-256 of the log of the model, which may be older than the split.
    """
    if not (summary := split / "summary.json").is_file():
        return False
    if not log.is_file():
        return True
    elsewhere = split != SPLIT and log.resolve() == LOG.resolve()
    return elsewhere and checksum(log) not in (trained_with, read_json(summary).get("log_sha256"))


class HistorySource(Protocol):
    """Histories that are read part by part and chunk by chunk (`rec_data.sequences.parts`)."""

    @property
    def path(self) -> Path:
        """The file or folder that must not change meanwhile."""
        ...

    def rows(self) -> int:
        """The number of events, which decides how many chunks there are."""
        ...

    def chunks(self, part: Part, place: Path, *, of: int, wanted: Sequence[int]) -> ChunkHistories:
        """The wanted ones of the chunks of a part, which is written to beside the path `place` meanwhile."""
        ...


class LogSource(NamedTuple):
    """A parquet file as the stage download writes it, whose events are written once more, one file per chunk."""

    path: Path
    items: pa.Array
    """``[V]`` original item ids by dense id."""
    tie_seed: int | None
    """Seed of the order of events with equal times; None keeps the order of rows."""

    def rows(self) -> int:
        """See `HistorySource`."""
        return count_rows(self.path)

    def chunks(self, part: Part, place: Path, *, of: int, wanted: Sequence[int]) -> ChunkHistories:
        """See `HistorySource`."""
        with _chunk_logs(self.path, part, place, of=of, wanted=wanted) as logs:
            for chunk, log in logs.items():
                yield chunk, read_histories(log, self.items, tie_seed=self.tie_seed)


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


class SplitSource:
    """A split, whose parts are those of the lists: the longest history of each user, with its target at the end."""

    def __init__(self, split: Path, items: pa.Array) -> None:
        """Read the ids of the users, and which parts there are.

        Args:
            split: its folder.
            items: ``[V]`` original item ids by dense id, which must be those of the split.

        Raises:
            StageError: a file is missing or damaged.
        """
        self.path, self.parts = split, parts_of(split)
        users = read_output(read_ids, split / "users.parquet")
        self._users, self._hashes = users.names, {"items": hash_ids(items), "users": users.hash}
        self._subsets = [name for name in SUBSETS if name != "untargeted" or (split / f"{name}.parquet").is_file()]

    def checksum(self) -> str:
        """Of what the split says of itself and of the ids of its users."""
        about = verified(self.path / "summary.json").read_bytes() + self._hashes["users"].encode()
        return hashlib.sha256(about).hexdigest()

    def rows(self) -> int:
        """See `HistorySource`."""
        return int(read_json(self.path / "summary.json")["filtered"]["interactions"])

    def chunks(self, part: Part, place: Path, *, of: int, wanted: Sequence[int]) -> ChunkHistories:
        """See `HistorySource`; nothing is written.

        Raises:
            StageError: the split has another number of parts, or is damaged or of other items.
        """
        if part.of != self.parts:
            allowed = f"I/{self.parts}, as {self.path} has {self.parts} parts"
            raise StageError(f"--part: found {part.text}, allowed without a log: {allowed}")
        for chunk in wanted:

            def choose(users: Int32s, chunk: int = chunk) -> Mask:
                inside: Mask = 1 + hash_ids_of(self._users.take(pa.array(users))) // part.of % of == chunk
                return inside

            yield chunk, self._histories([part.number], choose if of > 1 else None)

    def of_users(self, users: Sequence[str]) -> Histories:
        """The histories of some users, whose ids are given as text: only their parts are opened."""
        wanted = as_ids(set(users), self._users.type)
        dense = pc.index_in(wanted, value_set=self._users).drop_null().to_numpy()
        parts = np.unique(hash_ids_of(wanted) % self.parts + 1).tolist()
        return self._histories(parts, lambda ids: np.isin(ids, dense))

    def everybody(self) -> Histories:
        """The histories of all users at once."""
        return self._histories(list(range(1, self.parts + 1)), None)

    def _histories(self, parts: Sequence[int], choose: Callable[[Int32s], Mask] | None) -> Histories:
        found = (longest_histories(self._open(number), choose) for number in parts)
        return Histories(longest_histories(found), self._users, Skipped.none(), Skipped.none())

    def _open(self, number: int) -> Iterator[SequenceStore]:
        for name in self._subsets:
            yield from read_stores(self.path, name, hashes=self._hashes, only=[number])
