"""Dates that are written as numbers, such as 20240131 or 310124, which would pass for Unix times or positions.

A column is such dates if almost all of its values are valid in one of the forms, from 1990 to next year. A column of
positions or of Unix times practically never is. With two digits of the year it is less rare, so that numbers that could
be Unix times of these years must also spread over several dates.
"""

import datetime as dt
import re

import polars as pl

from rec_data.errors import DataError
from rec_data.raw.rows import find_rows
from rec_data.schema import TIMESTAMP
from rec_data.stated import stated

FIRST_YEAR = 1990
_FIRST_ROWS = 1000
_ALMOST_ALL, _MOST = 0.95, 0.5
_LONG = 8
"""From so many digits on, numbers are so rarely dates by chance that most of a column is enough."""
_DATES = ("%Y%m%d", "%d%m%Y", "%m%d%Y", "%y%m%d", "%d%m%y", "%m%d%y")
_TIMES = ("", "%H", "%H%M", "%H%M%S")
FORMS = ("%Y", "%Y%m", "%m%Y", "%Y%j", *(date + time for date in _DATES for time in _TIMES))
"""Forms of dates that are written as one number."""
_WIDTHS = {"Y": 4, "j": 3} | dict.fromkeys("ymdHMS", 2)
_RANGES = {"j": (1, 366), "m": (1, 12), "d": (1, 31), "H": (0, 23), "M": (0, 59), "S": (0, 59)}
_SHORTEST = 10_000
"""The largest number of a column of dates with two digits of the year is at least this; smaller ones are positions."""
_DISTINCT_DATES = 4
"""In so many dates a column differs if it is not read as the Unix times of the last decades that it could be."""
_DAYS = {
    "in days, as a spreadsheet counts them": 25_569,
    "in days since 1970": 0,
    "in Julian days": 2_440_587.5,
    "in days, as MATLAB counts them": 719_529,
}
"""The number of 1970-01-01. Only those of a spreadsheet are refused without a fraction too: others may be positions."""
_DAY = dt.timedelta(days=1)
_TICKS = {
    "in .NET ticks (100 ns since the year 1)": (dt.datetime(1, 1, 1), 10),
    "in Windows file times (100 ns since 1601)": (dt.datetime(1601, 1, 1), 10),
    "in UUID times (100 ns since 1582)": (dt.datetime(1582, 10, 15), 10),
    "in times of Chrome (microseconds since 1601)": (dt.datetime(1601, 1, 1), 1),
}
"""When they begin, and how many make a microsecond."""
_MICROSECOND = dt.timedelta(microseconds=1)
_EPOCH = dt.datetime(1970, 1, 1)
_EXPORT = "an export of the column as text, such as 2024-01-31 12:00:00"


def width(form: str) -> int:
    """The digits of a number of this strftime format; 0 if the format has more than digits of a fixed width."""
    return sum(_WIDTHS[kind] for kind in _kinds(form))


def _kinds(form: str) -> list[str]:
    return re.findall("%(.)", form) if re.fullmatch("(%[YjymdHMS])+", form) else []


def refuse_calendar_numbers(
    frame: pl.LazyFrame, column: pl.Expr, where: str, *, smallest: float, largest: float, ticks: int
) -> None:
    """Refuse a column of numbers that are dates in one of ``FORMS``, or count from another year than 1970.

    Args:
        frame: The raw table with the column ``timestamp``.
        column: Its times as numbers.
        where: What is being read and the column's name in it, for messages.
        smallest: The first time.
        largest: The last time.
        ticks: The numbers per second, if they are Unix times.

    Raises:
        DataError: The column holds such dates.
    """
    after = dt.datetime(dt.datetime.now(tz=dt.UTC).year + 2, 1, 1)
    fits = {what: fit for what, fit in _as_dates(column, after).items() if "%y" not in what or largest >= _SHORTEST}
    given = column != 0  # what tools write for a missing date
    shares = {what: fit.fill_null(value=False).filter(given).mean().alias(what) for what, fit in fits.items()}
    likely = frame.head(_FIRST_ROWS).select(shares.values()).collect(engine="streaming").row(0, named=True)
    asked = [shares[what] for what, share in likely.items() if share is None or share > 0.5]
    if not asked:
        return
    whole = frame.select(asked).collect(engine="streaming").row(0, named=True)
    least = {what: _MOST if "%Y" in what and width(what) >= _LONG else _ALMOST_ALL for what in whole}
    kinds = [what for what, share in whole.items() if share is not None and share >= least[what]]
    first, end = (int((date - _EPOCH).total_seconds()) * ticks for date in (dt.datetime(FIRST_YEAR, 1, 1), after))
    if first <= smallest and largest < end:  # they can be Unix times
        dates = [_date_part(column, what).n_unique().alias(what) for what in kinds if "%y" in what]
        counts = frame.select(dates).collect(engine="streaming").row(0, named=True) if dates else {}
        kinds = [what for what in kinds if counts.get(what, _DISTINCT_DATES) >= _DISTINCT_DATES]
    if not kinds:
        return
    forms, others = ([what for what in kinds if (what in FORMS) == is_form] for is_form in (True, False))
    what = " or ".join([f"of the form {' or '.join(forms)}"] * bool(forms) + others)
    shown = find_rows(frame, fits[kinds[0]], f"1 date {what}", f"dates {what}", show=TIMESTAMP)
    cure = " or ".join([stated({"download.time_format": form}) for form in forms] + [_EXPORT] * bool(others))
    raise DataError(
        f"{where} holds {shown}, which are no Unix times; allowed: {cure}; if they are positions, "
        f"{stated({'download.columns.timestamp': None})} takes the order of rows"
    )


def _as_dates(column: pl.Expr, after: dt.datetime) -> dict[str, pl.Expr]:
    """For each kind of dates whether a number is one, from ``FIRST_YEAR`` to before ``after``."""
    first = dt.datetime(FIRST_YEAR, 1, 1)
    fits = {form: _has_form(column, form, after.year - 1) for form in FORMS}
    for what, of_1970 in _DAYS.items():
        earliest, latest = ((date - _EPOCH) / _DAY + of_1970 for date in (first, after))
        days = column.is_between(earliest, latest, closed="left")
        fits[what] = days if "spreadsheet" in what else days & (column % 1 != 0)
    for what, (zero, ticks) in _TICKS.items():
        begin, end = ((date - zero) // _MICROSECOND * ticks for date in (first, after))
        fits[what] = column.is_between(begin, end, closed="left")
    return fits


def _has_form(column: pl.Expr, form: str, last: int) -> pl.Expr:
    """Whether numbers, without their leading zeros, are dates of a form from ``FIRST_YEAR`` to the year ``last``."""
    whole, places = column.cast(pl.Int64, strict=False), 0
    fit: pl.Expr = column % 1 == 0
    for kind in reversed(_kinds(form)):
        part = whole // 10**places
        places += _WIDTHS[kind]
        if places < width(form):
            part = part % 10 ** _WIDTHS[kind]
        if kind == "Y":
            fit &= part.is_between(FIRST_YEAR, last)
        elif kind == "y":
            fit &= part.is_between(FIRST_YEAR % 100, 99) | part.is_between(0, last % 100)
        else:
            fit &= part.is_between(*_RANGES[kind])
    return fit


def _date_part(column: pl.Expr, form: str) -> pl.Expr:
    """The digits of the date without those of the time of day."""
    digits = sum(_WIDTHS[kind] for kind in _kinds(form) if kind in "HMS")
    date: pl.Expr = column.cast(pl.Int64, strict=False) // 10**digits
    return date
