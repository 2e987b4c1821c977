"""How much a later log differs from an earlier one, and how much successive windows of the earlier one differ.

The later log B is one window. The earlier log A is cut into windows of the same length, from its end backwards. Each
window is measured against the one before it, B against the last window of A. Windows of one length have about the same
noise, so the measures of A say what is usual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rec_data.errors import DataError
from rec_data.raw.files import reading
from rec_data.raw.timestamps import to_datetime, unit_of
from rec_data.schema import ITEM, TIMESTAMP, UNITS, USER
from rec_data.splits.clock import dates_only, has_clock

_DAY = 86_400 * 10**9
FEWEST, MOST = 4, 30
"""Windows of A that are needed, and that are measured at most."""
FEWEST_EVENTS = 10
"""Of B that are later than A."""
Floats = npt.NDArray[np.float64]


class Window(NamedTuple):
    """A window of a log, and what it is like beside the one before it; NaN for the first window."""

    begin: str
    """ISO 8601, in UTC."""
    events: int
    users: int
    items: int
    turnover: float
    """1 - the share of the items of both windows that are in both (Jaccard distance): 0 to 1."""
    popularity: float
    """Jensen-Shannon divergence, in bits, of the shares of the items in the events of both windows: 0 to 1."""
    lengths: float
    """The greatest distance of the distribution functions of events per user (Kolmogorov-Smirnov): 0 to 1."""
    unknown: float
    """Share of the events on items that are unknown: too rare before the window, or not in the model's catalogue. NaN
    in the older half of the windows, if `FEWEST` others are left: the beginning of a log knows few items."""


class ItemChange(NamedTuple):
    """An item whose share of the events has changed."""

    item: int | str
    before: float
    """In the last window of A."""
    after: float
    """In B."""


@dataclass(frozen=True)
class Compared:
    """Two logs, cut into windows."""

    windows: list[Window]
    """Of A, from old to new, and B at last."""
    events: pl.LazyFrame
    """``user_id``, ``item_id``, ``timestamp`` (int64 nanoseconds) of A, and of B after the end of A."""
    spans: list[tuple[int, int]]
    """The first and the last nanosecond of each window."""
    left_out: int
    """Events of B that are not after the end of A."""
    changes: list[ItemChange]
    """The items whose shares have changed most."""


def compare_logs(
    a: Path, b: Path, *, min_item_count: int, known: pa.Array | None = None, changes: int = 10
) -> Compared:
    """Cut two logs into windows and measure them.

    Args:
        a: the earlier log, a parquet file as ``fetch_log`` writes it.
        b: the later log. What it holds of the time of A is left out.
        min_item_count: an item with fewer events before a window is unknown in it.
        known: the ids of a model's items, which then are those known in B.
        changes: how many items are listed.

    Raises:
        DataError: a log cannot be read or has no clock, B has fewer than `FEWEST_EVENTS` after the end of A, A is too
            short for `FEWEST` windows, or they have no item in common.
    """
    old, new = _Log.open("A", a), _Log.open("B", b)
    frame_a, frame_b = _of_one_type(old.frame, new.frame)
    frame_b = frame_b.filter(pl.col(TIMESTAMP) > old.last)
    with reading("log B"):
        later, begin = frame_b.select(pl.len(), pl.col(TIMESTAMP).min().alias("first")).collect().row(0)
    if later < FEWEST_EVENTS:
        raise DataError(
            f"B: found {later} events after the last one of A, {_date(old.last)}, allowed: at least {FEWEST_EVENTS}; "
            "take a later log, or a longer one that begins with A"
        )
    step = max(old.step, new.step)
    length = new.last + step - begin
    count = min((old.last + step - old.first) // length, MOST)
    if count < FEWEST:
        raise DataError(
            f"A: found {count} windows of the length of B ({length / _DAY:.3g} days), allowed: at least {FEWEST}; take "
            "a longer A or a shorter B"
        )
    begins = [old.last + step - number * length for number in range(count, 0, -1)]
    number = pl.when(pl.col(TIMESTAMP) > old.last).then(count).otherwise((pl.col(TIMESTAMP) - begins[0]) // length)
    number = pl.max_horizontal(number, -1).cast(pl.Int32).alias("window")  # -1: before the first window
    events = pl.concat([frame_a, frame_b])
    with reading("logs A and B"):
        by_item = events.group_by(number, ITEM).len().collect(engine="streaming")
        by_user = events.group_by(number, USER).len().collect(engine="streaming")
    names = by_item[ITEM].unique().sort()
    by_item = by_item.join(names.to_frame().with_row_index("code"), on=ITEM)
    lengths = [np.sort(by_user.filter(window=window)["len"].to_numpy()) for window in range(count + 1)]
    before = _vector(by_item, -1, len(names))
    last = np.zeros(len(names))
    windows: list[Window] = []
    for window, start in enumerate([*begins, begin]):
        own = _vector(by_item, window, len(names))
        rare = before < min_item_count
        if window == count:
            if not (before * own).any():
                raise DataError(
                    "A and B: found no item in both, allowed: two logs of one catalogue; the column of the items is "
                    "download.columns.item"
                )
            if known is not None:
                rare = ~names.cast(pl.String).is_in(pl.Series(known.cast(pa.large_string())).implode()).to_numpy()
        sizes = int(own.sum()), len(lengths[window]), int(np.count_nonzero(own))
        measures = (math.nan,) * 4
        if own.any() and last.any():
            measures = (
                float(1 - np.count_nonzero(own * last) / np.count_nonzero(own + last)),
                jensen_shannon(last, own),
                largest_gap(lengths[window - 1], lengths[window]),
                float(own[rare].sum() / own.sum()) if window >= min(count // 2, count - FEWEST + 1) else math.nan,
            )
        windows.append(Window(_date(start), *sizes, *measures))
        before, last, previous = before + own, own, last
    shares = [vector / max(vector.sum(), 1) for vector in (previous, last)]
    most = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:changes]
    changed = [ItemChange(names[int(row)], float(shares[0][row]), float(shares[1][row])) for row in most]
    spans = [(start, start + length - 1) for start in [*begins, begin]]
    return Compared(windows, events, spans, new.rows - later, changed)


def jensen_shannon(one: Floats, other: Floats) -> float:
    """The Jensen-Shannon divergence of two vectors ``[n]`` of counts, in bits: 0 if their shares are equal, at most 1.

    ``H((p + q) / 2) - (H(p) + H(q)) / 2`` with the entropy H (Lin, "Divergence measures based on the Shannon entropy",
    1991).
    """
    p, q = one / one.sum(), other / other.sum()

    def entropy(shares: Floats) -> float:
        positive = shares[shares > 0]
        return float(-(positive @ np.log2(positive)))

    return max(0.0, entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2)


def largest_gap(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """The largest gap between the distribution functions of two sorted samples (Kolmogorov-Smirnov)."""
    values = np.concatenate([one, other])
    below = [np.searchsorted(sample, values, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(below[0] - below[1]).max())


class _Log(NamedTuple):
    """One of the logs, its times in nanoseconds."""

    frame: pl.LazyFrame
    first: int
    last: int
    step: int
    """The finest difference of times: a day, if they are dates."""
    rows: int

    @classmethod
    def open(cls, name: str, path: Path) -> _Log:
        """Read the times of a log.

        Raises:
            DataError: the log cannot be read, is empty, or has positions instead of times.
        """
        with reading(f"log {name}"):
            times = pl.read_parquet(path, columns=[TIMESTAMP])[TIMESTAMP].cast(pl.Int64).to_numpy()
        if not len(times) or not has_clock(times):
            raise DataError(
                f"{name}: found no times, or positions instead of Unix times after 1990, allowed: a log with a column "
                "of times (download.columns.timestamp, and download.time_format for dates in another form)"
            )
        unit = unit_of(int(times.max()))
        scale = 10**9 // UNITS[unit]
        frame = pl.scan_parquet(path).select(USER, ITEM, pl.col(TIMESTAMP).cast(pl.Int64) * scale)
        step = _DAY if dates_only(times) else scale
        return cls(frame, int(times.min()) * scale, int(times.max()) * scale, step, len(times))


def _of_one_type(one: pl.LazyFrame, other: pl.LazyFrame) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Two logs with ids of the same types: 64-bit integers, or text if one of them has text."""
    schemas = one.collect_schema(), other.collect_schema()
    kinds = [
        pl.col(key).cast(pl.Int64 if all(schema[key].is_integer() for schema in schemas) else pl.String)
        for key in (USER, ITEM)
    ]
    return one.with_columns(kinds), other.with_columns(kinds)


def _vector(counts: pl.DataFrame, window: int, size: int) -> Floats:
    """Events ``[size]`` of each item in a window."""
    rows = counts.filter(window=window)
    return np.bincount(rows["code"].to_numpy(), rows["len"].to_numpy(), size).astype(np.float64)


def _date(nanoseconds: int) -> str:
    return to_datetime(nanoseconds // 10**9).replace(tzinfo=None).isoformat(" ")
