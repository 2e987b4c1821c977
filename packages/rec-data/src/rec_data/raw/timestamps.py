"""The time column of a raw table, of any type, as integers.

The log keeps the resolution of its source: whole Unix seconds if every time is a whole second, otherwise milliseconds,
otherwise microseconds. Truncating milliseconds to seconds would turn order into ties and move the boundary of the
temporal split. The unit follows from the size of the numbers alone (``unit_of``), because the ranges of plausible times
in seconds, milliseconds and so on do not overlap.
"""

import datetime as dt
from typing import Any

import polars as pl

from rec_data.errors import DataError
from rec_data.raw.rows import find_rows, refuse_unparsed
from rec_data.schema import TIMESTAMP

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Ticks per second of every unit."""

EARLIEST_TIME = 315_532_800
"""1980-01-01: an earlier time is an error if the column is a clock."""

EARLIEST_CLOCK = 631_152_000
"""1990-01-01: a column whose median is earlier holds positions, not dates."""

LATEST_SECOND = 7_258_118_400
"""2200-01-01: a later time is an error."""

UNIT_LIMIT = 10**11
"""Magnitudes below it are seconds (to the year 5138), below 1000 times it milliseconds (from 1973 on), and so on."""

NUMBER = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
"""Text that is a number."""

ALLOWED_TIMES = "a Unix time or ISO 8601 (2024-01-31 12:00:00, with or without zone); one kind in the whole column"
_ZONE = r":.*(Z|z|[+-][0-9]{2}:?[0-9]{2})$"
_FIRST_ROWS = 1000
_CLOCKS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")


def unit_of(largest: int) -> str:
    """Infer the unit of a time column, one of the keys of ``UNITS``, from its largest value (>= 0)."""
    return next((unit for unit, ticks in UNITS.items() if largest < UNIT_LIMIT * ticks), "ns")


def to_datetime(value: int) -> dt.datetime:
    """Convert a time of a log, in ticks of the unit ``unit_of(value)``, to a UTC datetime."""
    return dt.datetime.fromtimestamp(value / UNITS[unit_of(value)], tz=dt.UTC)


def check_range(smallest: float, largest: float, *, where: str) -> str:
    """Infer the unit of a column from its smallest and largest value.

    Raises:
        DataError: Negative times, times after the year 2200, or several units in one column.
    """
    if smallest < 0:
        raise DataError(f"{where} holds negative times (smallest {smallest:g}); allowed: Unix times from 1970 on")
    unit = unit_of(int(largest))
    if largest / UNITS[unit] > LATEST_SECOND:
        raise DataError(
            f"{where} holds {largest:.0f}; allowed: times before the year 2200 in seconds, milliseconds, microseconds "
            "or nanoseconds"
        )
    if unit != "s" and unit_of(int(smallest)) != unit:
        raise DataError(
            f"{where} mixes units: its times run from {smallest:.0f} to {largest:.0f}; allowed: one of seconds, "
            "milliseconds, microseconds or nanoseconds for the whole column"
        )
    return unit


def time_expression(frame: pl.LazyFrame, kind: pl.DataType, facts: dict[str, Any], where: str) -> tuple[pl.Expr, str]:
    """Build the expression that turns a raw column into the log's times (int64), and find their unit.

    Args:
        frame: The raw table, its time column named ``timestamp``.
        kind: The type of the time column.
        facts: ``rows``; for a string column ``timestamp.integers`` (whether all values are integers) and
            ``timestamp.numbers`` (how many are numbers), for a float column ``timestamp.finite`` (whether all are).
        where: What is being read and the column's name in it, for messages.

    Raises:
        DataError: A wrong type, text that does not parse, or impossible times.
    """
    column = pl.col(TIMESTAMP)
    known_unit = None  # of integers that come from a calendar, not from a bare number
    if kind == pl.String:
        if facts[f"{TIMESTAMP}.integers"]:
            column = column.cast(pl.Int64)
        elif 2 * facts[f"{TIMESTAMP}.numbers"] > facts["rows"]:  # a few values of other text do not make it dates
            column = pl.when(column.str.contains(NUMBER)).then(column).cast(pl.Float64)
            refuse_unparsed(frame, TIMESTAMP, column, where=where, allowed=ALLOWED_TIMES)
        else:
            column, known_unit = _parse_clock(frame, where), "us"
    elif kind == pl.Date or isinstance(kind, pl.Datetime):
        column, known_unit = column.cast(pl.Datetime("us")).dt.epoch("us"), "us"
    elif not (kind.is_integer() or kind.is_float()):
        raise DataError(f"{where} holds {kind}; allowed for times: integers, floats, dates, or ISO 8601 strings")
    if kind.is_float() and not facts[f"{TIMESTAMP}.finite"]:
        raise DataError(f"{where} holds NaN or infinite times; allowed: numbers")

    whole = (column == column.floor()).all() if known_unit is None else pl.lit(True)
    divisible = [(column % 1000**power == 0).all().alias(f"{power}") for power in (1, 2, 3)]
    asked = [column.min().alias("min"), column.max().alias("max"), whole.alias("whole"), *divisible]
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
    powers = list(UNITS).index(unit)  # how many factors of 1000 lie between this unit and seconds
    coarser = max((power for power in range(1, powers + 1) if found[f"{power}"]), default=0)
    if unit == "ns":
        coarser = max(coarser, 1)
    unit = list(UNITS)[powers - coarser]
    _refuse_unclear_unit(int(found["max"]) // 1000**coarser, unit, where)
    return column.cast(pl.Int64) // 1000**coarser, unit


def _refuse_early(
    frame: pl.LazyFrame, column: pl.Expr, found: dict[str, Any], known_unit: str | None, where: str
) -> None:
    """Refuse zeros and similar values among real times. If most times are later than 1990, the column is a clock."""
    smallest, largest = found["min"], found["max"]
    unit = known_unit or unit_of(int(largest))
    ticks = UNITS[unit]
    if smallest < 0 or largest > LATEST_SECOND * ticks:
        return  # check_range refuses these
    # A time of another unit only counts as early if it is early in seconds too; otherwise units are mixed.
    earliest = EARLIEST_TIME * (ticks if known_unit or unit_of(int(smallest)) == unit else 1)
    if smallest >= earliest:
        return
    mostly = (column >= EARLIEST_CLOCK * ticks).mean() > 0.5
    if frame.select(mostly).collect(engine="streaming").item():
        early = find_rows(frame, column < earliest, "1 time before 1980", "times before 1980", show=TIMESTAMP)
        raise DataError(
            f"{where} holds {early} among real times; allowed: none before 1980 if most times are later than 1990"
        )


def _refuse_unclear_unit(largest: int, unit: str, where: str) -> None:
    """Refuse a log whose unit would not follow from its numbers."""
    if unit_of(largest) != unit:
        raise DataError(f"{where} holds fractions of a second but no time after 1973; allowed: whole seconds")


def _parse_clock(frame: pl.LazyFrame, where: str) -> pl.Expr:
    """Parse ISO 8601 text to microseconds; the majority of the first rows decides whether times carry zones."""
    text = pl.col(TIMESTAMP).str.strip_chars()
    zones = frame.head(_FIRST_ROWS).select(text.str.contains(_ZONE).mean())
    text = text.str.replace(" ", "T", literal=True)
    if float(zones.collect(engine="streaming").item()) > 0.5:
        utc = text.str.replace(r"[zZ]$", "+00:00")
        parsed = utc.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_unit="us", time_zone="UTC")
    else:
        forms = [text.str.to_datetime(clock, strict=False, time_unit="us") for clock in _CLOCKS[:2]]
        forms.append(text.str.to_date(_CLOCKS[2], strict=False).cast(pl.Datetime("us")))
        parsed = pl.coalesce(forms)
    ticks = parsed.dt.epoch("us")
    refuse_unparsed(frame, TIMESTAMP, ticks, where=where, allowed=ALLOWED_TIMES)
    return ticks
