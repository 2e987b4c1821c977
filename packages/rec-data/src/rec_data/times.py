"""Times of a raw log to integers.

The log keeps the resolution of its source: the time column holds whole Unix seconds where every time is a whole
second, otherwise milliseconds, otherwise microseconds. Cutting milliseconds down to seconds would turn order into
ties, and move the boundary of the temporal split. The unit can be told from the size of the numbers alone, because
the ranges of plausible times in seconds, milliseconds and so on do not meet (``unit_of``).
"""

import datetime as dt

from rec_data.errors import DataError

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Ticks per second of every unit."""

EARLIEST_TIME = 315_532_800
"""1980-01-01: a time before it is a mistake, where the column is a clock."""

EARLIEST_CLOCK = 631_152_000
"""1990-01-01: a column whose median is before it holds positions, not dates."""

LATEST_SECOND = 7_258_118_400
"""2200-01-01: a time after it is a mistake, not a time."""

UNIT_LIMIT = 10**11
"""Magnitudes below it are seconds (to the year 5138), below 1000 times it milliseconds (from 1973 on), and so on."""


def unit_of(largest: int) -> str:
    """The unit of a time column, told from its largest value.

    Args:
        largest: The largest value of the column, >= 0.

    Returns:
        One of the keys of ``UNITS``.
    """
    limit = UNIT_LIMIT
    for unit in UNITS:
        if largest < limit:
            return unit
        limit *= 1000
    return "ns"


def to_datetime(value: int) -> dt.datetime:
    """A time of a log as a UTC datetime.

    Args:
        value: Ticks in the unit that ``unit_of(value)`` names.
    """
    seconds = value / UNITS[unit_of(value)]
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC)


def check_range(smallest: float, largest: float, *, where: str) -> str:
    """Refuses times that cannot be true, and names the unit of the others.

    Args:
        smallest: The smallest value of the column.
        largest: The largest value of the column.
        where: The column, for messages.

    Returns:
        One of the keys of ``UNITS``.

    Raises:
        DataError: Negative times, times after the year 2200, or units mixed in one column.
    """
    if smallest < 0:
        raise DataError(f"{where} holds negative times (smallest {smallest:g}); allowed: Unix times from 1970 on")
    unit = unit_of(int(largest))
    if largest / UNITS[unit] > LATEST_SECOND:
        raise DataError(
            f"{where} holds {largest:.0f}, which is no time before the year 2200 in seconds, milliseconds, "
            "microseconds or nanoseconds"
        )
    if unit != "s" and unit_of(int(smallest)) != unit:
        raise DataError(
            f"{where} mixes units: its times run from {smallest:.0f} to {largest:.0f}; allowed: one of seconds, "
            "milliseconds, microseconds or nanoseconds for the whole column"
        )
    return unit
