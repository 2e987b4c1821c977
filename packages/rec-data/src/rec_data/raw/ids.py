"""The id columns of a raw table: text without surrounding spaces, and floats only if they are exact integers."""

import polars as pl

from rec_data.errors import DataError
from rec_data.raw.rows import find_rows

ALLOWED_IDS = "allowed for ids: integers or strings"
_EXACT_BITS: dict[pl.DataType, int] = {pl.Float32(): 24, pl.Float64(): 53}
"""Floats represent every integer exactly whose magnitude is below two to this power."""


def strip_ids(frame: pl.LazyFrame, schema: pl.Schema, keys: tuple[str, ...]) -> pl.LazyFrame:
    """Remove spaces at both ends of textual ids; blank ids become null."""
    stripped = []
    for key in keys:
        if schema[key] == pl.String or isinstance(schema[key], pl.Categorical | pl.Enum):
            text = pl.col(key).cast(pl.String).str.strip_chars()
            stripped.append(pl.when(text != "").then(text).alias(key))
    return frame.with_columns(stripped)


def id_expression(frame: pl.LazyFrame, key: str, kind: pl.DataType, *, integers: bool, where: str) -> pl.Expr:
    """Build the expression that turns a raw column, after ``strip_ids``, into the log's ids (integers or strings).

    ``integers`` says whether every value of a text column is an integer; ``where`` names the column in messages.

    Raises:
        DataError: The column has another type, or floats that are not integers or are too large to be exact.
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
    if found := find_rows(frame, broken, "1 value is not a whole number", "values are not whole numbers", show=key):
        raise DataError(f"{where} holds {kind}, and {found}; {ALLOWED_IDS}")
    if found := find_rows(frame, column.abs() >= 2**bits, "1 value is too large", "values are too large", show=key):
        reason = f"{kind} does not represent every integer from 2^{bits} on"
        raise DataError(f"{where} holds {kind}, and {found}: {reason}; {ALLOWED_IDS}")
    return column.cast(pl.Int64)
