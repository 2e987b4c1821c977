"""Synthetic logs with the published shape of a data set, for measuring memory and time without its data.

A synthetic log has the users, items and interactions that the data set has *after* the published filters, so that its
split has the published catalogue. Sequence lengths are log-normal and item popularity follows a Zipf-Mandelbrot law.
Every item occurs at least five times and every user has at least three interactions, so the filters of the split drop
nothing. The order of items is random: accuracies measured on a synthetic log mean nothing.

Needs numpy and pyarrow, but not polars. Memory: 4 bytes per interaction, plus one chunk.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data import arrays
from rec_data.arrays import Int32s, Int64s, to_arrow
from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.schema import ITEM, TIMESTAMP, USER

KIND = "twin"
PREFIX = f"{KIND}:"
"""How the names of synthetic logs begin."""

VERSION = 2
"""To be raised whenever the same name, scale and seed would give another log."""

START = 1_104_537_600
"""2005-01-01 00:00:00 UTC."""

MOST_INTERACTIONS = 2**31 - 1
"""Limit of a scaled log: 8 GiB of item ids, eight times the largest published data set."""

CHUNK_ROWS = 4_000_000
FEWEST_PER_USER = 3
FEWEST_PER_ITEM = 5
_TOP_ITEM_SHARE = 0.3
"""The most popular item has about this many interactions per user."""


@dataclass(frozen=True)
class LogShape:
    """The size of a data set that a synthetic log imitates."""

    users: int
    """After the published filters, like the other fields."""
    items: int
    interactions: int
    median_length: float
    """Median of the interactions per user; together with the mean it determines the log-normal distribution."""
    days: int
    """Time between the first and the last interaction."""
    estimated: tuple[str, ...] = ()
    """Fields that no publication states, so that they are our estimates."""

    def scaled(self, factor: float) -> "LogShape":
        """Multiply users, items and interactions by ``factor`` > 0; sequence lengths stay the same."""
        users, items, rows = (max(2, round(x * factor)) for x in (self.users, self.items, self.interactions))
        return replace(self, users=users, items=items, interactions=max(rows, FEWEST_PER_USER * users))


SHAPES = {
    "movielens_20m": LogShape(138_078, 15_405, 12_180_742, 43, 7_300, ("median_length",)),
    "beauty": LogShape(673_952, 176_450, 5_027_587, 5.5, 8_300, ("median_length",)),
    "zvuk": LogShape(370_528, 893_022, 243_411_750, 165, 120),
    "megamarket": LogShape(350_267, 1_661_327, 114_846_280, 97, 120),
    "30music": LogShape(44_381, 909_487, 25_639_260, 260, 365, ("median_length", "days")),
    "gowalla": LogShape(84_766, 308_962, 4_660_733, 22, 620, ("median_length", "days")),
    "completejourney": LogShape(2_458, 28_165, 1_401_647, 387, 365),
}
"""What the paper and its authors' notebooks print, after filtering; of completejourney, what the filters leave. They
print the median length of a validation user's past, 146 for Zvuk and 85 for Megamarket: it is that of the split of
these logs (`temporal`)."""


def parse(spec: str) -> tuple[str, LogShape]:
    """Parse ``name`` or ``name@scale``, with or without ``PREFIX``: the name without the scale, and the scaled shape.

    Raises:
        DataError: An unknown name, or a scale that is not a positive number or gives more than ``MOST_INTERACTIONS``.
    """
    spec = spec.removeprefix(PREFIX)
    where = f"dataset {PREFIX + spec!r}"
    name, at, scale = spec.partition("@")
    if name not in SHAPES:
        raise DataError(f"{where}: no twin {name!r}; allowed: {', '.join(SHAPES)}")
    shape = SHAPES[name]
    if not at:
        return name, shape
    try:
        factor = float(scale)
    except ValueError:
        factor = math.nan
    if not (0 < factor < math.inf):
        raise DataError(f"{where}: scale {scale!r}; allowed: a positive number, as in {PREFIX}{name}@0.01")
    most = MOST_INTERACTIONS / shape.interactions
    if factor > most:
        raise DataError(
            f"{where}: scale {scale!r} makes {factor * shape.interactions:.2g} interactions; allowed: scales up to "
            f"{most:.4g}"
        )
    return name, shape.scaled(factor)


def write_synthetic_log(shape: LogShape, out: Path, *, seed: int) -> int:
    """Write a synthetic log, grouped by user, in time order within each user, and return the number of rows.

    The parquet file holds ``user_id`` int32, ``item_id`` int32 and ``timestamp`` int64 (Unix seconds). Equal seeds give
    equal files.
    """
    rows = 0
    with (
        pq.ParquetWriter(out, _SCHEMA, compression="zstd") as writer,
        progress("generate log", shape.interactions, "rows") as bar,
    ):
        for chunk in chunks(shape, seed=seed):
            writer.write_table(pa.table([to_arrow(column) for column in chunk], schema=_SCHEMA))
            rows += len(chunk[0])
            bar.update(len(chunk[0]))
    return rows


_SCHEMA = pa.schema([(USER, pa.int32()), (ITEM, pa.int32()), (TIMESTAMP, pa.int64())])


def chunks(shape: LogShape, *, seed: int) -> Iterator[tuple[Int32s, Int32s, Int64s]]:
    """Generate a synthetic log, a few million rows at a time.

    Yields:
        ``(users int32, items int32, times int64)`` of equal length: whole users, in order of user, then time.
    """
    rng = np.random.default_rng([VERSION, seed])
    lengths = user_lengths(shape, rng)
    items = np.repeat(np.arange(shape.items, dtype=np.int32), item_counts(shape))
    rng.shuffle(items)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    for run in arrays.chunks(offsets, CHUNK_ROWS):
        users = np.repeat(np.arange(run.start, run.stop, dtype=np.int32), lengths[run])
        yield users, items[offsets[run.start] : offsets[run.stop]], _times(shape, lengths[run], rng)


def user_lengths(shape: LogShape, rng: np.random.Generator) -> Int64s:
    """Draw the interactions of every user, ``[users]``: log-normal, at least three, their sum that of the shape."""
    mean = shape.interactions / shape.users
    sigma = math.sqrt(2 * math.log(max(mean / shape.median_length, 1.01)))
    drawn = rng.lognormal(0.0, sigma, shape.users)
    low, high = 0.0, 2.0 * mean
    for _ in range(60):  # bisect for the factor that gives the clipped, rounded values the right sum
        factor = (low + high) / 2
        total = np.maximum(np.rint(drawn * factor), FEWEST_PER_USER).sum()
        low, high = (factor, high) if total < shape.interactions else (low, factor)
    lengths: Int64s = np.maximum(np.rint(drawn * low), FEWEST_PER_USER).astype(np.int64)
    missing = shape.interactions - int(lengths.sum())
    lengths[: abs(missing) % shape.users] += 1 if missing > 0 else 0
    lengths += missing // shape.users if missing > 0 else 0
    return lengths


def item_counts(shape: LogShape) -> Int64s:
    """Compute the interactions of every item: a minimum for all, the rest by a Zipf-Mandelbrot law with exponent 1.

    The law's offset is chosen so that the most popular item has ``_TOP_ITEM_SHARE`` interactions per user. Returns
    ``[items]`` int64 with exactly the sum of the shape; item 0 is the most popular.
    """
    floor = min(FEWEST_PER_ITEM, shape.interactions // shape.items)
    rest = shape.interactions - floor * shape.items
    rank = np.arange(shape.items, dtype=np.float64)
    wanted = max(_TOP_ITEM_SHARE * shape.users / max(rest, 1), 2.0 / shape.items)
    low, high = 1e-3, float(shape.items)
    for _ in range(60):
        offset = math.sqrt(low * high)
        weight = 1.0 / (rank + offset)
        low, high = (low, offset) if weight[0] / weight.sum() < wanted else (offset, high)
    share = 1.0 / (rank + low)
    edges: Int64s = np.floor(np.cumsum(share / share.sum()) * rest + 0.5).astype(np.int64)
    edges[-1] = rest
    edges[1:] -= edges[:-1].copy()  # cumulative sums become counts
    edges += floor
    return edges


def _times(shape: LogShape, lengths: Int64s, rng: np.random.Generator) -> Int64s:
    """Draw the times of some users, who arrive at random and stay for a random part of the remaining time."""
    span = shape.days * 86_400.0
    arrival = rng.random(lengths.size) * 0.9 * span
    stay = (span - arrival) * rng.random(lengths.size)
    total = np.cumsum(rng.standard_exponential(int(lengths.sum())))
    ends = np.cumsum(lengths)
    begin = np.concatenate(([0.0], total[ends - 1][:-1]))
    before, whole = np.repeat(begin, lengths), np.repeat(total[ends - 1] - begin, lengths)
    along = (total - before) / whole  # in (0, 1], ascending within a user
    times: Int64s = (np.repeat(arrival, lengths) + np.repeat(stay, lengths) * along).astype(np.int64)
    times += START
    return times
