"""The encoding of a log on one machine within a bound of memory, in parts of its users.

Polars counts and filters as for a log in memory (`rec_data.splits.encode`). Its kept rows then pass by once, and are
appended to one file per part and column. After that each part is sorted alone.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from rec_data.arrays import Int32s, Int64s
from rec_data.config import Split
from rec_data.errors import DataError, writing
from rec_data.raw.files import reading
from rec_data.schema import TIMESTAMP
from rec_data.sequences.parts import hash_ids_of
from rec_data.splits.encode import FilteredLog, LogFacts, filter_log
from rec_data.splits.part_files import ROWS_PER_PART, PartFiles, SortedPart, keep_part, merge_ties
from rec_data.stated import stated

ROWS_IN_MEMORY = 1 << 28
"""Up to which number of interactions a log is split in memory, if nobody states a bound."""
_BASE = 600 << 20
"""Bytes of the process with its libraries, and of the rows that are read at a time."""
_PER_ROW = 64
"""Bytes per interaction of what is split in memory: the whole log, or one part."""
_PER_ID = 150
"""Bytes of what is held of each user and each item beside the parts; ids that are texts need more:"""
_PER_TEXT_BYTE = 8
"""Bytes per byte of such an id."""
_ROWS = 1 << 20
"""Or users, that are divided at a time."""
_COLUMNS = {"user": np.int32, "item": np.int32, TIMESTAMP: np.int64}


def parts_of(rows: int, bound: int | None) -> int:
    """The number of parts of a log by its number of interactions and a bound of memory in bytes.

    Half of a bound is for a part, which may be the whole log, and half for what is held of users and items.
    """
    if bound is None:
        return 1 if rows <= ROWS_IN_MEMORY else -(-rows // ROWS_PER_PART)
    return max(1, -(-2 * rows * _PER_ROW // (bound - _BASE)))


def require_one_part(parts: int, settings: Split, what: str) -> None:
    """Refuse settings that make several parts of a log, for ``what`` works on one.

    Raises:
        DataError: They do; the message names the cure.
    """
    if parts > 1:
        cure = stated({"split.memory": "64GiB"})
        raise DataError(
            f"split.memory: found {settings.memory}, which makes {parts} parts, with {what}, allowed: one part ({cure})"
        )


@dataclass(frozen=True, kw_only=True)
class EncodedParts(LogFacts):
    """A filtered log in parts, and the original ids of its dense ids."""

    logs: PartFiles
    sorted_parts: list[SortedPart]
    user_names: pl.Series
    """Original user ids by dense id."""
    item_names: pl.Series
    """Original item ids by dense id."""


def encode_in_parts(path: Path, work: Path, settings: Split, *, parts: int, tie_seed: int | None) -> EncodedParts:
    """Read, filter and encode a log, and sort it in parts of its users.

    Args:
        path: See `rec_data.splits.encode.filter_log`.
        work: An empty folder for the parts: 16 bytes per interaction, and 12 more of one part.
        settings: The filters and the bound of memory.
        parts: How many.
        tie_seed: See `rec_data.splits.encode.encode`.

    Raises:
        DataError: As `rec_data.splits.encode.filter_log`, or the users and items, or the part of a user with very many
            interactions, need more memory than the bound.
    """
    fewest_items, fewest_users = settings.min_counts()
    with reading(f"log {path}"):
        found = filter_log(path, min_item_count=fewest_items, min_user_count=fewest_users, until=settings.test_until)
        _refuse_too_small(settings, found)
        hashes = [hash_ids_of(block.to_arrow()) % parts for block in _blocks(found.users)]
        part_of = np.concatenate(hashes, dtype=np.int32, casting="unsafe")  # [users]
        codes = [np.flatnonzero(part_of == index).astype(np.int32) for index in range(parts)]
        _divide(found, part_of, codes, work)
    sizes = [(work / f"rows-{number}" / "item").stat().st_size for number in range(1, parts + 1)]
    _refuse_too_small(settings, found, max(sizes) // np.dtype(_COLUMNS["item"]).itemsize)
    catalogue, sorted_parts = found.items.to_arrow(), []
    for number, users in enumerate(codes, start=1):
        folder = work / f"rows-{number}"
        rows = pl.LazyFrame({name: np.fromfile(folder / name, kind) for name, kind in _COLUMNS.items()})
        log = found.sort(rows, len(users))
        del rows
        shutil.rmtree(folder)
        names = found.users.gather(users).to_arrow()
        part = keep_part(
            number, replace(log, users=users), work=work, names=names, catalogue=catalogue, tie_seed=tie_seed
        )
        sorted_parts.append(part)
    return EncodedParts(
        logs=PartFiles(work, parts, len(found.items)),
        sorted_parts=sorted_parts,
        user_names=found.users,
        item_names=found.items,
        raw=found.raw,
        dropped=found.dropped(sum(part.rows for part in sorted_parts)),
        ties=merge_ties(sorted_parts),
        unit=found.unit,
    )


def _blocks(values: pl.Series) -> Iterator[pl.Series]:
    return (values[start : start + _ROWS] for start in range(0, len(values), _ROWS))


def _refuse_too_small(settings: Split, found: FilteredLog, largest: int = 0) -> None:
    """Refuse a bound of memory that users and items exceed, or these and the interactions of the largest part.

    The one that is named works: its parts are larger, by at most what half of it beyond users and items leaves.
    """
    bound, users, items = settings.memory_bytes, found.raw["users"], found.raw["items"]
    texts = sum(int(ids.str.len_bytes().sum()) for ids in (found.users, found.items) if ids.dtype == pl.String)
    of_ids = (users + items) * _PER_ID + texts * _PER_TEXT_BYTE
    of_part = largest * _PER_ROW
    needed = _BASE + max(2 * of_ids, of_ids + of_part)
    if bound is not None and needed > bound:
        part = f" and a part of {largest} interactions" if largest else ""
        least = f"{-(-(_BASE + 2 * (of_ids + of_part)) // 2**30)}GiB"
        raise DataError(
            f"split.memory: found {settings.memory} for {users} users and {items} items{part}, allowed: at least "
            f"{least} ({stated({'split.memory': least})})"
        )


def _divide(found: FilteredLog, part_of: Int32s, codes: list[Int32s], work: Path) -> None:
    """Append the rows to the files of their parts, in which users count from 0, in the order of the log."""
    places = np.empty(len(part_of), np.int32)
    for users in codes:
        places[users] = np.arange(len(users), dtype=np.int32)
    folders = [work / f"rows-{number}" for number in range(1, len(codes) + 1)]
    for folder in folders:
        folder.mkdir()
        for name in _COLUMNS:
            (folder / name).touch()
    for batch in found.rows.collect_batches(chunk_size=_ROWS, lazy=True, engine="streaming"):
        users = batch["user"].to_numpy()
        order = np.argsort(part_of[users], kind="stable")
        ends = np.cumsum(np.bincount(part_of[users], minlength=len(codes)))
        columns = (places[users], batch["item"].to_numpy(), batch[TIMESTAMP].to_numpy())
        for (name, kind), values in zip(_COLUMNS.items(), columns, strict=True):
            _append(folders, name, values[order].astype(kind, copy=False), ends)


def _append(folders: list[Path], name: str, values: npt.NDArray[np.int32] | Int64s, ends: Int64s) -> None:
    """Append the values of each part to its file."""
    for folder, part in zip(folders, np.split(values, ends[:-1]), strict=True):
        if len(part):
            with writing(folder / name), (folder / name).open("ab") as file:
                file.write(part.data)
