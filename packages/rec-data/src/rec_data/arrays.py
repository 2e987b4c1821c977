"""Operations on flat arrays of hundreds of millions of rows that make no temporary of eight bytes per row.

Numpy turns every index into 64 bits before it uses it; block by block, that costs nothing that matters.
"""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 22

_T = TypeVar("_T", bound=np.generic)

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def blocks(rows: int) -> Iterator[slice]:
    """Slices that cover ``rows`` rows."""
    for start in range(0, rows, BLOCK):
        yield slice(start, min(start + BLOCK, rows))


def lookup(table: npt.NDArray[_T], ids: Int32s) -> npt.NDArray[_T]:
    """``table[ids]``: [size] of any dtype, [n] int32 to [n]."""
    found = np.empty(len(ids), dtype=table.dtype)
    for part in blocks(len(ids)):
        found[part] = table[ids[part]]
    return found


def count(ids: Int32s, size: int) -> Int64s:
    """How often each id from 0 to ``size - 1`` occurs: [n] int32 ids to [size] int64."""
    counts = np.zeros(size, dtype=np.int64)
    for part in blocks(len(ids)):
        counts += np.bincount(ids[part], minlength=size)
    return counts


def mark(ids: Int32s, size: int) -> Mask:
    """Which ids from 0 to ``size - 1`` occur: [n] int32 ids to [size] bool."""
    marked = np.zeros(size, dtype=bool)
    for part in blocks(len(ids)):
        marked[ids[part]] = True
    return marked


def count_rows(mask: Mask, offsets: Int64s) -> Int64s:
    """How many rows of each segment are set.

    Args:
        mask: [rows] bool.
        offsets: [n + 1] int64 from 0 to rows; a segment may be empty.

    Returns:
        [n] int64.
    """
    counts = np.zeros(len(offsets) - 1, dtype=np.int64)
    filled = np.flatnonzero(np.diff(offsets))
    if filled.size:
        counts[filled] = np.add.reduceat(mask, offsets[filled], dtype=np.int64)
    return counts


def spread(flags: Mask, offsets: Int64s) -> Mask:
    """The flag of each segment at all of its rows.

    Args:
        flags: [n] bool.
        offsets: [n + 1] int64 from 0 to rows.

    Returns:
        [rows] bool.
    """
    return np.repeat(flags, np.diff(offsets))
