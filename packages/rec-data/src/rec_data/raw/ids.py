"""The id columns of a raw table: text without the spaces around it, and floats only where they are exact integers."""

import polars as pl

from rec_data.errors import DataError


# Rows of a raw table that hold what is not allowed: how many, and which is the first.
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


ALLOWED_IDS = "allowed for ids: integers or strings"
_EXACT_BITS: dict[pl.DataType, int] = {pl.Float32(): 24, pl.Float64(): 53}
"""Floats tell all integers apart whose magnitude is below two to the power of so many."""


def strip_ids(frame: pl.LazyFrame, schema: pl.Schema, keys: tuple[str, ...]) -> pl.LazyFrame:
    """Takes spaces off the ends of textual ids; what is blank becomes null.

    Args:
        frame: The raw table.
        schema: Of ``frame``.
        keys: The id columns.
    """
    stripped = []
    for key in keys:
        if schema[key] == pl.String or isinstance(schema[key], pl.Categorical | pl.Enum):
            text = pl.col(key).cast(pl.String).str.strip_chars()
            stripped.append(pl.when(text != "").then(text).alias(key))
    return frame.with_columns(stripped)


def id_expression(frame: pl.LazyFrame, key: str, kind: pl.DataType, *, integers: bool, where: str) -> pl.Expr:
    """Makes a log's ids of a raw column.

    Args:
        frame: The raw table, after ``strip_ids``.
        key: The column.
        kind: Its type.
        integers: Of text: whether all of it is integers.
        where: The column, for messages.

    Returns:
        The expression of the ids: integers or strings.

    Raises:
        DataError: Another type, or floats that are no integers or too large to be exact.
    """
    column = pl.col(key)
    if kind.is_integer():
        return column
    if kind == pl.String:
        return column.cast(pl.Int64) if integers else column
    if kind not in _EXACT_BITS:
        raise DataError(f"{where} holds {kind}; {ALLOWED_IDS}")
    # Integers that passed through a tool which stores missing values as NaN.
    bits = _EXACT_BITS[kind]
    broken = ~(column.is_finite() & (column == column.floor()))
    _refuse(frame, key, broken, f"{where} holds {kind}, and {{}} no whole number {{}}; {ALLOWED_IDS}")
    inexact = column.abs() >= 2**bits
    reason = f"from 2^{bits} on {kind} does not tell neighbours apart"
    _refuse(frame, key, inexact, f"{where} holds {kind}, and {{}} too large {{}}: {reason}; {ALLOWED_IDS}")
    return column.cast(pl.Int64)


def _refuse(frame: pl.LazyFrame, key: str, wrong: pl.Expr, message: str) -> None:
    """Raises ``message`` with how many are wrong and the first of them, if any is."""
    if not frame.select(wrong.any()).collect(engine="streaming").item():
        return
    count, row, value = first_of(frame, wrong, key)
    many = "1 value is" if count == 1 else f"{count} values are"
    raise DataError(message.format(many, f"({'row' if count == 1 else 'first in row'} {row}: {value})"))
