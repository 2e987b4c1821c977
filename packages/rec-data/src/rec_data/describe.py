"""Describe a log: its size, lengths, popularity and times, and how much the order of items matters."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rec_data import arrays
from rec_data.arrays import Int64s
from rec_data.order_test import TOP, OrderTest, order_test
from rec_data.raw.timestamps import to_datetime, unit_of
from rec_data.schema import UNITS
from rec_data.splits.clock import dates_only, has_clock
from rec_data.splits.encode import encode
from rec_data.splits.sorted_log import SortedLog

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BLUE, _ORANGE, _GREY = "#2f5d8a", "#d9822b", "#8a8f98"


def describe(
    log: Path, *, seed: int = 0, tie_seed: int | None = 0, picture: Path | None = None, title: str = ""
) -> dict[str, Any]:
    """Measure a log, without any filter: facts that are ready for JSON, and that ``as_text`` prints.

    Args:
        log: The parquet file of ``fetch_log``.
        seed: Seed of the sample and the shuffling of the order test.
        tie_seed: Seed of the order of interactions with equal times, which then have no order; None: that of the rows.
        picture: A PNG to write: sequence lengths, item popularity, interactions over time, and the order test.
        title: What the title of the picture begins with.

    Raises:
        DataError: The log cannot be read.
    """
    in_row_order = tie_seed is None
    encoded = encode(log, min_item_count=None, min_user_count=None, tie_seed=tie_seed)
    rows = encoded.log
    lengths, counts = np.diff(rows.offsets), arrays.count(rows.items, rows.num_items)
    order = order_test(rows, seed=seed, ties_are_ordered=in_row_order)
    repeats = count_repeats(rows)
    if picture is not None:
        _draw(rows, order, picture, title)
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
        "duplicate_share": encoded.ties.duplicates / len(rows.items),
        "copies_of_every_row": encoded.ties.copies,
        "ties": "row_order" if in_row_order else "shuffle",
        "tied_share": encoded.ties.tied / len(rows.items),
        **_time_facts(rows.times),
        "markov_hit_rate": order.ordered,
        "markov_hit_rate_shuffled": order.shuffled,
        "markov_users": order.users,
        "markov_drop_interval": list(order.drop_interval),
    }


def gini(counts: Int64s) -> float:
    """Gini coefficient of ``[n]`` counts, not all 0: 0 if all are equal, near 1 if one has everything.

    ``2 sum_i i x_i / (n sum x) - (n + 1) / n`` over the counts in ascending order, i from 1 (Sen, "On Economic
    Inequality", 1973).
    """
    ranked = np.sort(counts).astype(np.float64)
    n = len(ranked)
    return float(2 * (np.arange(1, n + 1) @ ranked) / (n * ranked.sum()) - (n + 1) / n)


def count_repeats(log: SortedLog) -> int:
    """Count the interactions in which a user meets an item again."""
    pairs = np.repeat(np.arange(log.num_users, dtype=np.int64) * log.num_items, np.diff(log.offsets))
    pairs += log.items
    pairs.sort()
    return int(np.count_nonzero(pairs[1:] == pairs[:-1]))


def _time_facts(times: Int64s) -> dict[str, Any]:
    first, last = int(times.min()), int(times.max())
    if not has_clock(times):
        return {"clock": False, "first": first, "last": last, "days": None, "dates_only": False}
    days = (last - first) / UNITS[unit_of(last)] / 86_400
    first_date, last_date = to_datetime(first).isoformat(), to_datetime(last).isoformat()
    return {"clock": True, "first": first_date, "last": last_date, "days": days, "dates_only": dates_only(times)}


def as_text(facts: dict[str, Any]) -> str:
    """Format the facts as a small table for the terminal."""
    lengths = ", ".join(f"{float(q):.0%} {value:,.0f}" for q, value in facts["length_quantiles"].items())
    clock = f"{facts['days']:,.0f} days" if facts["clock"] else "positions, not dates: do not use a temporal split"
    clock += ", dates without a time of day" if facts["dates_only"] else ""
    duplicates = f"{facts['duplicate_share']:.1%} of the interactions repeat user, item and time of another"
    if facts["copies_of_every_row"] > 1:
        duplicates += f"; every row occurs at least {facts['copies_of_every_row']} times"
    tied = f"{facts['tied_share']:.1%} of the interactions share user and time with one on another item"
    if facts["ties"] == "row_order":
        tied += "; their order is that of the rows"
    ordered, shuffled = facts["markov_hit_rate"], facts["markov_hit_rate_shuffled"]
    lines = {
        "users": f"{facts['users']:,}",
        "items": f"{facts['items']:,} ({facts['items_below_5']:,} with fewer than 5 interactions)",
        "interactions": f"{facts['interactions']:,}",
        "density": f"{facts['density']:.4%}",
        "length": f"mean {facts['length_mean']:.1f}; {lengths}",
        "popularity Gini": f"{facts['popularity_gini']:.3f}",
        "repeats": f"{facts['repeat_share']:.1%} of the interactions",
        "duplicates": duplicates,
        "time": f"{facts['first']} to {facts['last']} ({clock})",
        "ties": tied,
        "order": f"guessing the last item from the one before it hits {ordered:.1%} in the top {TOP}",
        "": f"in shuffled order {shuffled:.1%}: {drop_in_words(facts)}",
    }
    if facts["markov_users"] == 0:
        del lines[""]
        lines["order"] = "not tested: no user has three items of which the last has a later time than the one before it"
    return "\n".join(f"{name:16} {value}" for name, value in lines.items())


def drop_in_words(facts: dict[str, Any]) -> str:
    """Say what shuffling costs, with its 95 % interval, or that the interval contains 0."""
    (low, high), users = facts["markov_drop_interval"], facts["markov_users"]
    if low <= 0 <= high:
        return f"no effect of order can be shown with {users:,} users"
    return f"a drop of {100 * low:.1f} to {100 * high:.1f} points (95 % interval, {users:,} users)"


def _draw(rows: SortedLog, order: OrderTest, out: Path, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    figure.suptitle(
        f"{title}: {rows.num_users:,} users, {rows.num_items:,} items, {len(rows.items):,} interactions", fontsize=13
    )
    _draw_lengths(panels[0, 0], np.diff(rows.offsets))
    _draw_popularity(panels[0, 1], np.sort(arrays.count(rows.items, rows.num_items))[::-1])
    _draw_times(panels[1, 0], rows.times)
    _draw_order(panels[1, 1], order)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


def _draw_lengths(axes: Any, lengths: Int64s) -> None:
    edges, users = users_per_doubling(lengths)
    axes.stairs(users, edges, fill=True, color=_BLUE)
    axes.axvline(float(np.median(lengths)), color=_ORANGE, label=f"median {np.median(lengths):,.0f}")
    axes.axvline(float(lengths.mean()), color=_GREY, linestyle="--", label=f"mean {lengths.mean():,.1f}")
    axes.set(xscale="log", xlabel="interactions of a user", ylabel="users per doubling of the length")
    axes.set(title="Sequence length")
    axes.legend(frameon=False)


def users_per_doubling(lengths: Int64s) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Histogram of lengths for a logarithmic axis: areas are users, however many lengths a bin covers.

    ``[users]`` lengths >= 1 give ``[bins + 1]`` edges half way between integers, and ``[bins]`` users per doubling.
    """
    edges: npt.NDArray[np.float64] = np.unique(np.geomspace(1, lengths.max() + 1, 30).round()) - 0.5
    users: npt.NDArray[np.float64] = np.histogram(lengths, bins=edges)[0] / np.diff(np.log2(edges))
    return edges, users


def _draw_popularity(axes: Any, counts: Int64s) -> None:
    rank = np.unique(np.geomspace(1, len(counts), 400).astype(int))
    share = counts[: max(1, len(counts) // 100)].sum() / counts.sum()
    axes.plot(rank, counts[rank - 1], color=_BLUE, linewidth=2)
    axes.set(xscale="log", yscale="log", xlabel="rank of an item", ylabel="interactions")
    axes.set(title=f"Popularity: the top 1 % of the items have {share:.0%}")


def _draw_times(axes: Any, times: Int64s) -> None:
    height, edges = np.histogram(times, bins=80)
    clock = has_clock(times)
    if clock:
        edges = edges / UNITS[unit_of(int(times.max()))] / 86_400  # days since 1970, the unit of matplotlib
        axes.xaxis_date()
        axes.tick_params(axis="x", rotation=30)
    axes.stairs(height, edges, fill=True, color=_BLUE, alpha=0.85)
    axes.set(title="Activity" if clock else "Positions (the log has no dates)", ylabel="interactions")
    axes.set(xlabel="" if clock else "time column")


def _draw_order(axes: Any, order: OrderTest) -> None:
    bars = axes.bar(["true order", "shuffled"], [order.ordered, order.shuffled], color=[_BLUE, _GREY], width=0.55)
    axes.bar_label(bars, fmt=lambda value: f"{value:.1%}", padding=3)
    low, high = (100 * bound for bound in order.drop_interval)
    axes.set(title="Order: the last item predicted from the one before", ylabel=f"hit rate at {TOP}")
    axes.set(xlabel=f"difference: {low:.1f} to {high:.1f} points (95 % interval, {order.users:,} users)")
    axes.margins(y=0.15)
