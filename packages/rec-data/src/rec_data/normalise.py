"""A raw table to the log: ids checked, times to integers, ratings filtered, row order kept.

Two passes over the source, both streaming: one gathers what the types and the units must be decided by, one writes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from rec_data.columns import INTEGER, ITEM, RATING, TIMESTAMP, USER, Columns
from rec_data.errors import DataError
from rec_data.files import reading
from rec_data.progress import progress
from rec_data.times import UNITS, check_range, unit_of

NUMBER = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
ALLOWED_TIMES = "a Unix time or ISO 8601 (2024-01-31 12:00:00, with or without zone); one kind in the whole column"
_ZONE = r":.*(Z|z|[+-][0-9]{2}:?[0-9]{2})$"
_FIRST_ROWS = 1000
_CLOCKS = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")


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
        schema = frame.collect_schema()
        facts = _facts(frame, schema)
        rows_read = int(facts["rows"])
        if rows_read == 0:
            raise DataError(f"{origin} has no rows")
        names = {USER: columns.user, ITEM: columns.item, TIMESTAMP: columns.timestamp, RATING: columns.rating or RATING}
        _refuse_nulls(frame, facts, names, origin)

        ids = [_id_expression(key, schema[key], facts, names[key], origin) for key in (USER, ITEM)]
        time, unit = _time_expression(frame, schema, facts, names[TIMESTAMP], origin)
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
        log.sink_parquet(out, compression="zstd", maintain_order=True)
        bar.update()
        rows = int(pl.scan_parquet(out).select(pl.len()).collect().item())
    if rows == 0:
        limit = f"of at least {min_rating:g}" if min_rating is not None else f"above {above:g}"
        raise DataError(f"{origin}: none of its {rows_read} rows has a rating {limit}")
    return Normalised(rows=rows, rows_read=rows_read, timestamp_unit=unit)


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
            asked.append((pl.col(key) == pl.col(key).floor()).all().alias(f"{key}.whole"))
    return frame.select(asked).collect(engine="streaming").row(0, named=True)


def _refuse_nulls(frame: pl.LazyFrame, facts: dict[str, Any], names: dict[str, str], origin: str) -> None:
    for key, name in names.items():
        nulls = facts.get(f"{key}.nulls", 0)
        if nulls:
            _, first, _ = _first(frame, pl.col(key).is_null(), key)
            values = "1 empty value" if nulls == 1 else f"{nulls} empty values"
            raise DataError(f"{origin}: column {name!r} has {values} (first in row {first}); allowed: none")


def _id_expression(key: str, kind: pl.DataType, facts: dict[str, Any], name: str, origin: str) -> pl.Expr:
    column = pl.col(key)
    if kind.is_integer():
        return column
    if kind == pl.String:
        return column.cast(pl.Int64) if facts[f"{key}.integers"] else column
    if isinstance(kind, pl.Categorical | pl.Enum):
        return column.cast(pl.String)
    if kind.is_float() and facts[f"{key}.finite"] and facts[f"{key}.whole"]:
        return column.cast(pl.Int64)  # integers that passed through a tool which stores missing values as NaN
    raise DataError(f"{origin}: column {name!r} holds {kind}; allowed for ids: integers or strings")


def _rating_expression(frame: pl.LazyFrame, schema: pl.Schema, name: str, origin: str) -> pl.Expr:
    kind = schema[RATING]
    if kind.is_numeric():
        return pl.col(RATING).cast(pl.Float64)
    if kind != pl.String:
        raise DataError(f"{origin}: column {name!r} holds {kind}; allowed for ratings: numbers")
    parsed = pl.col(RATING).str.strip_chars().cast(pl.Float64, strict=False)
    _refuse_unparsed(frame, RATING, parsed, f"{origin}: column {name!r}", "a number")
    return parsed


def _time_expression(
    frame: pl.LazyFrame, schema: pl.Schema, facts: dict[str, Any], name: str, origin: str
) -> tuple[pl.Expr, str]:
    """The expression of the log's times, and its unit."""
    column, kind, where = pl.col(TIMESTAMP), schema[TIMESTAMP], f"{origin}: column {name!r}"
    known_unit = None  # of integers that come from a calendar, not from a bare number
    if kind == pl.String:
        if facts[f"{TIMESTAMP}.integers"]:
            column = column.cast(pl.Int64)
        elif 2 * facts[f"{TIMESTAMP}.numbers"] > facts["rows"]:  # a few that are none do not make the others dates
            column = pl.when(column.str.contains(NUMBER)).then(column).cast(pl.Float64)
            if facts[f"{TIMESTAMP}.numbers"] < facts["rows"]:
                _refuse_unparsed(frame, TIMESTAMP, column, where, ALLOWED_TIMES)
        else:
            column, known_unit = _parse_clock(frame, where), "us"
    elif kind == pl.Date or isinstance(kind, pl.Datetime):
        column, known_unit = column.cast(pl.Datetime("us")).dt.epoch("us"), "us"
    elif not (kind.is_integer() or kind.is_float()):
        raise DataError(f"{where} holds {kind}; allowed for times: integers, floats, dates, or ISO 8601 strings")

    whole = (column == column.floor()).all() if known_unit is None else pl.lit(True)
    divisible = [(column % 1000**power == 0).all().alias(f"{power}") for power in (1, 2, 3)]
    asked = [column.min().alias("min"), column.max().alias("max"), whole.alias("whole"), *divisible]
    if kind.is_float() and not facts[f"{TIMESTAMP}.finite"]:
        raise DataError(f"{where} holds NaN or infinite times; allowed: numbers")
    found = frame.select(asked).collect(engine="streaming").row(0, named=True)

    if known_unit is None:
        unit = check_range(found["min"], found["max"], where=where)
    else:
        check_range(found["min"] // 10**6, found["max"] // 10**6, where=where)
        unit = known_unit
    if not found["whole"]:
        finer = UNITS["us"] // UNITS[unit]
        _refuse_unclear_unit(int(found["max"] * finer), "us", where)
        return (column * finer).round().cast(pl.Int64), "us"
    powers = list(UNITS).index(unit)  # how often a thousand of these ticks make the next unit, up to seconds
    coarser = max((power for power in range(1, powers + 1) if found[f"{power}"]), default=0)
    if unit == "ns":
        coarser = max(coarser, 1)
    unit = list(UNITS)[powers - coarser]
    _refuse_unclear_unit(int(found["max"]) // 1000**coarser, unit, where)
    return column.cast(pl.Int64) // 1000**coarser, unit


def _refuse_unclear_unit(largest: int, unit: str, where: str) -> None:
    """The log's unit must be clear from its numbers."""
    if unit_of(largest) != unit:
        raise DataError(f"{where} holds fractions of a second but no time after 1973; allowed: whole seconds")


def _parse_clock(frame: pl.LazyFrame, where: str) -> pl.Expr:
    """ISO 8601 text to microseconds; most of the first rows decide whether the column carries time zones."""
    zones = pl.col(TIMESTAMP).str.strip_chars().str.contains(_ZONE)
    zoned = float(frame.head(_FIRST_ROWS).select(zones.mean()).collect(engine="streaming").item()) > 0.5
    text = pl.col(TIMESTAMP).str.strip_chars().str.replace(" ", "T", literal=True)
    if zoned:
        utc = text.str.replace(r"[zZ]$", "+00:00")
        parsed = utc.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%#z", strict=False, time_unit="us", time_zone="UTC")
    else:
        forms = [text.str.to_datetime(clock, strict=False, time_unit="us") for clock in _CLOCKS[:2]]
        forms.append(text.str.to_date(_CLOCKS[2], strict=False).cast(pl.Datetime("us")))
        parsed = pl.coalesce(forms)
    ticks = parsed.dt.epoch("us")
    _refuse_unparsed(frame, TIMESTAMP, ticks, where, ALLOWED_TIMES)
    return ticks


def _refuse_unparsed(frame: pl.LazyFrame, key: str, parsed: pl.Expr, where: str, allowed: str) -> None:
    failed = parsed.is_null()
    if not frame.select(failed.any()).collect(engine="streaming").item():
        return
    count, row, value = _first(frame, failed, key)
    found = (
        f"1 value does not parse (row {row}: {value!r})"
        if count == 1
        else f"{count} values do not parse (first in row {row}: {value!r})"
    )
    raise DataError(f"{where}: {found}; allowed: {allowed}")


def _first(frame: pl.LazyFrame, wrong: pl.Expr, key: str) -> tuple[int, int, object]:
    """How many rows are wrong, at least one, the number of the first of them (from 1), and what it holds."""
    bad = frame.with_row_index("row").filter(wrong).select(pl.len(), pl.col("row").min())
    count, row = bad.collect(engine="streaming").row(0)
    value = frame.select(key).slice(row, 1).collect(engine="streaming").item()
    return count, row + 1, value
