"""Whole histories for recommending: a log's users with the items that a model knows, original ids kept.

Splitting decides what a model may see; this is for afterwards, when everything may be used. Needs torch, numpy and
pyarrow only, so that it runs where models run.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from rec_data.errors import DataError
from rec_data.schema import INTEGER, ITEM, TIMESTAMP, USER
from rec_data.sequences.store import SequenceStore

EXAMPLES = 5
"""Unknown items and left-out users that are named."""


@dataclass(frozen=True)
class Left:
    """What could not be used."""

    count: int
    """How many different ones."""

    events: int
    """Rows of the log that they stand in."""

    examples: list[object]
    """The first few, original ids."""


@dataclass(frozen=True)
class Histories:
    """The histories of a log over a model's catalogue."""

    store: SequenceStore
    """One row per user with a known item, oldest item first; ``user_ids`` index ``user_names``."""

    user_names: pa.Array
    """Original ids of all users of the log, in the order in which they first appear."""

    unknown_items: Left
    """Items of the log that the catalogue does not hold; they are skipped."""

    empty_users: Left
    """Users without a single known item; they have no history."""


def read_histories(log: Path, item_names: pa.Array) -> Histories:
    """Reads the histories of a log.

    Args:
        log: A parquet with ``user_id``, ``item_id`` (integers or strings) and ``timestamp`` (integers). Events of one
            user are sorted by time; ties keep the order of rows.
        item_names: ``[V]`` original item ids by dense id, without repeats.

    Raises:
        DataError: The file cannot be read, or lacks a column.
    """
    users = _column(log, USER).dictionary_encode()
    names = users.dictionary
    events = _column(log, ITEM)
    known = pc.index_in(_alike(events, item_names.type), value_set=item_names)
    items = known.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)  # [n], -1: unknown
    rows = users.indices.to_numpy(zero_copy_only=False)  # [n] int32
    kept = np.flatnonzero(items >= 0)
    times = _column(log, TIMESTAMP).to_numpy(zero_copy_only=False)[kept]
    order = kept[np.lexsort((times, rows[kept]))]  # stable
    lengths = np.bincount(rows[kept], minlength=len(names))
    present = np.flatnonzero(lengths)
    store = SequenceStore(
        items=torch.from_numpy(items[order]),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths[present])])),
        user_ids=torch.from_numpy(present.astype(np.int32)),
    )
    return Histories(store, names, _unknown(events, items), _empty(names, rows, lengths))


def read_catalogue(log: Path, *, min_item_count: int | None, min_user_count: int | None) -> tuple[Histories, pa.Array]:
    """Reads the histories of a log over a catalogue of its own, filtered as a split filters.

    First items with too few events go, then users with too few of what is left.

    Args:
        log: As for ``read_histories``.
        min_item_count: Fewest events of an item; None keeps all.
        min_user_count: Fewest events of a user; None keeps all.

    Returns:
        The histories, and ``[V]`` the original item ids by dense id, sorted.

    Raises:
        DataError: As ``read_histories``, or the filters leave nothing.
    """
    counted = _column(log, ITEM).value_counts()
    names, counts = counted.field(0), counted.field(1)
    names = names.filter(pc.greater_equal(counts, min_item_count or 1))
    names = names.take(pc.array_sort_indices(names))
    found = read_histories(log, names)
    enough = (found.store.lengths >= (min_user_count or 1)).numpy()
    if not enough.any():
        raise DataError(f"log {log}: no user is left with {min_user_count} events of items with {min_item_count}")
    lengths = found.store.lengths.numpy()
    store = SequenceStore(
        items=found.store.items[torch.from_numpy(np.repeat(enough, lengths))],
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths[enough])])),
        user_ids=found.store.user_ids[torch.from_numpy(enough)],
    )
    return Histories(store, found.user_names, found.unknown_items, found.empty_users), names


def _column(log: Path, name: str) -> pa.Array:
    """A column in one piece, strings with 64-bit offsets."""
    try:
        column = pq.read_table(log, columns=[name])[name]
    except FileNotFoundError:
        raise DataError(f"no log {log}") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"log {log} cannot be read: {' '.join(str(error).split())[:300]}") from error
    except KeyError:
        raise DataError(f"log {log} has no column {name!r}") from None
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_string())
    combined = column.combine_chunks()
    return combined.combine_chunks() if isinstance(combined, pa.ChunkedArray) else combined


def _alike(events: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Item ids in the catalogue's type; null where an id cannot be one of the catalogue's."""
    if events.type == wanted:
        return events
    text = pa.types.is_large_string(events.type)
    if pa.types.is_integer(wanted) and text:
        whole = pc.match_substring_regex(events, INTEGER)
        return pc.if_else(whole, events, pa.scalar(None, events.type)).cast(wanted)
    return events.cast(wanted)


def _unknown(events: pa.Array, items: npt.NDArray[np.int32]) -> Left:
    unknown = events.filter(pa.array(items < 0)).unique() if (items < 0).any() else events[:0]
    return Left(len(unknown), int((items < 0).sum()), unknown[:EXAMPLES].to_pylist())


def _empty(names: pa.Array, rows: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> Left:
    empty = np.flatnonzero(lengths == 0)
    events = int(np.bincount(rows, minlength=len(names))[empty].sum()) if len(empty) else 0
    return Left(len(empty), events, [names[int(place)].as_py() for place in empty[:EXAMPLES]])
