"""Rows of a raw table that hold a forbidden value: how many there are, and where the first one is."""

import polars as pl

from rec_data.errors import DataError

EXACT_BITS: dict[pl.DataType, int] = {pl.Float16(): 11, pl.Float32(): 24, pl.Float64(): 53}
"""Floats represent every integer exactly whose magnitude is below two to this power."""


def find_rows(frame: pl.LazyFrame, wrong: pl.Expr, one: str, many: str, *, show: str | None = None) -> str | None:
    """Describe the rows for which ``wrong`` is true, or return None if there is none.

    With "1 value does not parse" as ``one``, "values do not parse" as ``many`` and a column to ``show``: "2 values do
    not parse (first in row 5: 'soon')", rows counted from 1.
    """
    if not frame.select(wrong.any()).collect(engine="streaming").item():
        return None
    bad = frame.select(wrong.alias("wrong")).with_row_index("row").filter("wrong")
    count, row = bad.select(pl.len(), pl.col("row").min()).collect(engine="streaming").row(0)
    place = f"row {row + 1}" if count == 1 else f"first in row {row + 1}"
    if show is not None:
        value = frame.select(show).slice(row, 1).collect(engine="streaming").item()
        place += f": {value!r}" if isinstance(value, str) else f": {value}"
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
