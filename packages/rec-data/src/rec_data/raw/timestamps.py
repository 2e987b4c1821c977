"""The time column of a raw table, of any type, as integers.

The log keeps the resolution of its source: whole Unix seconds if every time is a whole second, otherwise milliseconds,
microseconds or nanoseconds. Truncating times would turn order into ties, make different events look like duplicates,
and move the boundary of the temporal split. The unit follows from the size of the numbers alone (``unit_of``), because
the ranges of plausible times in seconds, milliseconds and so on do not overlap.
"""

import datetime as dt
import re
from typing import Any

import polars as pl

from rec_data.errors import DataError
from rec_data.raw.calendar_numbers import refuse_calendar_numbers, width
from rec_data.raw.rows import EXACT_BITS, find_rows, refuse_inexact, refuse_unparsed
from rec_data.schema import TIMESTAMP, UNITS
from rec_data.stated import stated

EARLIEST_TIME = 315_532_800
"""1980-01-01: an earlier time is an error if the column is a clock."""

EARLIEST_CLOCK = 631_152_000
"""1990-01-01, the first time that ``of_a_clock`` takes for a date."""

LATEST_SECOND = 7_258_118_400
"""2200-01-01: a later time is an error."""

UNIT_LIMIT = 10**11
"""Magnitudes below it are seconds (to the year 5138), below 1000 times it milliseconds (from 1973 on), and so on."""

NUMBER = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
"""Text that is a number."""

FINER = r"^.*[.,][0-9]{6}([0-9]{0,2}[1-9])"
"""Text of a time with a fraction that microseconds do not hold; its group is the digits after those of microseconds."""
_ZONE = r"[Tt ][0-9].*([Zz]|UTC|GMT|[+-][0-9]{2}(:?[0-9]{2})?)$"
_FIRST_ROWS = 1000
_FORMS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y%m%dT%H%M%S%.f", "%Y%m%dT%H%M")
"""The forms of ISO 8601 after `_clocks` has unified them; `_OFFSET` follows where there are zones."""
_OFFSET = "%#z"
_QUICK = (
    "%Y-%m-%d",
    *(
        f"%Y-%m-%d{gap}%H:%M:%S{fraction}{zone}"
        for fraction in ("", ".%3f", ".%6f", "%.f")
        for zone in ("", "Z", "+00:00", "+00", " UTC", _OFFSET)
        for gap in "T "
    ),
)
"""Forms that polars parses several times faster alone than all forms of ISO 8601."""
_NANOSECONDS = 9
"""Decimal places of seconds."""


def unit_of(largest: int) -> str:
    """Infer the unit of a time column, one of the keys of ``UNITS``, from its largest value (>= 0)."""
    return next((unit for unit, ticks in UNITS.items() if largest < UNIT_LIMIT * ticks), "ns")


def of_a_clock(times: Any, unit: str) -> Any:
    """Say which times (an array or an expression) are dates and not positions: those from 1990 on.

    A column or a log has a clock if more than half of its times are dates.
    """
    return times >= EARLIEST_CLOCK * UNITS[unit]


def to_datetime(value: int) -> dt.datetime:
    """Convert a time of a log, in ticks of the unit ``unit_of(value)``, to a UTC datetime."""
    return dt.datetime.fromtimestamp(value / UNITS[unit_of(value)], tz=dt.UTC)


