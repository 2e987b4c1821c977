"""Rows of a raw table that hold a forbidden value: how many there are, and where the first one is.

A column of lazy frames says where a row comes from. It is not computed unless an error message asks for it, because
polars leaves out columns that are not selected.
"""

import polars as pl

from rec_data.errors import DataError

EXACT_BITS: dict[pl.DataType, int] = {pl.Float16(): 11, pl.Float32(): 24, pl.Float64(): 53}
"""Floats represent every integer exactly whose magnitude is below two to this power."""


PLACE = "place of the row"
"""The column of the file and of the line or row in it: "log.csv, line 5"."""


def placed(frame: pl.LazyFrame, start: str) -> pl.LazyFrame:
    """Turn the column ``PLACE`` of numbers from 0 into text: ``start`` and the number from 1."""
    return frame.with_columns(pl.concat_str(pl.lit(start), pl.col(PLACE) + 1).alias(PLACE))


def numbered(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Add the column ``PLACE`` to a frame whose reader did not: its own rows are counted."""
    return frame if PLACE in frame.collect_schema() else placed(frame.with_row_index(PLACE), "row ")


def find_rows(frame: pl.LazyFrame, wrong: pl.Expr, one: str, many: str, *, show: str | None = None) -> str | None:
    """Describe the rows for which ``wrong`` is true, or return None if there is none.

    With "1 value does not parse" as ``one``, "values do not parse" as ``many`` and a column to ``show``: "2 values do
    not parse (first in log.csv, line 5: 'soon')". The frame has the column ``PLACE``.
    """
    if not frame.select(wrong.any()).collect(engine="streaming").item():
        return None
    shown = [] if show is None else [pl.col(show)]
    if show is not None and isinstance(frame.collect_schema()[show], pl.Datetime):  # Python's end in the year 9999
        shown = [pl.format("{}", pl.col(show).dt.strftime("%Y-%m-%d %H:%M:%S%.f"))]
    text = show is not None and frame.collect_schema()[show] == pl.String
    asked = [pl.len(), *(column.first() for column in [pl.col(PLACE), *shown])]
    count, place, *values = frame.filter(wrong).select(asked).collect(engine="streaming").row(0)
    place = f"{'' if count == 1 else 'first in '}{place}"
    for value in values:
        place += f": {value!r}" if text else f": {value}"
    return f"{one if count == 1 else f'{count} {many}'} ({place})"


def refuse_unparsed(frame: pl.LazyFrame, key: str, parsed: pl.Expr, *, where: str, allowed: str) -> None:
    """Refuse values of column ``key`` for which ``parsed`` is null."""
    if found := find_rows(frame, parsed.is_null(), "1 value does not parse", "values do not parse", show=key):
        raise DataError(f"{where}: {found}; allowed: {allowed}")


def refuse_inexact(frame: pl.LazyFrame, key: str, kind: pl.DataType, *, where: str, allowed: str) -> None:
    """Refuse values of a float column ``key`` that are so large that its type does not tell integers apart."""
    bits = EXACT_BITS[kind]
    large = pl.col(key).cast(pl.Float64).abs() >= 2**bits
    if found := find_rows(frame, large, "1 value is too large", "values are too large", show=key):
        reason = f"{kind} does not represent every integer from 2^{bits} on"
        raise DataError(f"{where} holds {kind}, and {found}: {reason}; {allowed}")


def find_nulls(frame: pl.LazyFrame, key: str) -> str | None:
    """Describe the empty values of column ``key``, as ``find_rows`` does."""
    return find_rows(frame, pl.col(key).is_null(), "1 empty value", "empty values")
