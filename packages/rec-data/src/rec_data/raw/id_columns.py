"""The ids of users and items: texts that are none are refused, and integers become integers, whatever holds them."""

import re
from collections.abc import Sequence
from typing import Any

import polars as pl

from rec_data.errors import DataError
from rec_data.raw.rows import EXACT_BITS, find_rows, refuse_inexact
from rec_data.stated import Settings, stated

_DECIMALS = r"^(0|-?[1-9][0-9]*)\.0+$"
"""An integer that a tool wrote as a float, as pandas does with a column that lacks values."""
_WHOLE = r"^(0|-?[1-9][0-9]*)(\.0+)?$"

_ALLOWED_IDS = "allowed for ids: integers or strings"
_FIRST_ROWS = 1000
_MARK = "\ufeff"
_SHORT = 18
"""Every integer of at most this many characters fits into Int64."""
_SCIENTIFIC = r"^[+-]?[0-9](\.[0-9]+[eE]\+?|[eE]\+)[0-9]+$"
"""Text that is a number in the notation that programs choose for large numbers, usually with fewer digits."""
_WRAPPED: tuple[tuple[str, str, str, Settings], ...] = (
    (
        r"^[\[(].*[\])]$",
        "lists as text",
        "one event per row (pandas: df.explode), or for histories a parquet file with lists",
        {},
    ),
    ("^'.*'$", "ids that are all in single quotes", "ids without them", {"download.format.quote": "single"}),
)
"""How all ids of a column must not be: a pattern, its name, what is allowed, and the settings that cure a text file."""


def facts_of_texts(key: str, null_values: Sequence[str]) -> list[pl.Expr]:
    """What `id_expression` must know of a column of texts, to be gathered in one pass; each is named ``KEY.FACT``."""
    text = pl.col(key)
    return [
        text.str.contains(_WHOLE).all().alias(f"{key}.integers"),
        text.str.contains(".0", literal=True).any().alias(f"{key}.decimals"),
        text.str.len_bytes().max().alias(f"{key}.longest"),
        text.str.contains(_SCIENTIFIC).any().alias(f"{key}.scientific"),
        text.str.starts_with(_MARK).any().alias(f"{key}.marked"),
        _stands_for_missing(key, null_values).any().alias(f"{key}.missing"),
    ]


def id_expression(
    frame: pl.LazyFrame, key: str, kind: pl.DataType, facts: dict[str, Any], null_values: Sequence[str], where: str
) -> pl.Expr:
    """The ids of a column without nulls: integers if all of them are, otherwise texts.

    Args:
        frame: The table.
        key: The column.
        kind: Its type.
        facts: Of a column of texts, those of `facts_of_texts`.
        null_values: Texts that stand for a missing id.
        where: What is being read, for messages.

    Raises:
        DataError: A value is no id.
    """
    if kind != pl.String:
        return _numeric_id(frame, key, kind, where)
    _refuse_texts(frame, key, facts, null_values, where)
    _refuse_wrapped(frame, key, where)
    return _textual_id(frame, key, facts, where)


def _stands_for_missing(key: str, null_values: Sequence[str]) -> pl.Expr:
    """Whether a text is one of those for a missing id, in capital or small letters."""
    words = "|".join(map(re.escape, null_values))
    return pl.col(key).str.contains(f"(?i)^(?:{words})$") if null_values else pl.lit(value=False)


def _refuse_texts(frame: pl.LazyFrame, key: str, facts: dict[str, Any], null_values: Sequence[str], where: str) -> None:
    """Refuse texts that are no ids: with a mark in front, words for a missing id, numbers whose digits were cut."""
    text = pl.col(key)
    if facts[f"{key}.marked"]:
        one, many = "1 text after a byte order mark", "texts after byte order marks"
        found = find_rows(frame, text.str.starts_with(_MARK), one, many, show=key)
        raise DataError(f"{where} has {found}; allowed: none (join files without their marks and headers)")
    if facts[f"{key}.missing"]:
        one, many = "1 text that stands for a missing id", "texts that stand for a missing id"
        found = find_rows(frame, _stands_for_missing(key, null_values), one, many, show=key)
        raise DataError(
            f"{where} has {found}; allowed: none: remove these rows, or take such texts as ids by "
            f"{stated({'download.null_values': []})}"
        )
    if facts[f"{key}.scientific"]:
        one, many = "1 number in scientific notation", "numbers in scientific notation"
        found = find_rows(frame, text.str.contains(_SCIENTIFIC), one, many, show=key)
        raise DataError(f"{where} has {found}, which may lack digits; allowed for ids: strings, or integers in full")


