"""Whether the times of a log are dates, whether these have a time of day, and moments that the settings name."""

import datetime as dt
from collections.abc import Iterable
from typing import NamedTuple

from rec_data import arrays
from rec_data.arrays import Int64s
from rec_data.errors import DataError
from rec_data.raw.timestamps import of_a_clock, to_datetime, unit_of
from rec_data.schema import UNITS


class DateFacts(NamedTuple):
    """What the times of a log are."""

    clock: bool
    """Dates rather than positions (``rec_data.raw.timestamps.of_a_clock``)."""
    dates_only: bool
    """Dates without a time of day: all at the same one, which is midnight in some zone. One moment alone must be
    midnight in UTC."""


class DateCounts(NamedTuple):
    """What is counted of the times of a part of a log."""

    number: int
    dates: int
    """How many are dates rather than positions."""
    same: bool
    """Whether all have the time of day of the first time of the whole log."""


def count_dates(times: Int64s, first: int, last: int) -> DateCounts:
    """Count in the times of a part of a log, whose times lie from ``first`` to ``last``."""
    unit = unit_of(last)
    day, dates, same = 86_400 * UNITS[unit], 0, True
    for block in arrays.blocks(len(times)):
        dates += int(of_a_clock(times[block], unit).sum())
        same = same and not ((times[block] - first) % day).any()
    return DateCounts(len(times), dates, same)


def date_facts(parts: Iterable[DateCounts], first: int, last: int) -> DateFacts:
    """What the times of a log are, which lie from ``first`` to ``last``."""
    numbers, dates, same = zip(*parts, strict=True)
    clock, midnight = 2 * sum(dates) > sum(numbers), first % (86_400 * UNITS[unit_of(last)]) == 0
    return DateFacts(clock, all(same) and clock and (midnight or first != last))


def _facts_of(times: Int64s) -> DateFacts:
    first, last = int(times.min()), int(times.max())
    return date_facts([count_dates(times, first, last)], first, last)


def has_clock(times: Int64s) -> bool:
    """Whether the times of a log are dates rather than positions."""
    return _facts_of(times).clock


def dates_only(times: Int64s) -> bool:
    """Whether the times of a log are dates without a time of day."""
    return _facts_of(times).dates_only


def to_ticks(moment: int | str, unit: str) -> int:
    """A moment of the settings, a Unix time or ISO 8601, in ticks of a log's unit: the first one not before it."""
    own = "us"
    if isinstance(moment, int):
        own, found = unit_of(moment), moment
    else:
        date = dt.datetime.fromisoformat(moment)
        date = date if date.tzinfo is not None else date.replace(tzinfo=dt.UTC)
        found = (date - dt.datetime.fromtimestamp(0, dt.UTC)) // dt.timedelta(microseconds=1)
    return -(-found * UNITS[unit] // UNITS[own])


def in_words(moment: int) -> str:
    """A moment of a log, and its date in UTC: ``1700000000 (2023-11-14 22:13:20)``."""
    return f"{moment} ({_date(moment)})"


def as_date(moment: int) -> str:
    """A moment of a log as a date, ``2023-11-14 22:13:20 UTC``; one that is a position stays a number."""
    return f"{_date(moment)} UTC" if of_a_clock(moment, unit_of(moment)) else str(moment)


def _date(moment: int) -> str:
    return to_datetime(moment).replace(tzinfo=None).isoformat(" ", "seconds")


def nothing_before(until: int, first: int) -> DataError:
    """What is wrong with a ``split.test_until`` that is not after the first time of the log."""
    return DataError(
        f"split.test_until: found {in_words(until)}, which leaves no interaction; allowed: a moment after the log's "
        f"first one, {in_words(first)}"
    )
