"""Rows of a raw table that hold what is not allowed: how many, and which is the first."""

import polars as pl

from rec_data.errors import DataError


def refuse_unparsed(frame: pl.LazyFrame, key: str, parsed: pl.Expr, where: str, allowed: str) -> None:
    """Refuses a column of which some values could not be parsed.

    Args:
        frame: The raw table.
        key: The column.
        parsed: It once parsed, null where that failed.
        where: The column, for messages.
        allowed: What it may hold, for messages.

    Raises:
        DataError: How many values do not parse, and the first of them.
    """
    failed = parsed.is_null()
    if not frame.select(failed.any()).collect(engine="streaming").item():
        return
    count, row, value = first_of(frame, failed, key)
    found = (
        f"1 value does not parse (row {row}: {value!r})"
        if count == 1
        else f"{count} values do not parse (first in row {row}: {value!r})"
    )
    raise DataError(f"{where}: {found}; allowed: {allowed}")


def first_of(frame: pl.LazyFrame, wrong: pl.Expr, key: str) -> tuple[int, int, object]:
    """Finds wrong rows.

    Args:
        frame: The raw table.
        wrong: True where a row is wrong; it is for one row at least.
        key: The column to show.

    Returns:
        How many rows are wrong, the number of the first of them (from 1), and what it holds.
    """
    bad = frame.with_row_index("row").filter(wrong).select(pl.len(), pl.col("row").min())
    count, row = bad.collect(engine="streaming").row(0)
    value = frame.select(key).slice(row, 1).collect(engine="streaming").item()
    return count, row + 1, value