def _refuse_wrapped(frame: pl.LazyFrame, key: str, where: str) -> None:
    """Refuse ids that are all lists, as pandas writes them to CSV, or that all stand in single quotes."""
    first = frame.select(key).head(_FIRST_ROWS).collect()
    for pattern, what, cure, settings in _WRAPPED:
        more = f" (text files: {stated(settings)})" if settings else ""
        wrapped = pl.col(key).str.contains(pattern).all()
        if first.select(wrapped).item() and frame.select(wrapped).collect(engine="streaming").item():
            raise DataError(f"{where} holds {what}, such as {first.item(0, 0)!r}; allowed: {cure}{more}")


def _textual_id(frame: pl.LazyFrame, key: str, facts: dict[str, Any], where: str) -> pl.Expr:
    """Text as integers if every value is one that 64 bits hold, otherwise as it is."""
    column = pl.col(key)
    if facts[f"{key}.decimals"]:
        _refuse_decimals(frame, key, facts, where)
        column = column.str.replace(_DECIMALS, "${1}") if facts[f"{key}.integers"] else column
    if not facts[f"{key}.integers"]:
        return column
    return column.cast(pl.Int64) if facts[f"{key}.longest"] <= _SHORT else _narrow(frame, column)


def _refuse_decimals(frame: pl.LazyFrame, key: str, facts: dict[str, Any], where: str) -> None:
    """Refuse texts such as '7.0' that are not surely integers.

    Among other texts than numbers, '7.0' beside '7' would be another id, and may not be. Floats of 2^53 and more may
    have lost digits.
    """
    text, bits = pl.col(key), EXACT_BITS[pl.Float64()]
    decimal = text.str.contains(_DECIMALS)
    cure = "export the column as integers, or as text without decimals"
    if facts[f"{key}.integers"]:
        wrong = decimal & (text.cast(pl.Float64, strict=False).abs() >= 2**bits)
        reason = f"of 2^{bits} or more, which may lack digits"
    else:
        integers = frame.filter(decimal).select(text.str.replace(_DECIMALS, "${1}").unique())
        beside = frame.select(text).join(integers, on=key, how="semi").unique().collect(engine="streaming")[key]
        wrong = decimal & text.str.replace(_DECIMALS, "${1}").is_in(beside.implode())
        reason = "beside the same without decimals"
    one, many = f"1 whole number written as a decimal {reason}", f"whole numbers written as decimals {reason}"
    if found := find_rows(frame, wrong, one, many, show=key):
        raise DataError(f"{where} has {found}; {_ALLOWED_IDS}: {cure}")


def _narrow(frame: pl.LazyFrame, column: pl.Expr) -> pl.Expr:
    """Integers of any size, or their text, as the first of Int64, UInt64 and text that holds all of them exactly."""
    kinds = (pl.Int64, pl.UInt64)
    fits = frame.select(column.cast(kind, strict=False).is_not_null().all().alias(str(kind)) for kind in kinds)
    for kind, fit in zip(kinds, fits.collect(engine="streaming").row(0), strict=True):
        if fit:
            return column.cast(kind)
    return column.cast(pl.String)


def _numeric_id(frame: pl.LazyFrame, key: str, kind: pl.DataType, where: str) -> pl.Expr:
    """Numbers as integers; floats and decimals must hold whole numbers, floats only such as their type tells apart."""
    column = pl.col(key)
    if kind.is_integer():
        return _narrow(frame, column) if kind in (pl.Int128, pl.UInt128) else column
    if not (kind.is_float() or kind.is_decimal()):
        cure = " (cast the column to a string in the program that writes the file)" if kind == pl.Binary else ""
        raise DataError(f"{where} holds {kind}; {_ALLOWED_IDS}{cure}")
    # Integers that passed through a tool which stores missing values as NaN, or that has no other type for numbers.
    broken = ~(column.is_finite() & (column == column.floor())) if kind.is_float() else column % 1 != 0
    if found := find_rows(frame, broken, "1 value is not a whole number", "values are not whole numbers", show=key):
        raise DataError(f"{where} holds {kind}, and {found}; {_ALLOWED_IDS}")
    if kind.is_decimal():
        return _narrow(frame, column.cast(pl.Decimal(38, 0)))
    refuse_inexact(frame, key, kind, where=where, allowed=_ALLOWED_IDS)
    return column.cast(pl.Int64)
