"""A raw table to the log: ids checked, times as integers, ratings filtered, row order kept.

Two streaming passes over the source: the first gathers the facts that decide types and units, the second writes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from rec_data.config import Columns
from rec_data.errors import DataError, refuse_if_full, writing
from rec_data.progress import progress
from rec_data.raw.files import reading, require_columns
from rec_data.raw.headers import no_events, refuse_no_events
from rec_data.raw.id_columns import facts_of_texts, id_expression
from rec_data.raw.rows import PLACE, find_nulls, find_rows, numbered, refuse_unparsed
from rec_data.raw.timestamps import FINER, NUMBER, time_expression
from rec_data.schema import ITEM, RATING, TIMESTAMP, USER
from rec_data.stated import stated


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
    selected = [id_expression(frame, key, schema[key], facts, null_values, where[key]) for key in (USER, ITEM)]
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
            asked += facts_of_texts(key, null_values)
        elif kind.is_float():
            asked.append(pl.col(key).is_finite().all().alias(f"{key}.finite"))
    return frame.select(asked).collect(engine="streaming").row(0, named=True)


def _strip_text(frame: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """Remove spaces at both ends of texts, of categories too; blank ones become null."""
    schema, stripped = frame.collect_schema(), []
    for key in keys:
        kind = schema[key]
        if kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum):
            text = pl.col(key).cast(pl.String).str.strip_chars()
            stripped.append(pl.when(text != "").then(text).alias(key))
    return frame.with_columns(stripped)


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
