"""Synthetic logs with the published shape of a data set, for measuring memory and time without its data.

A twin has the users, items and interactions that the data set has *after* the published filters, so that its split
has the published catalogue. Sequence lengths are log-normal, item popularity follows a Zipf-Mandelbrot law, every
item occurs at least five times and every user has at least three interactions, so the filters of the protocol drop
nothing. Order carries no information: a twin says nothing about accuracy.

Needs numpy and pyarrow, no polars. Memory: 4 bytes per interaction, plus one chunk.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.schema import ITEM, TIMESTAMP, USER, to_arrow

VERSION = 1
"""Raise it whenever the same name, scale and seed would give another log."""

START = 1_104_537_600
"""2005-01-01 00:00:00 UTC."""

MOST_INTERACTIONS = 2**31 - 1
"""Of a scaled twin: 8 GiB of item ids, eight times the largest published set."""

CHUNK_ROWS = 4_000_000
FEWEST_PER_USER = 3
FEWEST_PER_ITEM = 5
_TOP_ITEM_SHARE = 0.3
"""The most popular item has about this many interactions per user."""


@dataclass(frozen=True)
class TwinShape:
    """What a twin imitates."""

    users: int
    """After the published filters, like all that follow."""

    items: int
    interactions: int
    median_length: float
    """Median of the interactions per user; with the mean it fixes the log-normal."""

    days: int
    """Time between the first and the last interaction."""

    estimated: tuple[str, ...] = ()
    """Fields that no publication states: our estimates."""

    def scaled(self, factor: float) -> "TwinShape":
        """The same shape with users, items and interactions times ``factor``, above 0; lengths stay as they are."""
        users, items, rows = (max(2, round(x * factor)) for x in (self.users, self.items, self.interactions))
        return replace(self, users=users, items=items, interactions=max(rows, FEWEST_PER_USER * users))


TWINS = {
    "movielens_20m": TwinShape(138_078, 15_405, 12_180_742, 43, 7_300, ("median_length",)),
    "beauty": TwinShape(673_952, 176_450, 5_027_587, 5.5, 5_000, ("median_length", "days")),
    "zvuk": TwinShape(370_528, 893_022, 243_411_750, 290, 150, ("median_length", "days")),
    "megamarket": TwinShape(350_267, 1_661_327, 114_846_280, 170, 365, ("median_length", "days")),
    "30music": TwinShape(
        44_900, 900_000, 23_500_000, 260, 365, ("users", "items", "interactions", "median_length", "days")
    ),
    "gowalla": TwinShape(
        100_000, 290_000, 4_500_000, 22, 620, ("users", "items", "interactions", "median_length", "days")
    ),
}
"""Published sizes after filtering, or estimates where the fields say so (30Music and Gowalla publish raw sizes only).
"""


def parse(spec: str) -> tuple[str, TwinShape]:
    """Reads what follows ``twin:``.

    Args:
        spec: ``name`` or ``name@scale``.

    Returns:
        The name, and the shape already scaled.

    Raises:
        DataError: An unknown name, or a scale that is not a positive number, or makes more than ``MOST_INTERACTIONS``.
    """
    name, at, scale = spec.partition("@")
    if name not in TWINS:
        raise DataError(f"dataset 'twin:{spec}': no twin {name!r}; allowed: {', '.join(TWINS)}")
    if not at:
        return name, TWINS[name]
    try:
        factor = float(scale)
    except ValueError:
        factor = math.nan
    if not (0 < factor < math.inf):
        raise DataError(f"dataset 'twin:{spec}': scale {scale!r}; allowed: a positive number, as in twin:{name}@0.01")
    most = MOST_INTERACTIONS / TWINS[name].interactions
    if factor > most:
        raise DataError(
            f"dataset 'twin:{spec}': scale {scale!r} makes {factor * TWINS[name].interactions:.2g} interactions; "
            f"allowed: scales up to {most:.4g}"
        )
    return name, TWINS[name].scaled(factor)


def write_twin(shape: TwinShape, out: Path, *, seed: int) -> int:
    """Writes a twin's log, grouped by user, in time order inside a user.

    Args:
        shape: The twin's size.
        out: The parquet to write: ``user_id`` int32, ``item_id`` int32, ``timestamp`` int64 (Unix seconds).
        seed: Same seed, same file.

    Returns:
        Rows written.
    """
    rows = 0
    with (
        pq.ParquetWriter(out, _SCHEMA, compression="zstd") as writer,
        progress("make twin", shape.interactions, "rows") as bar,
    ):
        for chunk in chunks(shape, seed=seed):
            writer.write_table(pa.table([to_arrow(column) for column in chunk], schema=_SCHEMA))
            rows += len(chunk[0])
            bar.update(len(chunk[0]))
    return rows


_SCHEMA = pa.schema([(USER, pa.int32()), (ITEM, pa.int32()), (TIMESTAMP, pa.int64())])
_Chunk = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]


def chunks(shape: TwinShape, *, seed: int) -> Iterator[_Chunk]:
    """A twin's log, some millions of rows at a time.

    Args:
        shape: The twin's size.
        seed: Same seed, same rows.

    Yields:
        ``(users int32, items int32, times int64)`` of one length, whole users, in order of user, then time.
    """
    rng = np.random.default_rng([VERSION, seed])
    lengths = user_lengths(shape, rng)
    items = np.repeat(np.arange(shape.items, dtype=np.int32), item_counts(shape))
    rng.shuffle(items)
    ends = np.cumsum(lengths)
    first = 0
    while first < shape.users:
        done = int(ends[first] - lengths[first])
        last = max(first + 1, int(np.searchsorted(ends, done + CHUNK_ROWS, side="right")))
        part = lengths[first:last]
        users = np.repeat(np.arange(first, last, dtype=np.int32), part)
        yield users, items[done : int(ends[last - 1])], _times(shape, part, rng)
        first = last


def user_lengths(shape: TwinShape, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Interactions of every user: log-normal, at least three, summing exactly to the twin's interactions.

    Args:
        shape: The twin's size.
        rng: Where the draws come from.

    Returns:
        [users] int64.
    """
    mean = shape.interactions / shape.users
    sigma = math.sqrt(2 * math.log(max(mean / shape.median_length, 1.01)))
    drawn = rng.lognormal(0.0, sigma, shape.users)
    low, high = 0.0, 2.0 * mean
    for _ in range(60):  # the factor that makes the clipped, rounded sum right
        factor = (low + high) / 2
        total = np.maximum(np.rint(drawn * factor), FEWEST_PER_USER).sum()
        low, high = (factor, high) if total < shape.interactions else (low, factor)
    lengths = np.maximum(np.rint(drawn * low), FEWEST_PER_USER).astype(np.int64)
    missing = shape.interactions - int(lengths.sum())
    lengths[: abs(missing) % shape.users] += 1 if missing > 0 else 0
    lengths += missing // shape.users if missing > 0 else 0
    return lengths


