"""Complete histories for recommending: a log's users with the items that a model knows, and the original ids.

Needs torch, numpy and pyarrow only, so that it runs wherever models run.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from rec_data.errors import DataError
from rec_data.ids import as_ids
from rec_data.schema import ITEM, TIMESTAMP, USER
from rec_data.sequences.store import SequenceStore
from rec_data.ties import resolve_ties

EXAMPLES = 5
"""How many of the skipped items and users are listed."""


@dataclass(frozen=True)
class Skipped:
    """Items or users of a log that could not be used."""

    ids: pa.Array
    """Their distinct original ids."""
    events: int
    """Rows of the log that hold them."""

    @property
    def count(self) -> int:
        """Number of distinct items or users."""
        return len(self.ids)

    @property
    def examples(self) -> list[object]:
        """Original ids of the first few."""
        return list(self.ids[:EXAMPLES].to_pylist())

    @classmethod
    def none(cls) -> Self:
        """Nothing that was skipped."""
        return cls(pa.nulls(0), 0)

    def joined(self, other: Self) -> Self:
        """What was skipped in two logs with ids of the same type."""
        if not len(self.ids) or not len(other.ids):
            return type(self)(self.ids if len(self.ids) else other.ids, self.events + other.events)
        return type(self)(pa.concat_arrays([self.ids, other.ids]).unique(), self.events + other.events)


@dataclass(frozen=True)
class Histories:
    """The histories of a log over a model's catalogue."""

    store: SequenceStore
    """One row per user with at least one known item, oldest item first; ``user_ids`` index ``user_names``."""
    user_names: pa.Array
    """Original ids of all users of the log, in order of their first row."""
    unknown_items: Skipped
    """Items of the log that the catalogue lacks."""
    empty_users: Skipped
    """Users without any known item, who have no history."""


def read_histories(
    log: Path,
    item_names: pa.Array,
    *,
    tie_seed: int | None,
    min_user_count: int = 1,
    users: Collection[str] | None = None,
) -> Histories:
    """Read the histories of a log.

    Args:
        log: A parquet file with ``user_id``, ``item_id`` (integers or strings) and ``timestamp`` (integers). The events
            of a user are sorted by time.
        item_names: ``[V]`` distinct original item ids by dense id.
        tie_seed: Seed of the order of events with equal times, as in a split (``rec_data.ties``); None keeps the order
            of rows.
        min_user_count: Minimum number of events on known items that a user must have, at least 1.
        users: Read only the events of these users, whose ids are given as text; None reads all.

    Raises:
        DataError: The file cannot be read, or lacks a column.
    """
    with _Log(log) as opened:
        rows = None if users is None else opened.rows_of(users)
        return _histories(
            lambda name: opened.column(name, rows), item_names, tie_seed=tie_seed, min_user_count=min_user_count
        )


def table_histories(rows: pa.Table, item_names: pa.Array, *, tie_seed: int | None) -> Histories:
    """Take the histories of rows in memory, with the columns and the arguments of `read_histories`."""
    return _histories(lambda name: _in_one_piece(rows[name]), item_names, tie_seed=tie_seed, min_user_count=1)


def read_catalogue(
    log: Path, *, min_item_count: int | None, min_user_count: int | None, tie_seed: int | None
) -> tuple[Histories, pa.Array]:
    """Read the histories of a log and the catalogue of its items, filtered as in a split.

    First items with too few events are dropped, then users with too few remaining events; None keeps all.

    Returns:
        The histories, and the ``[V]`` original item ids by dense id, sorted.

    Raises:
        DataError: As ``read_histories``, or the filters leave no user.
    """
    with _Log(log) as opened:
        counted = opened.column(ITEM).value_counts()
        names, counts = counted.field(0), counted.field(1)
        names = names.filter(pc.greater_equal(counts, min_item_count or 1))
        names = names.take(pc.array_sort_indices(names))
        found = _histories(opened.column, names, tie_seed=tie_seed, min_user_count=min_user_count or 1)
    if len(found.store) == 0:
        raise DataError(
            f"log {log}: min_item_count {min_item_count} and min_user_count {min_user_count} leave no user; allowed: "
            "smaller ones"
        )
    return found, names


