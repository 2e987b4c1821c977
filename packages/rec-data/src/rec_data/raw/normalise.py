"""A raw table to the log: ids checked, times as integers, ratings filtered, row order kept.

Two streaming passes over the source: the first gathers the facts that decide types and units, the second writes.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from rec_data.config import Columns
from rec_data.errors import DataError, refuse_if_full, writing
from rec_data.progress import progress
from rec_data.raw.files import reading, require_columns
from rec_data.raw.headers import no_events, refuse_no_events
from rec_data.raw.rows import EXACT_BITS, PLACE, find_nulls, find_rows, numbered, refuse_inexact, refuse_unparsed
from rec_data.raw.timestamps import FINER, NUMBER, time_expression
from rec_data.schema import ITEM, RATING, TIMESTAMP, USER
from rec_data.stated import stated

INTEGER = r"^(0|-?[1-9][0-9]*)$"
"""Text that is read as an integer if 64 bits hold it. There is no leading zero, because "007" is a name."""

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
_WRAPPED = (
    (
        r"^[\[(].*[\])]$",
        "lists as text",
        "one event per row (pandas: df.explode), or for histories a parquet file with lists",
    ),
    ("^'.*'$", "ids that are all in single quotes", "ids without them"),
)
"""How all ids of a column must not be: a pattern, its name, and what is allowed."""


class Normalised(NamedTuple):
    """What was written: the rows of the log and of the source, and the unit of the log's times (s, ms, us or ns)."""

    rows: int
    rows_read: int
    timestamp_unit: str
    rows_of_other_events: int | None = None
    """Of the rows that were read; None if all kinds of events are kept."""

    def with_other_events(self, dropped: int | None) -> "Normalised":
        """Count rows that were dropped before the others were written."""
        return self._replace(rows_read=self.rows_read + (dropped or 0), rows_of_other_events=dropped)

    @property
    def facts(self) -> dict[str, Any]:
        """The fields that are known, ready for JSON."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def write_log(
    frame: pl.LazyFrame,
    out: Path,
    *,
    columns: Columns,
    min_rating: float | None,
    origin: str,
    above: float | None = None,
    time_format: str | None = None,
    null_values: Sequence[str] = (),
) -> Normalised:
    """Write the log's parquet file: ``user_id``, ``item_id``, ``timestamp`` int64, and ``rating`` float64 if given.

    Args:
        frame: The raw table.
        out: The parquet file to write.
        columns: The raw table's column names.
        min_rating: Keep rows with a rating of at least this; None keeps all.
        origin: What is being read, for messages.
        above: Keep rows with a rating above this (the published filters say "rating > 3").
        time_format: The strftime format of times that are text; None recognizes Unix times and ISO 8601.
        null_values: Texts that stand for a missing id; they are refused as empty ids are.

    Raises:
        DataError: A missing column, a wrong type, nulls, impossible times, an unreadable file, or no rows.
    """
    with reading(origin), progress(f"read {origin}", 2) as bar:
        require_columns(frame.collect_schema(), columns.by_key, origin)
        keys = [pl.col(name).alias(key) for key, name in columns.by_key.items()]
        frame = numbered(frame).select(*keys, PLACE)
        if min_rating is not None and columns.rating is None:
            raise DataError(
                f"min_rating is {min_rating:g} but {origin} has no rating column; allowed: one by "
                f"{stated({'download.columns.rating': 'NAME'})}, or all rows by {stated({'download.min_rating': None})}"
            )
        frame = _strip_text(frame, list(columns.by_key))
        selected, rows_read, unit = _expressions(frame, columns, origin, time_format, null_values)
        bar.update()
        log = frame.select(selected)
        if min_rating is not None:
            log = log.filter(pl.col(RATING) >= min_rating)
        if above is not None:
            log = log.filter(pl.col(RATING) > above)
        with writing(out), out.open("wb"):  # errors of the output must not be blamed on the source
            pass
        _sink(log, out)
        bar.update()
        rows = int(pl.scan_parquet(out).select(pl.len()).collect().item())
    if rows == 0:
        limit = f"of at least {min_rating:g}" if min_rating is not None else f"above {above:g}"
        raise DataError(f"{origin}: none of its {rows_read} rows has a rating {limit}")
    return Normalised(rows=rows, rows_read=rows_read, timestamp_unit=unit)


def _expressions(
    frame: pl.LazyFrame, columns: Columns, origin: str, time_format: str | None, null_values: Sequence[str]
) -> tuple[list[pl.Expr], int, str]:
    """Build the expressions of the log's columns; also returns the number of rows and the unit of time."""
    schema = pl.Schema({key: frame.collect_schema()[key] for key in columns.by_key})
    wrong = no_events(frame, columns)
    facts = _facts(frame, schema, null_values, wrong)
    if facts["rows"] == 0:
        raise DataError(f"{origin} has no rows")
    if facts["no_events"]:
        refuse_no_events(frame, columns, wrong, origin)
    where = {key: f"{origin}: column {name!r}" for key, name in columns.by_key.items()}
    for key in where:
        if facts[f"{key}.nulls"]:
            raise DataError(f"{where[key]} has {find_nulls(frame, key)}; allowed: none")
    selected = []
    for key in (USER, ITEM):
        if schema[key] == pl.String:
            _refuse_texts(frame, key, facts, null_values, where[key])
            _refuse_wrapped(frame, key, where[key])
            selected.append(_textual_id(frame, key, facts, where[key]))
        else:
            selected.append(_id_expression(frame, key, schema[key], where=where[key]))
    time, unit = time_expression(frame, schema[TIMESTAMP], facts, where[TIMESTAMP], time_format)
    selected.append(time.alias(TIMESTAMP))
    if RATING in where:
        selected.append(_rating_expression(frame, schema[RATING], facts, where[RATING]))
    return selected, int(facts["rows"]), unit


