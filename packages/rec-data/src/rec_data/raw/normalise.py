"""A raw table to the log: ids checked, times as integers, ratings filtered, row order kept.

Two streaming passes over the source: the first gathers the facts that decide types and units, the second writes.
"""

import errno
import os
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from rec_data.config import Columns
from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.raw.files import reading, require_columns, writing
from rec_data.raw.ids import id_expression, strip_ids
from rec_data.raw.rows import find_nulls, refuse_unparsed
from rec_data.raw.timestamps import NUMBER, time_expression
from rec_data.schema import INTEGER, ITEM, RATING, TIMESTAMP, USER


class Normalised(NamedTuple):
    """What was written: the rows of the log and of the source, and the unit of the log's times (s, ms or us)."""

    rows: int
    rows_read: int
    timestamp_unit: str


def write_log(
    frame: pl.LazyFrame,
    out: Path,
    *,
    columns: Columns,
    min_rating: float | None,
    origin: str,
    above: float | None = None,
) -> Normalised:
    """Write the log's parquet file: ``user_id``, ``item_id``, ``timestamp`` int64, and ``rating`` float64 if given.

    Args:
        frame: The raw table.
        out: The parquet file to write.
        columns: The raw table's column names.
        min_rating: Keep rows with a rating of at least this; None keeps all.
        origin: What is being read, for messages.
        above: Keep rows with a rating above this (the published filters say "rating > 3").

    Raises:
        DataError: A missing column, a wrong type, nulls, impossible times, an unreadable file, or no rows.
    """
    with reading(origin), progress(f"read {origin}", 2) as bar:
        frame = _select(frame, columns, origin)
        if min_rating is not None and columns.rating is None:
            raise DataError(
                f"min_rating is {min_rating:g} but {origin} has no rating column; name it in columns.rating"
            )
        frame = strip_ids(frame, frame.collect_schema(), (USER, ITEM))
        selected, rows_read, unit = _expressions(frame, columns, origin)
        bar.update()
        log = frame.select(selected)
        rated = pl.col(RATING).is_not_nan()  # polars orders NaN above all numbers
        if min_rating is not None:
            log = log.filter(rated & (pl.col(RATING) >= min_rating))
        if above is not None:
            log = log.filter(rated & (pl.col(RATING) > above))
        with writing(out), out.open("wb"):  # errors of the output must not be blamed on the source
            pass
        _sink(log, out)
        bar.update()
        rows = int(pl.scan_parquet(out).select(pl.len()).collect().item())
    if rows == 0:
        limit = f"of at least {min_rating:g}" if min_rating is not None else f"above {above:g}"
        raise DataError(f"{origin}: none of its {rows_read} rows has a rating {limit}")
    return Normalised(rows=rows, rows_read=rows_read, timestamp_unit=unit)


def _select(frame: pl.LazyFrame, columns: Columns, origin: str) -> pl.LazyFrame:
    """Select the wanted columns under the log's names."""
    require_columns(frame.collect_schema(), columns.by_key, origin)
    return frame.select(pl.col(name).alias(key) for key, name in columns.by_key.items())


def _expressions(frame: pl.LazyFrame, columns: Columns, origin: str) -> tuple[list[pl.Expr], int, str]:
    """Build the expressions of the log's columns; also returns the number of rows and the unit of time."""
    schema = frame.collect_schema()
    facts = _facts(frame, schema)
    if facts["rows"] == 0:
        raise DataError(f"{origin} has no rows")
    names = columns.by_key
    for key, name in names.items():
        if facts[f"{key}.nulls"]:
            raise DataError(f"{origin}: column {name!r} has {find_nulls(frame, key)}; allowed: none")
    selected = []
    for key in (USER, ITEM):
        integers = facts.get(f"{key}.integers", False)
        where = f"{origin}: column {names[key]!r}"
        selected.append(id_expression(frame, key, schema[key], integers=integers, where=where))
    time, unit = time_expression(frame, schema, facts, names[TIMESTAMP], origin)
    selected.append(time.alias(TIMESTAMP))
    if columns.rating is not None:
        selected.append(_rating_expression(frame, schema[RATING], f"{origin}: column {columns.rating!r}"))
    return selected, int(facts["rows"]), unit


def _facts(frame: pl.LazyFrame, schema: pl.Schema) -> dict[str, Any]:
    """Gather in one pass what types and units depend on."""
    asked = [pl.len().alias("rows")]
    for key, kind in schema.items():
        asked.append(pl.col(key).null_count().alias(f"{key}.nulls"))
        if kind == pl.String:
            asked.append(pl.col(key).str.contains(INTEGER).all().alias(f"{key}.integers"))
            asked.append(pl.col(key).str.contains(NUMBER).sum().alias(f"{key}.numbers"))
        elif kind.is_float():
            asked.append(pl.col(key).is_finite().all().alias(f"{key}.finite"))
    return frame.select(asked).collect(engine="streaming").row(0, named=True)


def _rating_expression(frame: pl.LazyFrame, kind: pl.DataType, where: str) -> pl.Expr:
    if kind.is_numeric():
        return pl.col(RATING).cast(pl.Float64)
    if kind != pl.String:
        raise DataError(f"{where} holds {kind}; allowed for ratings: numbers")
    parsed = pl.col(RATING).str.strip_chars().cast(pl.Float64, strict=False)
    refuse_unparsed(frame, RATING, parsed, where=where, allowed="a number")
    return parsed


def _sink(log: pl.LazyFrame, out: Path) -> None:
    try:
        log.sink_parquet(out, compression="zstd", maintain_order=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        if os.strerror(errno.ENOSPC) in str(error):
            raise DataError(f"{out} cannot be written: {os.strerror(errno.ENOSPC)}") from error
        raise
