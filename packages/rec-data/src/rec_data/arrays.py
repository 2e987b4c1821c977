"""Operations on flat arrays of hundreds of millions of rows, without temporaries of eight bytes per row.

Numpy converts every index array to 64 bits before it uses it. Working block by block keeps that copy small.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BLOCK = 1 << 22

_T = TypeVar("_T", bound=np.generic)

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def blocks(rows: int) -> Iterator[slice]:
    """Yield slices that cover ``rows`` rows."""
    for start in range(0, rows, BLOCK):
        yield slice(start, min(start + BLOCK, rows))


def lookup(values: npt.NDArray[_T], ids: Int32s) -> npt.NDArray[_T]:
    """Return ``values[ids]``: ``[size]`` of any dtype and ``[n]`` int32 give ``[n]``."""
    found = np.empty(len(ids), dtype=values.dtype)
    for block in blocks(len(ids)):
        found[block] = values[ids[block]]
    return found


def count(ids: Int32s, size: int) -> Int64s:
    """Count how often each id from 0 to ``size - 1`` occurs: ``[n]`` int32 ids give ``[size]`` int64."""
    counts = np.zeros(size, dtype=np.int64)
    for block in blocks(len(ids)):
        counts += np.bincount(ids[block], minlength=size)
    return counts


def mark(ids: Int32s, size: int) -> Mask:
    """Mark the ids from 0 to ``size - 1`` that occur: ``[n]`` int32 ids give ``[size]`` bool."""
    marked = np.zeros(size, dtype=bool)
    for block in blocks(len(ids)):
        marked[ids[block]] = True
    return marked


def count_rows(mask: Mask, offsets: Int64s) -> Int64s:
    """Count the marked rows of each segment, which may be empty: ``[rows]`` and ``[n + 1]`` offsets give ``[n]``."""
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    filled = np.flatnonzero(np.diff(offsets))
    if filled.size:
        counts[filled] = np.add.reduceat(mask, offsets[filled], dtype=np.int64)
    return counts


def count_repeated(targets: Int32s, items: Int32s, offsets: Int64s) -> int:
    """Count the segments whose target is among their own items: ``[n]``, ``[rows]`` and ``[n + 1]`` offsets."""
    matches = items == np.repeat(targets, np.diff(offsets))
    return int(np.count_nonzero(count_rows(matches, offsets)))


def spread(flags: Mask, offsets: Int64s) -> Mask:
    """Repeat the flag of each segment on all of its rows: ``[n]`` and ``[n + 1]`` offsets give ``[rows]``."""
    return np.repeat(flags, np.diff(offsets))


def chunks(offsets: Int64s, rows: int) -> Iterator[slice]:
    """Divide the segments of ``[n + 1]`` offsets into runs of at most ``rows`` rows, or of one longer segment."""
    start = 0
    while start < len(offsets) - 1:
        stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + rows, side="right")) - 1)
        yield slice(start, stop)
        start = stop


def places(starts: Int64s, sizes: Int64s) -> Int64s:
    """Return the places ``start`` to ``start + size - 1`` of each of ``[n]`` segments, one after another."""
    ends = np.cumsum(sizes)
    found: Int64s = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - sizes), sizes)
    return found


def to_arrow(values: npt.NDArray[Any]) -> pa.Array:
    """View ``[n]`` integers or floats of any type as an Arrow array without nulls.

    ``pa.array`` would do the same, but imports pandas first, which takes longer than everything else that the demo
    needs.
    """
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])