class _Log:
    """An open log: all that is read is of one file, even if another process replaces it meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path):
            self.file = pq.ParquetFile(path)  # read_table would import pyarrow.dataset

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.file.close()

    def rows_of(self, users: Collection[str]) -> pa.Table:
        """Read the rows of some users, one row group at a time; of a group without them only the column of users."""
        with _reading(self.path, USER):
            schema = self.file.schema_arrow
            wanted = as_ids(users, schema.field(USER).type)
            found = [schema.empty_table()]
            for group in range(self.file.num_row_groups):
                kept = pc.is_in(self.file.read_row_group(group, [USER])[USER], value_set=wanted)
                if pc.any(kept).as_py():
                    found.append(self.file.read_row_group(group).filter(kept))
            return pa.concat_tables(found)

    def column(self, name: str, rows: pa.Table | None = None) -> pa.Array:
        """Read a column, or take it of some of the rows: in one piece, strings with 64-bit offsets."""
        with _reading(self.path, name):
            column = (self.file.read(columns=[name]) if rows is None else rows)[name]
        return _in_one_piece(column)


def _in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    """A column without chunks, strings with 64-bit offsets."""
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_string())
    combined = column.combine_chunks()
    return combined.combine_chunks() if isinstance(combined, pa.ChunkedArray) else combined


def _histories(
    column: Callable[[str], pa.Array], item_names: pa.Array, *, tie_seed: int | None, min_user_count: int
) -> Histories:
    """The histories of a log, as `read_histories` returns them, from its columns in one piece."""
    encoded = column(USER).dictionary_encode()
    names = encoded.dictionary
    events = column(ITEM)
    kind = _comparable_type(events.type, item_names.type)
    found = pc.index_in(events.cast(kind), value_set=item_names.cast(kind))
    items = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)  # [n], -1: unknown
    rows = encoded.indices.to_numpy(zero_copy_only=False)  # [n] int32
    known = items >= 0
    lengths = np.bincount(rows[known], minlength=len(names))
    enough = lengths >= min_user_count
    present, kept = np.flatnonzero(enough), np.flatnonzero(known & enough[rows])
    times = column(TIMESTAMP).to_numpy(zero_copy_only=False)[kept]
    by_time = np.lexsort((times, rows[kept]))  # stable
    offsets = np.concatenate([[0], np.cumsum(lengths[present])])
    of_users = names.take(pa.array(present))
    ordered, _ = resolve_ties(
        items[kept[by_time]], offsets, times[by_time], users=of_users, catalogue=item_names, seed=tie_seed
    )
    store = SequenceStore(
        items=torch.from_numpy(ordered),
        offsets=torch.from_numpy(offsets),
        user_ids=torch.from_numpy(present.astype(np.int32)),
    )
    unknown = Skipped(events.filter(pa.array(~known)).unique(), int((~known).sum()))
    empty = lengths == 0
    return Histories(store, names, unknown, Skipped(names.filter(pa.array(empty)), int(empty[rows].sum())))


@contextmanager
def _reading(log: Path, name: str = "") -> Iterator[None]:
    """Turn errors while a log or its column is read into errors of one line."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"no log {log}") from None
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise DataError(f"log {log} cannot be read: {' '.join(str(error).split())[:300]}") from error
    except KeyError:
        raise DataError(f"log {log} has no column {name!r}") from None


def _comparable_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type in which ids of both types, integers or strings, can be compared without loss."""
    kinds = (one, other)
    if not all(pa.types.is_integer(kind) for kind in kinds):
        return pa.large_string()
    if one == other:
        return one
    return pa.decimal128(20) if pa.uint64() in kinds else pa.int64()
