"""One picture of a log: lengths, popularity, activity and order."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from rec_data import flat
from rec_data.describe import has_clock, order_test
from rec_data.encode import encode
from rec_data.flat import Int64s
from rec_data.times import UNITS, unit_of

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
