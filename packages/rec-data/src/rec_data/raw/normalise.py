"""A raw table to the log: ids checked, times to integers, ratings filtered, row order kept.

Two passes over the source, both streaming: one gathers what the types and the units must be decided by, one writes.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.raw.files import reading, writing
from rec_data.raw.ids import first_of, id_expression, refuse_unparsed, strip_ids
from rec_data.raw.timestamps import NUMBER, time_expression
from rec_data.schema import INTEGER, ITEM, RATING, TIMESTAMP, USER, Columns


@dataclass(frozen=True)
class Normalised:
    """What was written."""

    rows: int
    """Rows in the log."""

    rows_read: int
    """Rows in the source."""

    timestamp_unit: str
    """Ticks of the log's times: "s", "ms" or "us"."""


def write_log(
    frame: pl.LazyFrame,
    out: Path,
    *,
    columns: Columns,
    min_rating: float | None,
    origin: str,
    above: float | None = None,
) -> Normalised:
    """Writes the log's parquet from a raw table.

    Args:
        frame: The raw table.
        out: The parquet to write: ``user_id``, ``item_id``, ``timestamp`` int64, and ``rating`` float64 if the source
            has one.
        columns: The raw table's column names.
        min_rating: Keep rows with a rating of at least this; None keeps all.
        origin: What is being read, for messages.
        above: Keep rows with a rating above this (the published filters say "rating > 3").

    Returns:
        Counts and the unit of time.

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
        schema = frame.collect_schema()
        facts = _facts(frame, schema)
        rows_read = int(facts["rows"])
        if rows_read == 0:
            raise DataError(f"{origin} has no rows")
        names = {USER: columns.user, ITEM: columns.item, TIMESTAMP: columns.timestamp, RATING: columns.rating or RATING}
        _refuse_nulls(frame, facts, names, origin)

        ids = [
            id_expression(
                frame,
                key,
                schema[key],
                integers=facts.get(f"{key}.integers", False),
                where=f"{origin}: column {names[key]!r}",
            )
            for key in (USER, ITEM)
        ]
        time, unit = time_expression(frame, schema, facts, names[TIMESTAMP], origin)
        selected = [*ids, time.alias(TIMESTAMP)]
        if columns.rating is not None:
            rating = _rating_expression(frame, schema, names[RATING], origin)
            selected.append(rating.alias(RATING))
        bar.update()
        log = frame.select(selected)
        if min_rating is not None:
            log = log.filter((pl.col(RATING) >= min_rating) & pl.col(RATING).is_not_nan())  # NaN is above all numbers
        if above is not None:
            log = log.filter((pl.col(RATING) > above) & pl.col(RATING).is_not_nan())
        with writing(out), out.open("wb"):  # what is wrong with the output is not blamed on the source
            pass
        _sink(log, out)
        bar.update()
        rows = int(pl.scan_parquet(out).select(pl.len()).collect().item())
    if rows == 0:
        limit = f"of at least {min_rating:g}" if min_rating is not None else f"above {above:g}"
        raise DataError(f"{origin}: none of its {rows_read} rows has a rating {limit}")
    return Normalised(rows=rows, rows_read=rows_read, timestamp_unit=unit)


def _sink(log: pl.LazyFrame, out: Path) -> None:
    try:
        log.sink_parquet(out, compression="zstd", maintain_order=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        if os.strerror(errno.ENOSPC) in str(error):
            raise DataError(f"{out} cannot be written: {os.strerror(errno.ENOSPC)}") from error
        raise


def _select(frame: pl.LazyFrame, columns: Columns, origin: str) -> pl.LazyFrame:
    wanted = {USER: columns.user, ITEM: columns.item, TIMESTAMP: columns.timestamp}
    if columns.rating is not None:
        wanted[RATING] = columns.rating
    present = frame.collect_schema().names()
    for key, name in wanted.items():
        if name not in present:
            raise DataError(f"{origin} has no column {name!r} (for {key}); its columns are: {', '.join(present)}")
    if len(set(wanted.values())) < len(wanted):
        raise DataError(
            f"two columns of {origin} are given one name: {', '.join(f'{k}={v}' for k, v in wanted.items())}"
        )
    return frame.select(pl.col(name).alias(key) for key, name in wanted.items())


def _facts(frame: pl.LazyFrame, schema: pl.Schema) -> dict[str, Any]:
    """Everything that one pass can tell."""
    asked = [pl.len().alias("rows")]
    for key, kind in schema.items():
        asked.append(pl.col(key).null_count().alias(f"{key}.nulls"))
        if kind == pl.String:
            asked.append(pl.col(key).str.contains(INTEGER).all().alias(f"{key}.integers"))
            asked.append(pl.col(key).str.contains(NUMBER).sum().alias(f"{key}.numbers"))
        elif kind.is_float():
            finite = pl.col(key).is_finite().all()
            asked.append(finite.alias(f"{key}.finite"))
    return frame.select(asked).collect(engine="streaming").row(0, named=True)


def _refuse_nulls(frame: pl.LazyFrame, facts: dict[str, Any], names: dict[str, str], origin: str) -> None:
    for key, name in names.items():
        nulls = facts.get(f"{key}.nulls", 0)
        if nulls:
            _, first, _ = first_of(frame, pl.col(key).is_null(), key)
            values = "1 empty value" if nulls == 1 else f"{nulls} empty values"
            raise DataError(f"{origin}: column {name!r} has {values} (first in row {first}); allowed: none")


def _rating_expression(frame: pl.LazyFrame, schema: pl.Schema, name: str, origin: str) -> pl.Expr:
    kind = schema[RATING]
    if kind.is_numeric():
        return pl.col(RATING).cast(pl.Float64)
    if kind != pl.String:
        raise DataError(f"{origin}: column {name!r} holds {kind}; allowed for ratings: numbers")
    parsed = pl.col(RATING).str.strip_chars().cast(pl.Float64, strict=False)
    refuse_unparsed(frame, RATING, parsed, f"{origin}: column {name!r}", "a number")
    return parsed
