"""Moments that divide a log, and other facts of its times, from one or several parts of its users."""

from functools import partial
from typing import NamedTuple

import numpy as np

from rec_data import arrays
from rec_data.arrays import Int64s
from rec_data.splits.each_part import Logs, each, total
from rec_data.splits.sorted_log import SortedLog

_BITS = 20
"""Of the number of bins in which times are counted: 8 MiB."""


class TimeRange(NamedTuple):
    """How many times there are, and between which they lie."""

    number: int
    first: int
    last: int


def range_of(logs: Logs) -> TimeRange:
    """The range of the times of all parts of a log, which has at least one interaction."""
    ranges = [found for found in each(logs, _range) if found is not None]
    return TimeRange(
        sum(found.number for found in ranges), min(found.first for found in ranges), max(found.last for found in ranges)
    )


def _range(log: SortedLog) -> TimeRange | None:
    times = log.times
    return TimeRange(len(times), int(times.min()), int(times.max())) if len(times) else None


def time_at(logs: Logs, index: int, times: TimeRange) -> int:
    """The time at an index, from 0, of all times in ascending order.

    Times are counted in bins, then those of the bin that holds the index in finer ones, until a bin is one time. Each
    of the two or three rounds reads all parts.
    """
    low, high = times.first, times.last
    while low < high:
        shift = max(0, (high - low).bit_length() - _BITS)
        counts = total(logs, partial(_count, low=low, high=high, shift=shift))
        ends = np.cumsum(counts)
        place = int(np.searchsorted(ends, index, side="right"))
        index -= int(ends[place] - counts[place])
        low, high = low + (place << shift), min(high, low + ((place + 1) << shift) - 1)
    return low


def _count(log: SortedLog, *, low: int, high: int, shift: int) -> Int64s:
    """How many times lie in each bin of ``2^shift`` times, from ``low`` to ``high``."""
    counts = np.zeros(((high - low) >> shift) + 1, dtype=np.int64)
    for block in arrays.blocks(len(log.times)):
        found = log.times[block]
        found = found[(found >= low) & (found <= high)]
        counts += np.bincount((found - low) >> shift, minlength=len(counts))
    return counts


def time_before_share(logs: Logs, share: float, times: TimeRange, *, of: int | None = None) -> int:
    """The time from which on a share of the interactions lies; at least one does.

    With ``of``, the share is one of that many earliest interactions.
    """
    number = times.number if of is None else of
    return time_at(logs, min(int(number * (1 - share)), number - 1), times)
