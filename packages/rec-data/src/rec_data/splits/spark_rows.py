"""The rows of a log on Spark: counted, filtered, encoded, and written in parts of its users.

The steps are those of `rec_data.splits.encode`, as data frames. The results lie in a folder that all workers reach:
``users_in_order`` and ``items_in_order`` hold the original ids in the order of the dense ones, ``users/part=N`` and
``rows/part=N`` the users and the rows of the part N.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as f
from pyspark.sql import types as t

from rec_data.errors import DataError
from rec_data.raw.timestamps import unit_of
from rec_data.schema import ITEM, TIMESTAMP, USER
from rec_data.splits.clock import nothing_before, to_ticks
from rec_data.splits.encode import nothing_left

CODE, PART = "code", "part"
"""Columns: the dense id in the filtered log, and the number of the part."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What was found when a log was encoded on Spark."""

    raw: dict[str, int]
    """Users, items and interactions before the filters."""
    unit: str
    """Of the times, a key of ``rec_data.schema.UNITS``."""
    cut: int
    """Interactions from ``until`` on."""
    parts: int
    users: int
    items: int


def encode_on_spark(
    log: DataFrame,
    work: Path,
    *,
    rows_per_part: int,
    parts: int | None,
    min_item_count: int | None,
    min_user_count: int | None,
    until: int | str | None = None,
    order: Sequence[str] = (),
) -> Encoded:
    """Filter, encode and divide a log, as `rec_data.splits.encode.encode` does it in memory.

    Args:
        log: ``user_id``, ``item_id`` (integers or strings) and ``timestamp`` (integers).
        work: An empty folder that the driver and every worker reach by this path.
        rows_per_part: About how many rows of the log a part gets, if
        parts: the number of parts is None.
        min_item_count: Drop items with fewer interactions, then
        min_user_count: users with fewer of the remaining ones; None keeps all.
        until: Everything is as if the log ended before this moment.
        order: Further columns of the log, by which a user's events with equal times are sorted.

    Raises:
        DataError: A missing column, a wrong type, nulls, no rows, or no rows left by the filters.
    """
    _check_columns(log)
    log = log.select(USER, ITEM, f.col(TIMESTAMP).cast("bigint").alias(TIMESTAMP), *order)
    rows, first, last = _check_values(log)
    unit, cut = unit_of(last), 0
    if until is not None:
        end = to_ticks(until, unit)
        log = log.where(f.col(TIMESTAMP) < end)
        cut, rows = rows, log.count()
        cut -= rows
        if rows == 0:
            raise nothing_before(end, first)
    parts = parts or -(-rows // rows_per_part)
    items, all_items, num_items = _number(log, ITEM, "item", min_item_count, work)
    kept = log.join(items.withColumnRenamed(CODE, "item"), ITEM)
    users, raw_users, num_users = _number(kept, USER, "user", min_user_count, work)
    if num_items < all_items:
        raw_users = log.select(USER).distinct().count()
    # The hash of `rec_data.sequences.parts`.
    users = users.withColumn(PART, (1 + f.crc32(f.col(USER).cast("string").cast("binary")) % parts).cast("int"))
    _write_parts(users, [CODE], work / "users", parts, [CODE, USER])
    coded = kept.join(users.withColumnRenamed(CODE, "user"), USER)
    _write_parts(coded, ["user", TIMESTAMP, *order], work / "rows", parts, ["user", "item", TIMESTAMP])
    raw = {"users": raw_users, "items": all_items, "interactions": rows}
    return Encoded(raw=raw, unit=unit, cut=cut, parts=parts, users=num_users, items=num_items)


def read_in_order(folder: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a sorted folder that Spark wrote, whose files are in the order of their names."""
    for path in sorted(folder.glob("part-*.parquet")):
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(1 << 20, columns=columns)


def _check_columns(log: DataFrame) -> None:
    kinds = {field.name: field.dataType for field in log.schema.fields}
    integers = (t.ByteType, t.ShortType, t.IntegerType, t.LongType)
    for name, strings in ((USER, (t.StringType,)), (ITEM, (t.StringType,)), (TIMESTAMP, ())):
        if name not in kinds:
            raise DataError(
                f"the log: found the columns {', '.join(kinds)}, allowed: {USER}, {ITEM} and {TIMESTAMP} "
                f"(--select 'visitor AS {name}' names another one)"
            )
        if not isinstance(kinds[name], (*integers, *strings)):
            allowed = "integers or strings" if strings else "integers (--select 'unix_micros(timestamp) AS timestamp')"
            raise DataError(f"the log: column {name!r} holds {kinds[name].simpleString()}; allowed: {allowed}")


def _check_values(log: DataFrame) -> tuple[int, int, int]:
    """The number of rows, the first time and the last."""
    nulls = [f.count_if(f.col(name).isNull()) for name in (USER, ITEM, TIMESTAMP)]
    (found,) = log.agg(f.count("*"), f.min(TIMESTAMP), f.max(TIMESTAMP), *nulls).collect()
    rows, first, last, *empty = found
    if rows == 0:
        raise DataError("the log has no rows")
    for name, count in zip((USER, ITEM, TIMESTAMP), empty, strict=True):
        if count:
            values = "1 empty value" if count == 1 else f"{count} empty values"
            raise DataError(f"the log: column {name!r} has {values}; allowed: none")
    return rows, first, last


def _number(rows: DataFrame, key: str, what: str, fewest: int | None, work: Path) -> tuple[DataFrame, int, int]:
    """Count, filter and sort the ids of a column, and number them from 0 in their order.

    Spark sorts integers by value and strings by their bytes, as polars does.

    Returns:
        The ids with their ``code``, and how many there were before and after the filter.
    """
    session, counted, placed = rows.sparkSession, work / f"{what}_counts", work / f"{what}s_in_order"
    rows.groupBy(key).agg(f.count("*").alias("count")).write.parquet(counted.as_uri())
    counts = session.read.parquet(counted.as_uri())
    kept = counts if fewest is None else counts.where(f.col("count") >= fewest)
    # The id of a row holds the number of its partition and, in the lower 33 bits, that within it.
    kept.orderBy(key).withColumn("place", f.monotonically_increasing_id()).write.parquet(placed.as_uri())
    found = session.read.parquet(placed.as_uri())
    before, partition = counts.count(), f.shiftright("place", 33).alias("partition")
    sizes = sorted((row[0], row[1]) for row in found.groupBy(partition).count().collect())
    if not sizes:
        raise nothing_left(what, fewest, before)
    ends = np.cumsum([size for _, size in sizes]).tolist()
    if ends[-1] >= 2**31:
        raise DataError(f"the log: found {ends[-1]} {what}s, allowed: below 2^31")
    starts = [(number, end - size) for (number, size), end in zip(sizes, ends, strict=True)]
    offsets = f.broadcast(session.createDataFrame(starts, "partition long, start long"))
    code = (f.col("start") + f.col("place").bitwiseAND(2**33 - 1)).cast("int").alias(CODE)
    return found.withColumn("partition", partition).join(offsets, "partition").select(key, code), before, ends[-1]


def _write_parts(frame: DataFrame, order: list[str], folder: Path, parts: int, columns: list[str]) -> None:
    """Write the rows of each part in this order, in a folder of its own."""
    frame = frame.repartition(parts, PART).sortWithinPartitions(PART, *order).select(*columns, PART)
    frame.write.partitionBy(PART).parquet(folder.as_uri())
