"""What a log is like: its size, its lengths, its popularity, its clock, and how much its order matters.

Run::

    python -m rec_data.describe demo
    python -m rec_data.describe path/to/events.parquet --user visitor --out folder/for/pictures
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rec_data import arrays as flat
from rec_data.arrays import Int32s, Int64s
from rec_data.errors import DataError
from rec_data.raw.files import writing
from rec_data.raw.timestamps import EARLIEST_CLOCK, UNITS, to_datetime, unit_of
from rec_data.schema import ITEM, TIMESTAMP, USER, Columns
from rec_data.sources.fetch import fetch_log
from rec_data.splits.encode import encode
from rec_data.splits.strategies import SortedLog

# One picture of a log: lengths, popularity, activity and order.
_BLUE, _ORANGE, _GREY = "#2f5d8a", "#d9822b", "#8a8f98"


def draw(log: Path, out: Path, *, title: str, seed: int = 0) -> Path:
    """Draws four panels: sequence lengths, item popularity, interactions over time, and the order test.

    Args:
        log: The parquet of ``fetch_log``.
        out: The PNG to write.
        title: Headline.
        seed: Of the order test.

    Returns:
        ``out``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = encode(log, min_item_count=None, min_user_count=None).log
    lengths = np.diff(rows.offsets)
    counts = np.sort(flat.count(rows.items, rows.num_items))[::-1]
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    (ax_length, ax_items), (ax_time, ax_order) = figure.subplots(2, 2)
    figure.suptitle(
        f"{title}: {rows.num_users:,} users, {rows.num_items:,} items, {len(rows.items):,} interactions", fontsize=13
    )

    edges, users = users_a_doubling(lengths)
    ax_length.stairs(users, edges, fill=True, color=_BLUE)
    ax_length.axvline(float(np.median(lengths)), color=_ORANGE, label=f"median {np.median(lengths):,.0f}")
    ax_length.axvline(float(lengths.mean()), color=_GREY, linestyle="--", label=f"mean {lengths.mean():,.1f}")
    ax_length.set(
        xscale="log",
        title="Sequence length",
        xlabel="interactions of a user",
        ylabel="users per doubling of the length",
    )
    ax_length.legend(frameon=False)

    rank = np.unique(np.geomspace(1, len(counts), 400).astype(int))
    share = counts[: max(1, len(counts) // 100)].sum() / counts.sum()
    ax_items.plot(rank, counts[rank - 1], color=_BLUE, linewidth=2)
    ax_items.set(xscale="log", yscale="log", title=f"Popularity: the top 1 % of the items have {share:.0%}")
    ax_items.set(xlabel="rank of an item", ylabel="interactions")

    ticks = UNITS[unit_of(int(rows.times.max()))]
    height, edges = np.histogram(rows.times, bins=80)
    if has_clock(rows.times):
        days = edges / ticks / 86_400  # since 1970, as matplotlib counts
        ax_time.stairs(height, days, fill=True, color=_BLUE, alpha=0.85)
        ax_time.xaxis_date()
        ax_time.set(title="Activity", ylabel="interactions")
        ax_time.tick_params(axis="x", rotation=30)
    else:
        ax_time.stairs(height, edges, fill=True, color=_BLUE, alpha=0.85)
        ax_time.set(title="Positions (the log has no clock)", xlabel="time column", ylabel="interactions")

    order = order_test(rows, seed=seed)
    bars = ax_order.bar(["true order", "shuffled"], [order.ordered, order.shuffled], color=[_BLUE, _GREY], width=0.55)
    ax_order.bar_label(bars, fmt=lambda value: f"{value:.1%}", padding=3)
    ax_order.set(title="Order: a last item foretold by the one before", ylabel="hit rate at 10")
    low, high = (100 * bound for bound in order.drop_interval)
    ax_order.set_xlabel(f"difference: {low:.1f} to {high:.1f} points (95 % interval, {order.users:,} users)")
    ax_order.margins(y=0.15)
    for axes in (ax_length, ax_items, ax_time, ax_order):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)
    return out


def users_a_doubling(lengths: Int64s) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How many users have each length, for a logarithmic axis: areas are users there, however many lengths a bin holds.

    Args:
        lengths: [users] int64, >= 1.

    Returns:
        [bins + 1] edges half way between whole lengths, and [bins] users over the doublings from edge to edge.
    """
    edges: npt.NDArray[np.float64] = np.unique(np.geomspace(1, lengths.max() + 1, 30).round()) - 0.5
    users: npt.NDArray[np.float64] = np.histogram(lengths, bins=edges)[0] / np.diff(np.log2(edges))
    return edges, users


QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
ORDER_ROWS = 5_000_000
"""Interactions that the order test looks at, at most: a random sample of whole users."""

ORDER_K = 10


def describe(log: Path, *, seed: int = 0) -> dict[str, Any]:
    """Measures a log, without any filter.

    Args:
        log: The parquet of ``fetch_log``.
        seed: Of the sample and the shuffling of the order test.

    Returns:
        Facts, ready for JSON; ``as_text`` prints them.

    Raises:
        DataError: The log cannot be read.
    """
    rows = encode(log, min_item_count=None, min_user_count=None).log
    lengths, counts = np.diff(rows.offsets), flat.count(rows.items, rows.num_items)
    order = order_test(rows, seed=seed)
    repeats = count_repeats(rows)
    return {
        "users": rows.num_users,
        "items": rows.num_items,
        "interactions": len(rows.items),
        "density": (len(rows.items) - repeats) / (rows.num_users * rows.num_items),
        "length_mean": float(lengths.mean()),
        "length_quantiles": dict(zip(map(str, QUANTILES), np.quantile(lengths, QUANTILES).tolist(), strict=True)),
        "items_below_5": int((counts < 5).sum()),
        "popularity_gini": gini(counts),
        "repeat_share": repeats / len(rows.items),
        **_time_facts(rows.times),
        "markov_hit_rate": order.ordered,
        "markov_hit_rate_shuffled": order.shuffled,
        "markov_users": order.users,
        "markov_drop_interval": list(order.drop_interval),
    }


def gini(counts: Int64s) -> float:
    """Gini coefficient of the counts: 0 where all are equal, near 1 where one has all.

    ``2 sum_i i x_i / (n sum x) - (n + 1) / n`` over the counts in ascending order, i from 1 (Sen, "On Economic
    Inequality", 1973).

    Args:
        counts: [n] int64, not all 0.
    """
    ranked = np.sort(counts).astype(np.float64)
    n = len(ranked)
    return float(2 * (np.arange(1, n + 1) @ ranked) / (n * ranked.sum()) - (n + 1) / n)


def count_repeats(log: SortedLog) -> int:
    """Interactions of a log in which a user meets an item again; the others are its distinct pairs."""
    keys = np.repeat(np.arange(log.num_users, dtype=np.int64) * log.num_items, np.diff(log.offsets))
    keys += log.items
    keys.sort()
    return int(np.count_nonzero(keys[1:] == keys[:-1]))


class OrderTest(NamedTuple):
    """How well a last item is foretold by the one before it."""

    ordered: float
    """Hit rate in the true order, from 0 to 1, over the tested users."""

    shuffled: float
    """The same with each user's items shuffled."""

    users: int
    """Tested: those with at least three items."""

    drop_interval: tuple[float, float]
    """95 % interval of ``ordered - shuffled``."""


def order_test(log: SortedLog, *, seed: int) -> OrderTest:
    """How well an item's most frequent successors foretell the last item of a user, in the true order and shuffled.

    Successors are counted over all steps but each user's last; that one is foretold by the ``ORDER_K`` most frequent
    successors of the item before it. What remains after shuffling is due to popularity and taste, the drop to order.
    Each user is tested both ways, so the drop is a difference of paired proportions.

    Args:
        log: The log.
        seed: Of the sample of users and of the shuffling.
    """
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(log.num_users, dtype=np.int32), np.diff(log.offsets))
    items = log.items
    if len(items) > ORDER_ROWS:
        chosen = flat.spread(rng.random(log.num_users) < ORDER_ROWS / len(items), log.offsets)
        users, items = users[chosen], items[chosen]
    shuffled = items[np.lexsort((rng.random(len(items)), users))]
    hits, hits_shuffled = _hits(users, items, log.num_items), _hits(users, shuffled, log.num_items)
    if len(hits) == 0:
        return OrderTest(0.0, 0.0, 0, (-1.0, 1.0))
    won, lost = int((hits & ~hits_shuffled).sum()), int((hits_shuffled & ~hits).sum())
    return OrderTest(float(hits.mean()), float(hits_shuffled.mean()), len(hits), paired_interval(won, lost, len(hits)))


def paired_interval(won: int, lost: int, pairs: int) -> tuple[float, float]:
    """95 % interval of the difference of two paired proportions.

    Wald's interval after half a pair is added to each of the four outcomes, so that it means something for few pairs
    too (Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005).

    Args:
        won: Pairs in which only the first was hit.
        lost: Pairs in which only the second was hit.
        pairs: All of them.
    """
    n = pairs + 2
    centre = (won - lost) / n
    margin = 1.96 * math.sqrt((won + lost + 1) - n * centre**2) / n
    return max(centre - margin, -1.0), min(centre + margin, 1.0)


def _hits(users: Int32s, items: Int32s, num_items: int) -> npt.NDArray[np.bool_]:
    """Whether each user with at least three items is foretold, in order of user."""
    step = users[1:] == users[:-1]  # rows whose successor is the same user's
    last = step & np.append(users[2:] != users[1:-1], True)
    before = np.concatenate(([False], step[:-1]))
    asked = last & before  # the last step of users with at least two
    keys = items[:-1].astype(np.int64) * num_items + items[1:]
    if not asked.any():
        return np.zeros(0, dtype=bool)
    steps, counts = np.unique(keys[step & ~last], return_counts=True)
    first = steps // num_items
    order = np.lexsort((-counts, first))
    start = np.searchsorted(first[order], first[order])
    top = steps[order][np.arange(len(order)) - start < ORDER_K]
    found: npt.NDArray[np.bool_] = np.isin(keys[asked], top)
    return found


def has_clock(times: Int64s) -> bool:
    """Whether the times of a log are dates, not positions: most of them are later than 1990.

    Args:
        times: [n] int64, in the unit that the largest names.
    """
    ticks = UNITS[unit_of(int(times.max()))]
    return 2 * int(np.count_nonzero(times >= EARLIEST_CLOCK * ticks)) > len(times)


def _time_facts(times: Int64s) -> dict[str, Any]:
    first, last = int(times.min()), int(times.max())
    ticks = UNITS[unit_of(last)]
    if not has_clock(times):
        return {"clock": False, "first": first, "last": last, "days": None}
    days = (last - first) / ticks / 86_400
    return {"clock": True, "first": to_datetime(first).isoformat(), "last": to_datetime(last).isoformat(), "days": days}


def as_text(facts: dict[str, Any]) -> str:
    """The facts as a small table for the terminal."""
    lengths = facts["length_quantiles"]
    when = f"{facts['first']} to {facts['last']}"
    when += (
        f" ({facts['days']:,.0f} days)"
        if facts["clock"]
        else " (positions or no clock: a temporal split means nothing)"
    )
    ordered, shuffled = facts["markov_hit_rate"], facts["markov_hit_rate_shuffled"]
    lines = {
        "users": f"{facts['users']:,}",
        "items": f"{facts['items']:,} ({facts['items_below_5']:,} with fewer than 5 interactions)",
        "interactions": f"{facts['interactions']:,}",
        "density": f"{facts['density']:.4%}",
        "length": f"mean {facts['length_mean']:.1f}; "
        + ", ".join(f"{float(q):.0%} {value:,.0f}" for q, value in lengths.items()),
        "popularity Gini": f"{facts['popularity_gini']:.3f}",
        "repeats": f"{facts['repeat_share']:.1%} of the interactions",
        "time": when,
        "order": f"the top {ORDER_K} successors foretell {ordered:.1%} of last items, shuffled {shuffled:.1%}",
        "": drop_in_words(facts),
    }
    return "\n".join(f"{name:16} {value}" for name, value in lines.items())


def drop_in_words(facts: dict[str, Any]) -> str:
    """What shuffling costs, with its 95 % interval; nothing is claimed where that holds 0."""
    (low, high), users = facts["markov_drop_interval"], facts["markov_users"]
    if low <= 0 <= high:
        return f"no effect of order can be told from {users:,} users"
    return f"a drop of {100 * low:.1f} to {100 * high:.1f} points (95 % interval, {users:,} users)"


def main(arguments: list[str] | None = None) -> int:
    """Describes a data set on the terminal, and in a picture where a folder is given.

    Args:
        arguments: Of the command line; None: the process's own.

    Returns:
        0, or 1 after a line that says what is wrong.
    """
    names = Columns()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--user", default=names.user, help=f"column of user ids (default {USER})")
    parser.add_argument("--item", default=names.item, help=f"column of item ids (default {ITEM})")
    parser.add_argument("--timestamp", default=names.timestamp, help=f"column of times (default {TIMESTAMP})")
    parser.add_argument("--mirror", type=Path, help="a folder that holds the raw files of published data sets")
    parser.add_argument("--out", type=Path, help="a folder for describe.png")
    given = parser.parse_args(arguments)
    try:
        if given.out is not None:
            with writing(given.out):
                given.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log.parquet"
            columns = Columns(given.user, given.item, given.timestamp)
            fetch_log(given.dataset, log, root=Path.cwd(), columns=columns, mirror=given.mirror)
            print(as_text(describe(log)))  # noqa: T201
            if given.out is not None:
                from rec_data.describe import draw

                picture = given.out / "describe.png"
                with writing(picture):
                    draw(log, picture, title=Path(given.dataset).name)
                print(f"picture: {picture}")  # noqa: T201
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
