"""A log's parquet file to dense, filtered, sorted arrays.

Polars counts, filters and encodes in streaming passes over the file, holding 16 bytes per interaction, then sorts once.
Dense ids follow the order of the original ids, so they do not depend on the order of rows. Items of an earlier
catalogue keep their ids, and new items follow them.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from rec_data.errors import DataError
from rec_data.raw.files import reading, require_columns
from rec_data.raw.timestamps import unit_of
from rec_data.schema import ITEM, ORIGINAL_ID, TIMESTAMP, USER
from rec_data.splits.clock import nothing_before, to_ticks
from rec_data.splits.each_part import Logs
from rec_data.splits.sorted_log import SortedLog
from rec_data.stated import stated
from rec_data.ties import Ties, resolve_ties


@dataclass(frozen=True, kw_only=True)
class LogFacts:
    """What was found when a log was filtered and sorted."""

    raw: dict[str, int]
    """Users, items and interactions before filtering."""
    dropped: dict[str, int]
    """What the filters dropped, by reason."""
    ties: Ties
    """How many of the interactions have equal times or are duplicates."""
    unit: str
    """Of the times, a key of ``rec_data.schema.UNITS``."""


@dataclass(frozen=True, kw_only=True)
class EncodedLog(LogFacts):
    """A filtered log and the original ids of its dense ids."""

    log: SortedLog
    user_names: pl.Series
    """Original user ids by dense id."""
    item_names: pl.Series
    """Original item ids by dense id."""

    @property
    def logs(self) -> Logs:
        """The log as the only part."""
        return [self.log]


@dataclass(frozen=True, kw_only=True)
class FilteredLog:
    """A log whose rows are kept or dropped, before its rows are collected."""

    rows: pl.LazyFrame
    """The kept rows in their order: ``user`` and ``item``, the dense ids, and ``timestamp``."""
    users: pl.Series
    """``[users]`` original ids by dense id."""
    items: pl.Series
    """``[items]`` the same of items."""
    raw: dict[str, int]
    """Users, items and interactions before filtering."""
    present: int
    """How many of the items the log has; an earlier catalogue can hold others."""
    unit: str
    """Of the times, a key of ``rec_data.schema.UNITS``."""
    first: int
    last: int
    """The times of the log lie from ``first`` to ``last``."""
    cut: int | None
    """Interactions from ``until`` on; None without ``until``."""

    def sort(self, rows: pl.LazyFrame, num_users: int) -> SortedLog:
        """Collect and sort rows of all or some users, which count from 0; rows with equal times keep their order."""
        return _sort(rows, self.first, self.last, num_users=num_users, num_items=len(self.items))

    def dropped(self, kept: int) -> dict[str, int]:
        """What was dropped, by reason, if ``kept`` interactions are left."""
        return count_dropped(self.raw, users=len(self.users), items=self.present, kept=kept, cut=self.cut)


def count_dropped(raw: dict[str, int], *, users: int, items: int, kept: int, cut: int | None) -> dict[str, int]:
    """What the filters dropped of a log, by reason, by what they kept; ``cut`` is None without ``until``."""
    dropped = {
        "items_below_min_count": raw["items"] - items,
        "users_below_min_count": raw["users"] - users,
        "interactions_by_filters": raw["interactions"] - kept,
    }
    return dropped if cut is None else dropped | {"interactions_from_test_until_on": cut}


def encode(
    path: Path,
    *,
    min_item_count: int | None,
    min_user_count: int | None,
    tie_seed: int | None,
    until: int | str | None = None,
    catalogue: pa.Array | None = None,
) -> EncodedLog:
    """Read, filter, encode and sort a log, as `filter_log` says.

    The interactions of a user that have equal times are shuffled (``rec_data.ties``); without a ``tie_seed`` they keep
    the order of rows.

    Raises:
        DataError: As `filter_log`.
    """
    with reading(f"log {path}"):
        found = filter_log(
            path, min_item_count=min_item_count, min_user_count=min_user_count, until=until, catalogue=catalogue
        )
        log = found.sort(found.rows, len(found.users))
    ordered, ties = resolve_ties(
        log.items,
        log.offsets,
        log.times,
        users=found.users.to_arrow(),
        catalogue=found.items.to_arrow(),
        seed=tie_seed,
    )
    return EncodedLog(
        log=replace(log, items=ordered),
        user_names=found.users,
        item_names=found.items,
        raw=found.raw,
        dropped=found.dropped(len(ordered)),
        ties=ties,
        unit=found.unit,
    )


def filter_log(
    path: Path,
    *,
    min_item_count: int | None,
    min_user_count: int | None,
    until: int | str | None = None,
    catalogue: pa.Array | None = None,
) -> FilteredLog:
    """Read and filter a log, and number its users and items, in streaming passes over the file.

    The filters are applied once and count rows: first items with fewer than ``min_item_count`` interactions are
    dropped, then users with fewer than ``min_user_count`` of the remaining interactions. None keeps all.

    With ``until``, a Unix time or ISO 8601, everything is as if the log ended before this moment.

    The items of a ``catalogue``, ``[V]`` original ids, get the dense ids 0 to V - 1, however rare they are and even if
    the log has none of them; the other items get the ids after these.

    The log is a parquet file with ``user_id``, ``item_id`` (integers or strings) and ``timestamp`` (integers).

    Raises:
        DataError: A missing file or column, a wrong type, nulls, no rows, or no rows left by the filters.
    """
    if not path.exists():
        raise DataError(f"no log {path}")
    frame = pl.scan_parquet(path)
    rows, first, last = _check(frame, path)
    unit, cut = unit_of(last), None
    if until is not None:
        end = to_ticks(until, unit)
        frame = frame.filter(pl.col(TIMESTAMP) < end)
        cut, rows = rows, int(frame.select(pl.len()).collect(engine="streaming").item())
        cut -= rows
        if rows == 0:
            raise nothing_before(end, first)
    item_counts = frame.group_by(ITEM).len().collect(engine="streaming")
    items = _names(item_counts, ITEM, "item", min_item_count, first=catalogue)
    present = len(items.join(item_counts, on=ITEM, how="semi"))
    kept = _keep(frame, items, ITEM, "item")
    user_counts = kept.group_by(USER).len().collect(engine="streaming")
    users = _names(user_counts, USER, "user", min_user_count)
    raw_users = len(user_counts)
    if present < len(item_counts):
        raw_users = int(frame.select(pl.col(USER).n_unique()).collect(engine="streaming").item())
    return FilteredLog(
        rows=_keep(kept, users, USER, "user"),
        users=users[USER].rename(ORIGINAL_ID),
        items=items[ITEM].rename(ORIGINAL_ID),
        raw={"users": raw_users, "items": len(item_counts), "interactions": rows},
        present=present,
        unit=unit,
        first=first,
        last=last,
        cut=cut,
    )


def _check(frame: pl.LazyFrame, path: Path) -> tuple[int, int, int]:
    """Check columns, types and nulls; returns the number of rows, the first time and the last."""
    schema = frame.collect_schema()
    require_columns(schema, {key: key for key in (USER, ITEM, TIMESTAMP)}, f"log {path}")
    for key in (USER, ITEM):
        if not (schema[key].is_integer() or schema[key] == pl.String):
            raise DataError(f"log {path}: column {key!r} holds {schema[key]}; allowed: integers or strings")
    if not schema[TIMESTAMP].is_integer():
        raise DataError(f"log {path}: column {TIMESTAMP!r} holds {schema[TIMESTAMP]}; allowed: integers")
    nulls = pl.col(USER, ITEM, TIMESTAMP).null_count()
    bounds = pl.col(TIMESTAMP).min().alias("first"), pl.col(TIMESTAMP).max().alias("last")
    rows, *counts, first, last = frame.select(pl.len(), nulls, *bounds).collect(engine="streaming").row(0)
    if rows == 0:
        raise DataError(f"log {path} has no rows")
    for key, count in zip((USER, ITEM, TIMESTAMP), counts, strict=True):
        if count:
            values = "1 empty value" if count == 1 else f"{count} empty values"
            raise DataError(f"log {path}: column {key!r} has {values}; allowed: none")
    return rows, first, last


def _names(
    counts: pl.DataFrame, key: str, what: str, fewest: int | None, first: pa.Array | None = None
) -> pl.DataFrame:
    """The ids that are kept, at least one, sorted, after those of ``first``."""
    kept = counts if fewest is None else counts.filter(pl.col("len") >= fewest)
    if first is not None:
        known = pl.DataFrame({key: pl.Series(first).cast(counts.schema[key])})
        return pl.concat([known, kept.select(key).join(known, on=key, how="anti").sort(key)])
    if kept.is_empty():
        raise nothing_left(what, fewest, len(counts))
    return kept.select(key).sort(key)


def nothing_left(what: str, fewest: int | None, found: int) -> DataError:
    """What is wrong with a filter that drops all users or items of a log."""
    return DataError(
        f"split.min_{what}_count {fewest} drops all {found} {what}s; allowed: a smaller one "
        f"({stated({f'split.min_{what}_count': 1})} keeps all)"
    )


def _keep(frame: pl.LazyFrame, names: pl.DataFrame, key: str, code: str) -> pl.LazyFrame:
    """The rows with kept ids, in their order, with the dense id as column ``code``."""
    codes = names.lazy().with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias(code))
    return frame.join(codes, on=key, how="inner", maintain_order="left")


def _sort(coded: pl.LazyFrame, first: int, last: int, *, num_users: int, num_items: int) -> SortedLog:
    """Sort by user and time, ties in row order; by one integer key if both fit into it.

    User and time can be recovered from the key, so that 12 instead of 24 bytes per row are collected and sorted.
    """
    bits = (last - first).bit_length()
    time = pl.col(TIMESTAMP).cast(pl.Int64)
    if bits + num_users.bit_length() < 64:
        key = pl.col("user").cast(pl.Int64) * (1 << bits) + (time - first)
        rows = coded.select(key.alias("key"), "item").collect(engine="streaming").sort("key", maintain_order=True)
        keys = rows["key"].to_numpy()
        offsets = np.searchsorted(keys, np.arange(num_users + 1, dtype=np.int64) << bits)
        times = keys & ((1 << bits) - 1)
        times += first
    else:
        rows = coded.select("user", time.alias(TIMESTAMP), "item").collect(engine="streaming")
        rows = rows.sort("user", TIMESTAMP, maintain_order=True)
        offsets = np.searchsorted(rows["user"].to_numpy(), np.arange(num_users + 1, dtype=np.int32))
        times = rows[TIMESTAMP].to_numpy()
    return SortedLog(offsets, rows["item"].to_numpy(), times, num_items)