def _facts(frame: pl.LazyFrame, schema: pl.Schema, null_values: Sequence[str], wrong: pl.Expr) -> dict[str, Any]:
    """Gather in one pass what types and units depend on, and whether rows are no events (``wrong``)."""
    asked = [pl.len().alias("rows"), wrong.any().alias("no_events")]
    for key, kind in schema.items():
        asked.append(pl.col(key).null_count().alias(f"{key}.nulls"))
        if kind == pl.String and key == TIMESTAMP:
            whole = pl.col(key).cast(pl.Int64, strict=False)
            asked.append(whole.is_not_null().all().alias(f"{key}.integers"))
            asked.append(pl.col(key).str.contains(NUMBER).sum().alias(f"{key}.numbers"))
            asked.append(pl.col(key).str.contains(FINER.removeprefix("^.*")).any().alias(f"{key}.finer"))
        elif kind == pl.String and key in (USER, ITEM):
            asked.append(pl.col(key).str.contains(_WHOLE).all().alias(f"{key}.integers"))
            asked.append(pl.col(key).str.contains(".0", literal=True).any().alias(f"{key}.decimals"))
            asked.append(pl.col(key).str.len_bytes().max().alias(f"{key}.longest"))
            asked.append(pl.col(key).str.contains(_SCIENTIFIC).any().alias(f"{key}.scientific"))
            asked.append(pl.col(key).str.starts_with(_MARK).any().alias(f"{key}.marked"))
            asked.append(_stands_for_missing(key, null_values).any().alias(f"{key}.missing"))
        elif kind.is_float():
            asked.append(pl.col(key).is_finite().all().alias(f"{key}.finite"))
    return frame.select(asked).collect(engine="streaming").row(0, named=True)


def _stands_for_missing(key: str, null_values: Sequence[str]) -> pl.Expr:
    """Whether a text is one of those for a missing id, in capital or small letters."""
    words = "|".join(map(re.escape, null_values))
    return pl.col(key).str.contains(f"(?i)^(?:{words})$") if null_values else pl.lit(value=False)


def _strip_text(frame: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """Remove spaces at both ends of texts, of categories too; blank ones become null."""
    schema, stripped = frame.collect_schema(), []
    for key in keys:
        kind = schema[key]
        if kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum):
            text = pl.col(key).cast(pl.String).str.strip_chars()
            stripped.append(pl.when(text != "").then(text).alias(key))
    return frame.with_columns(stripped)


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
    for pattern, what, cure in _WRAPPED:
        more = f" (text files: {stated({'download.format.quote': 'single'})})" if "quotes" in what else ""
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


def _id_expression(frame: pl.LazyFrame, key: str, kind: pl.DataType, *, where: str) -> pl.Expr:
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


def _rating_expression(frame: pl.LazyFrame, kind: pl.DataType, facts: dict[str, Any], where: str) -> pl.Expr:
    if kind.is_numeric():
        rating = pl.col(RATING).cast(pl.Float64)
        if kind.is_float() and not facts[f"{RATING}.finite"]:
            found = find_rows(frame, ~rating.is_finite(), "1 value is no number", "values are no numbers", show=RATING)
            raise DataError(f"{where}: {found}; allowed: finite numbers, none empty")
        return rating
    if kind != pl.String:
        raise DataError(f"{where} holds {kind}; allowed for ratings: numbers")
    parsed = pl.col(RATING).cast(pl.Float64, strict=False)
    finite = pl.when(parsed.is_finite()).then(parsed)
    refuse_unparsed(frame, RATING, finite, where=where, allowed="a number")
    return parsed


def _sink(log: pl.LazyFrame, out: Path) -> None:
    try:
        log.sink_parquet(out, compression="zstd", maintain_order=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        refuse_if_full(out, error)
        raise


def drop_duplicates(log: Path) -> int:
    """Keep the first of the rows of a log with the same user, item and time; returns how many rows are dropped.

    Needs memory for the user, item and time of every row that is kept.
    """
    frame = pl.scan_parquet(log)
    out = log.with_name(f"{log.name}.distinct")
    try:
        with writing(out), out.open("wb"):
            pass
        _sink(frame.unique([USER, ITEM, TIMESTAMP], keep="first", maintain_order=True), out)
        before, after = (pl.scan_parquet(path).select(pl.len()).collect().item() for path in (log, out))
        out.replace(log)
    finally:
        out.unlink(missing_ok=True)
    return int(before - after)