def item_counts(shape: TwinShape) -> npt.NDArray[np.int64]:
    """Interactions of every item: a floor for all, the rest by a Zipf-Mandelbrot law with exponent 1.

    The law's offset is chosen so that the most popular item has ``_TOP_ITEM_SHARE`` interactions per user.

    Args:
        shape: The twin's size.

    Returns:
        [items] int64, summing exactly to the twin's interactions; item 0 is the most popular.
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
    edges: npt.NDArray[np.int64] = np.floor(np.cumsum(share / share.sum()) * rest + 0.5).astype(np.int64)
    edges[-1] = rest
    edges[1:] -= edges[:-1].copy()  # now counts
    edges += floor
    return edges


def _times(shape: TwinShape, lengths: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Times of some users: everyone arrives at random and stays for a random part of what is left."""
    span = shape.days * 86_400.0
    arrival = rng.random(lengths.size) * 0.9 * span
    stay = (span - arrival) * rng.random(lengths.size)
    total = np.cumsum(rng.standard_exponential(int(lengths.sum())))
    ends = np.cumsum(lengths)
    begin = np.concatenate(([0.0], total[ends - 1][:-1]))
    part, whole = np.repeat(begin, lengths), np.repeat(total[ends - 1] - begin, lengths)
    along = (total - part) / whole  # in (0, 1], rising along a user
    times: npt.NDArray[np.int64] = (np.repeat(arrival, lengths) + np.repeat(stay, lengths) * along).astype(np.int64)
    times += START
    return times
