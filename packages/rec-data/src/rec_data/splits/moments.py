"""Moments that divide a log, and other facts of its times, from one or several parts of its users."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rec_data import arrays
from rec_data.splits.sorted_log import SortedLog

_BITS = 20
"""Of the number of bins in which times are counted: 8 MiB."""


class TimeRange(NamedTuple):
    """How many times there are, and between which they lie."""

    number: int
    first: int
    last: int


def range_of(logs: Sequence[SortedLog]) -> TimeRange:
    """The range of the times of all parts of a log, which has at least one interaction."""
    ranges = [(len(log.times), int(log.times.min()), int(log.times.max())) for log in logs if len(log.times)]
    numbers, firsts, lasts = zip(*ranges, strict=True)
    return TimeRange(sum(numbers), min(firsts), max(lasts))


def time_at(logs: Sequence[SortedLog], index: int, times: TimeRange) -> int:
    """The time at an index, from 0, of all times in ascending order.

    Times are counted in bins, then those of the bin that holds the index in finer ones, until a bin is one time. Each
    of the two or three rounds reads all parts.
    """
    low, high = times.first, times.last
    while low < high:
        shift = max(0, (high - low).bit_length() - _BITS)
        counts = np.zeros(((high - low) >> shift) + 1, dtype=np.int64)
        for log in logs:
            for block in arrays.blocks(len(log.times)):
                found = log.times[block]
                if (low, high) != (times.first, times.last):
                    found = found[(found >= low) & (found <= high)]
                counts += np.bincount((found - low) >> shift, minlength=len(counts))
        ends = np.cumsum(counts)
        place = int(np.searchsorted(ends, index, side="right"))
        index -= int(ends[place] - counts[place])
        low, high = low + (place << shift), min(high, low + ((place + 1) << shift) - 1)
    return low


def time_before_share(logs: Sequence[SortedLog], share: float, times: TimeRange, *, of: int | None = None) -> int:
    """The time from which on a share of the interactions lies; at least one does.

    With ``of``, the share is one of that many earliest interactions.
    """
    number = times.number if of is None else of
    return time_at(logs, min(int(number * (1 - share)), number - 1), times)