def time_expression(
    frame: pl.LazyFrame, kind: pl.DataType, facts: dict[str, Any], where: str, time_format: str | None = None
) -> tuple[pl.Expr, str]:
    """Build the expression that turns a raw column into the log's times (int64), and find their unit.

    Args:
        frame: The raw table, its time column named ``timestamp``, text without spaces at its ends.
        kind: The type of the time column.
        facts: ``rows``; for a string column ``timestamp.integers`` (whether all values are Int64) and
            ``timestamp.numbers`` (how many are numbers) and ``timestamp.finer`` (whether a value is as ``FINER``), for
            a float column ``timestamp.finite`` (whether all are).
        where: What is being read and the column's name in it, for messages.
        time_format: The strftime format of the column; None recognizes Unix times and ISO 8601.

    Raises:
        DataError: A wrong type, text that does not parse, or impossible times.
    """
    allowed = (
        "a Unix time or ISO 8601 (2024-01-31 12:00:00, with or without zone), one kind in the whole column; another "
        f"form by its format, such as {stated({'download.time_format': '%d.%m.%Y %H:%M'})}; another column by "
        f"{stated({'download.columns.timestamp': 'NAME'})}"
    )
    calendar = True  # whether times come from a calendar, in microseconds, and not from bare numbers
    finer = kind == pl.String and facts[f"{TIMESTAMP}.finer"]
    if time_format is not None:
        columns, finer = [_formatted(kind, time_format, where)], finer and ".%f" in time_format.replace("%.f", ".%f")
        other = stated({"download.time_format": None})
        allowed = f"times in the form of download.time_format, found {time_format!r}; {other} recognizes ISO 8601"
    elif kind == pl.String and 2 * facts[f"{TIMESTAMP}.numbers"] <= facts["rows"]:
        columns = _clocks(frame)  # a few numbers do not make other text numbers
    elif kind == pl.Date or isinstance(kind, pl.Datetime):
        columns = [pl.col(TIMESTAMP).cast(pl.Datetime("us")).dt.epoch("us")]
        if getattr(kind, "time_unit", None) == "ns":
            finer = not _are_whole(frame, pl.col(TIMESTAMP).dt.nanosecond() / 1000)
    else:
        columns, calendar = [_numbers(frame, kind, facts, where)], False
    for column in columns:
        found = _bounds(frame, column, integers=calendar or kind.is_integer())
        if not found["nulls"]:
            break
    else:
        refuse_unparsed(frame, TIMESTAMP, column, where=where, allowed=allowed)
    if not calendar:
        ticks = UNITS[unit_of(int(found["max"]))]
        refuse_calendar_numbers(frame, column, where, smallest=found["min"], largest=found["max"], ticks=ticks)
    if kind == pl.String and not (calendar or facts[f"{TIMESTAMP}.integers"]):
        _refuse_cut_digits(frame, where)
    unit = _find_unit(frame, column, found, calendar=calendar, where=where)
    if calendar and finer:
        _refuse_unclear_unit(found["max"] * 1000, "ns", where)
        return column * 1000 + _after_microseconds(kind), "ns"
    if not found["whole"] and unit != "ns":
        finest = "us" if kind.is_float() or _are_whole(frame, column * (UNITS["us"] // UNITS[unit])) else "ns"
        factor = UNITS[finest] // UNITS[unit]
        _refuse_unclear_unit(int(found["max"] * factor), finest, where)
        return (column * factor).round().cast(pl.Int64), finest
    powers = list(UNITS).index(unit)  # how many factors of 1000 lie between this unit and seconds
    coarser = max((power for power in range(1, powers + 1) if found[f"{power}"]), default=0)
    if unit == "ns" and kind.is_float():  # a float of this size is up to 256 ns off (512 ns from 2116 on)
        coarser, column = max(coarser, 1), (column / 1000).round().cast(pl.Int64) * 1000
    unit = list(UNITS)[powers - coarser]
    _refuse_unclear_unit(int(found["max"]) // 1000**coarser, unit, where)
    return column.cast(pl.Int64) // 1000**coarser, unit


def _bounds(frame: pl.LazyFrame, column: pl.Expr, *, integers: bool) -> dict[str, Any]:
    """Gather in one pass how many times are missing, their range, and what divides them."""
    whole = pl.lit(True) if integers else (column % 1 == 0).all()
    divisible = [(column % 1000**power == 0).all().alias(f"{power}") for power in (1, 2, 3)]
    asked = [column.min().alias("min"), column.max().alias("max"), whole.alias("whole"), *divisible]
    asked.append(column.null_count().alias("nulls"))
    return frame.select(asked).collect(engine="streaming").row(0, named=True)


def _numbers(frame: pl.LazyFrame, kind: pl.DataType, facts: dict[str, Any], where: str) -> pl.Expr:
    """Numbers of any type, without loss; null where 64 bits do not hold them, or where text is no number."""
    column = pl.col(TIMESTAMP)
    if kind == pl.String and not facts[f"{TIMESTAMP}.integers"]:
        return column.cast(pl.Decimal(38, _NANOSECONDS), strict=False)
    if kind == pl.String or kind.is_integer():
        return column.cast(pl.Int64, strict=False)
    if kind.is_decimal():
        return column.cast(pl.Decimal(38, _NANOSECONDS), strict=False)
    if not kind.is_float():
        raise DataError(f"{where} holds {kind}; allowed for times: integers, floats, dates, or ISO 8601 strings")
    if not facts[f"{TIMESTAMP}.finite"]:
        raise DataError(f"{where} holds NaN or infinite times; allowed: numbers")
    if EXACT_BITS[kind] < EXACT_BITS[pl.Float64()]:
        refuse_inexact(frame, TIMESTAMP, kind, where=where, allowed="allowed for times: integers, float64 or dates")
    return column.cast(pl.Float64)


def _refuse_cut_digits(frame: pl.LazyFrame, where: str) -> None:
    """Refuse text such as 1.70E+12, which has fewer digits than the number."""
    text = pl.col(TIMESTAMP).str
    if not frame.select(text.contains("[eE]").any()).collect(engine="streaming").item():
        return
    decimals = text.extract(r"\.([0-9]*)[eE]").str.len_bytes().fill_null(0)
    exponent = text.extract(r"[eE]\+?([0-9]+)$").cast(pl.Int64, strict=False).fill_null(0)
    one, many = "1 number whose last digits were cut", "numbers whose last digits were cut"
    if found := find_rows(frame, exponent > decimals, one, many, show=TIMESTAMP):
        raise DataError(f"{where} has {found}; allowed: all digits, such as 1700000000123; export the column as text")


def _find_unit(frame: pl.LazyFrame, column: pl.Expr, found: dict[str, Any], *, calendar: bool, where: str) -> str:
    """The unit of a column, whose times must be possible and all of this unit; ``calendar``: it is microseconds.

    Raises:
        DataError: Negative times, times after the year 2200, several units in one column, or zeros and similar values
            among real times.
    """
    smallest, largest = found["min"], found["max"]
    unit = "us" if calendar else unit_of(int(largest))
    ticks = UNITS[unit]
    if smallest < 0:
        negative = find_rows(frame, column < 0, "1 time before 1970", "times before 1970", show=TIMESTAMP)
        why = "a year of two digits is %y in download.time_format" if calendar else "negative numbers are no Unix times"
        raise DataError(f"{where} holds {negative}; allowed: none, {why}")
    if largest > LATEST_SECOND * ticks:
        one, many = "1 time after the year 2200", "times after the year 2200"
        late = find_rows(frame, column > LATEST_SECOND * ticks, one, many, show=TIMESTAMP)
        raise DataError(
            f"{where} holds {late}; allowed: times before the year 2200 in seconds, milliseconds, microseconds or "
            f"nanoseconds; dates such as 20240131120000 by {stated({'download.time_format': '%Y%m%d%H%M%S'})}"
        )
    same_unit = calendar or unit_of(int(smallest)) == unit
    # If most times are later than 1990, the column is a clock. A time of another unit is early only in seconds too.
    earliest = EARLIEST_TIME * (ticks if same_unit else 1)
    mostly = of_a_clock(column, unit).mean() > 0.5
    if smallest < earliest and frame.select(mostly).collect(engine="streaming").item():
        early = find_rows(frame, column < earliest, "1 time before 1980", "times before 1980", show=TIMESTAMP)
        raise DataError(
            f"{where} holds {early} among real times; allowed: none before 1980 if most times are later than 1990"
        )
    if unit != "s" and not same_unit:
        first = unit_of(int(frame.select(column.first()).collect(engine="streaming").item()))
        limit = UNIT_LIMIT * UNITS[first]
        other = (column >= limit) | (column < (limit // 1000 if first != "s" else 0))
        others = find_rows(frame, other, "1 is in another unit", "are in another unit", show=TIMESTAMP)
        raise DataError(
            f"{where} mixes units: its times begin in {first}, and {others}; allowed: one of seconds, milliseconds, "
            "microseconds or nanoseconds for the whole column"
        )
    return unit


def _after_microseconds(kind: pl.DataType) -> pl.Expr:
    """The nanoseconds, from 0 to 999, that a column of dates or text has after its whole microseconds."""
    if kind != pl.String:
        return pl.col(TIMESTAMP).dt.nanosecond().cast(pl.Int64) % 1000
    return pl.col(TIMESTAMP).str.extract(FINER).str.pad_end(3, "0").cast(pl.Int64).fill_null(0)


def _are_whole(frame: pl.LazyFrame, column: pl.Expr) -> bool:
    return bool(frame.select((column % 1 == 0).all()).collect(engine="streaming").item())


def _refuse_unclear_unit(largest: int, unit: str, where: str) -> None:
    """Refuse a log whose unit would not follow from its numbers."""
    if unit_of(largest) != unit:
        raise DataError(f"{where} holds fractions of a second but no time after 1973; allowed: whole seconds")


def _clocks(frame: pl.LazyFrame) -> list[pl.Expr]:
    """Ways to parse ISO 8601 text to microseconds, the quickest first; the last one parses all forms.

    The majority of the first rows decides whether times carry zones.
    """
    text = pl.col(TIMESTAMP)
    head = frame.head(_FIRST_ROWS).select(text).collect(engine="streaming")
    zoned = float(head.select(text.str.contains(_ZONE).mean()).item()) > 0.5
    quick = (_parse(text, form) for form in _QUICK)
    ways = [next((way for way in quick if head.select(way.is_not_null().all()).item()), None)]
    canonical = text.str.replace(r"^([0-9]{4}-?[0-9]{2}-?[0-9]{2})[Tt ]", "${1}T").str.replace(",", ".", literal=True)
    if zoned:
        canonical = canonical.str.replace(r" *([Zz]|UTC|GMT)$", "Z").str.replace(r" +([+-])", "${1}")
        forms = [form + _OFFSET for form in _FORMS]
    else:
        forms = [*_FORMS, "%Y-%m-%d"]
    ways.append(pl.coalesce(_parse(canonical, form) for form in forms))
    return [way for way in ways if way is not None]


def _parse(text: pl.Expr, form: str) -> pl.Expr:
    """Microseconds of text in a strftime format; null where it does not parse."""
    return text.str.to_datetime(form, strict=False, time_unit="us").dt.epoch("us")


def _formatted(kind: pl.DataType, time_format: str, where: str) -> pl.Expr:
    """Parse a column of text, or of numbers such as 20240131, by the user's format."""
    if not (kind == pl.String or kind.is_numeric()):
        raise DataError(f"{where} holds {kind}, but download.time_format is given; allowed: text, or no time_format")
    text, form = pl.col(TIMESTAMP), time_format.replace(".%f", "%.f")  # Python's notation; %f would count nanoseconds
    if kind.is_float() or kind.is_decimal():
        text = pl.when(text % 1 == 0).then(text.cast(pl.Int64, strict=False))
    text = text.cast(pl.String)
    if "." not in form:
        text = text.str.replace(r"^([0-9]+)\.0+$", "${1}")  # integers as a tool writes them that knows only floats
    if digits := width(form):
        text = text.str.zfill(digits)  # numbers lose leading zeros
    if re.search(r"%[-_0]?[HIkl]", form) and not re.search(r"%[-_0]?[MRTXrcs+]", form):  # polars demands minutes
        text, form = text + ":00", form + ":%M"
    try:
        pl.Series(["x"]).str.to_datetime(form, strict=False)
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).partition("\n")[0].split())
        raise DataError(
            f"download.time_format: found {time_format!r}, allowed: a format such as '%d.%m.%Y %H:%M'; {reason}"
        ) from error
    return _parse(text, form)
