"""The time column of a raw table, whatever its kind, to integers."""

import datetime as dt
from typing import Any

import polars as pl

from rec_data.errors import DataError
from rec_data.raw.ids import first_of, refuse_unparsed
from rec_data.schema import TIMESTAMP

# Times of a raw log to integers.
#
# The log keeps the resolution of its source: the time column holds whole Unix seconds where every time is a whole
# second, otherwise milliseconds, otherwise microseconds. Cutting milliseconds down to seconds would turn order into
# ties, and move the boundary of the temporal split. The unit can be told from the size of the numbers alone, because
# the ranges of plausible times in seconds, milliseconds and so on do not meet (``unit_of``).
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


NUMBER = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
ALLOWED_TIMES = "a Unix time or ISO 8601 (2024-01-31 12:00:00, with or without zone); one kind in the whole column"
_ZONE = r":.*(Z|z|[+-][0-9]{2}:?[0-9]{2})$"
_FIRST_ROWS = 1000
_CLOCKS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")


def time_expression(
    frame: pl.LazyFrame, schema: pl.Schema, facts: dict[str, Any], name: str, origin: str
) -> tuple[pl.Expr, str]:
    """Makes a log's times of a raw column.

    Args:
        frame: The raw table, its time column named ``timestamp``.
        schema: Of ``frame``.
        facts: ``rows``; of a string column ``timestamp.integers`` (whether all are) and ``timestamp.numbers`` (how
            many are), of a float column ``timestamp.finite`` (whether all are).
        name: The column's name in the source, for messages.
        origin: What is being read, for messages.

    Returns:
        The expression of the log's times, int64, and its unit.

    Raises:
        DataError: A wrong type, text that does not parse, or impossible times.
    """
    column, kind, where = pl.col(TIMESTAMP), schema[TIMESTAMP], f"{origin}: column {name!r}"
    known_unit = None  # of integers that come from a calendar, not from a bare number
    if kind == pl.String:
        if facts[f"{TIMESTAMP}.integers"]:
            column = column.cast(pl.Int64)
        elif 2 * facts[f"{TIMESTAMP}.numbers"] > facts["rows"]:  # a few that are none do not make the others dates
            column = pl.when(column.str.contains(NUMBER)).then(column).cast(pl.Float64)
            if facts[f"{TIMESTAMP}.numbers"] < facts["rows"]:
                refuse_unparsed(frame, TIMESTAMP, column, where, ALLOWED_TIMES)
        else:
            column, known_unit = _parse_clock(frame, where), "us"
    elif kind == pl.Date or isinstance(kind, pl.Datetime):
        column, known_unit = column.cast(pl.Datetime("us")).dt.epoch("us"), "us"
    elif not (kind.is_integer() or kind.is_float()):
        raise DataError(f"{where} holds {kind}; allowed for times: integers, floats, dates, or ISO 8601 strings")

    whole = (column == column.floor()).all() if known_unit is None else pl.lit(True)
    divisible = [(column % 1000**power == 0).all().alias(f"{power}") for power in (1, 2, 3)]
    asked = [column.min().alias("min"), column.max().alias("max"), whole.alias("whole"), *divisible]
    if kind.is_float() and not facts[f"{TIMESTAMP}.finite"]:
        raise DataError(f"{where} holds NaN or infinite times; allowed: numbers")
    found = frame.select(asked).collect(engine="streaming").row(0, named=True)

    _refuse_early(frame, column, found, known_unit, where)
    if known_unit is None:
        unit = check_range(found["min"], found["max"], where=where)
    else:
        check_range(found["min"] // 10**6, found["max"] // 10**6, where=where)
        unit = known_unit
    if not found["whole"]:
        finer = UNITS["us"] // UNITS[unit]
        _refuse_unclear_unit(int(found["max"] * finer), "us", where)
        return (column * finer).round().cast(pl.Int64), "us"
    powers = list(UNITS).index(unit)  # how often a thousand of these ticks make the next unit, up to seconds
    coarser = max((power for power in range(1, powers + 1) if found[f"{power}"]), default=0)
    if unit == "ns":
        coarser = max(coarser, 1)
    unit = list(UNITS)[powers - coarser]
    _refuse_unclear_unit(int(found["max"]) // 1000**coarser, unit, where)
    return column.cast(pl.Int64) // 1000**coarser, unit


def _refuse_early(
    frame: pl.LazyFrame, column: pl.Expr, found: dict[str, Any], known_unit: str | None, where: str
) -> None:
    """Refuses a 0, or what is near it, among real times: where most are later than 1990, the column is a clock."""
    smallest, largest = found["min"], found["max"]
    unit = known_unit or unit_of(int(largest))
    ticks = UNITS[unit]
    if smallest < 0 or largest > LATEST_SECOND * ticks:
        return  # refused as such
    # A time of another unit is early only if it is so in seconds too; otherwise units are mixed.
    earliest = EARLIEST_TIME * (ticks if known_unit or unit_of(int(smallest)) == unit else 1)
    if smallest >= earliest:
        return
    mostly = (column >= EARLIEST_CLOCK * ticks).mean() > 0.5
    if frame.select(mostly).collect(engine="streaming").item():
        count, row, value = first_of(frame, column < earliest, TIMESTAMP)
        times = "1 time" if count == 1 else f"{count} times"
        first = "row" if count == 1 else "first in row"
        raise DataError(
            f"{where} holds {times} before 1980 ({first} {row}: {value}) among real ones; allowed: none, where most "
            "times are later than 1990"
        )


def _refuse_unclear_unit(largest: int, unit: str, where: str) -> None:
    """The log's unit must be clear from its numbers."""
    if unit_of(largest) != unit:
        raise DataError(f"{where} holds fractions of a second but no time after 1973; allowed: whole seconds")


def _parse_clock(frame: pl.LazyFrame, where: str) -> pl.Expr:
    """ISO 8601 text to microseconds; most of the first rows decide whether the column carries time zones."""
    zones = pl.col(TIMESTAMP).str.strip_chars().str.contains(_ZONE)
    zoned = float(frame.head(_FIRST_ROWS).select(zones.mean()).collect(engine="streaming").item()) > 0.5
    text = pl.col(TIMESTAMP).str.strip_chars().str.replace(" ", "T", literal=True)
    if zoned:
        utc = text.str.replace(r"[zZ]$", "+00:00")
        parsed = utc.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_unit="us", time_zone="UTC")
    else:
        forms = [text.str.to_datetime(clock, strict=False, time_unit="us") for clock in _CLOCKS[:2]]
        forms.append(text.str.to_date(_CLOCKS[2], strict=False).cast(pl.Datetime("us")))
        parsed = pl.coalesce(forms)
    ticks = parsed.dt.epoch("us")
    refuse_unparsed(frame, TIMESTAMP, ticks, where, ALLOWED_TIMES)
    return ticks
