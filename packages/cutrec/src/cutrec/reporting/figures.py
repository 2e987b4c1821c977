"""The pictures of the report, each a PNG with one diagram, so that a phone shows them one below the other.

Colors differ in lightness, and lines also in their style, so that neither print nor color blindness hides a difference.
Needs matplotlib only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

Row = dict[str, float]
Named = dict[str, str]

MODEL, BASELINE, CHOSEN = "#1f5fa8", "#8a8f94", "#d1662b"
RANKINGS: dict[str, dict[str, Any]] = {
    "model": {"color": MODEL, "marker": "o", "linestyle": "-", "label": "the model"},
    "popularity": {"color": BASELINE, "marker": "s", "linestyle": "--", "label": "popularity"},
}
AT_K = {"ndcg": "NDCG", "recall": "Recall", "coverage": "Coverage", "surprisal": "Surprisal"}
SEGMENTS = {
    "history": ("Short and long histories", "items in the user's history"),
    "days": ("Recent and returning users", "days from the last event to the target"),
    "popularity": ("Rare and popular targets", "interactions of the target in training"),
}


def draw_training(history: list[Row], best_epoch: int, out: Path, *, accuracy: bool = True) -> None:
    """``loss.png``, and ``validation.png`` with the best epoch marked, or ``seconds.png`` without accuracy."""
    epochs = [row["epoch"] for row in history]

    def draw(name: str, values: list[float], color: str, **texts: Any) -> None:
        axes = _axes()
        axes.plot(epochs, values, marker="o", markersize=4, color=color)
        axes.set(xlabel="epoch", **texts)
        axes.xaxis.set_major_locator(FixedLocator(epochs) if len(epochs) == 1 else MaxNLocator(integer=True))
        if name == "validation":
            best = values[epochs.index(best_epoch)]
            axes.plot(best_epoch, best, marker="o", markersize=10, markerfacecolor="none", color=color)
            side = {epochs[0]: "left", epochs[-1]: "right"}.get(best_epoch, "center")
            text = f"best: {best:.4f}"  # above the point, where no other is
            axes.annotate(text, (best_epoch, best), (0, 9), textcoords="offset points", ha=side)
        _save(axes, out / f"{name}.png")

    losses = [row["train_loss"] for row in history]
    draw("loss", losses, CHOSEN, title="Training loss", ylabel="mean loss per token")
    if accuracy:
        scores = [row["validation_ndcg@10"] for row in history]
        top = 1.15 * max(scores) or 1
        draw("validation", scores, MODEL, title="Validation NDCG@10", ylabel="NDCG@10", ylim=(0, top))
    else:
        seconds = [row["train_seconds"] for row in history]
        top = 1.1 * max(seconds)
        draw("seconds", seconds, MODEL, title="Time per epoch", ylabel="seconds", ylim=(0, top))


def draw_metrics(intervals: Sequence[Named], out: Path) -> None:
    """A picture for each metric of `AT_K` with its intervals over k, the model beside popularity."""
    for metric, title in AT_K.items():
        axes = _axes()
        for ranking, style in RANKINGS.items():
            rows = [row for row in intervals if row["metric"] == metric and row["ranking"] == ranking]
            places = range(len(rows))
            axes.plot(places, _column(rows, "value"), markersize=5, clip_on=False, **style)
            low, high = _column(rows, "low"), _column(rows, "high")
            axes.fill_between(places, low, high, color=style["color"], alpha=0.2, linewidth=0)
            axes.set_xticks(places, [row["k"] for row in rows])
        axes.set(title=f"{title}@k", xlabel="k: first items of the list", ylim=(0, None))
        _save(axes, out / f"{metric}.png")


def draw_segments(segments: Sequence[Named], out: Path) -> None:
    """NDCG@10 of segments of users with intervals: by length of history, by days, by popularity of the target."""
    for by, (title, label) in SEGMENTS.items():
        if all(row["by"] != by for row in segments):  # days, of a log without a clock
            continue
        axes = _axes()
        for (ranking, style), shift in zip(RANKINGS.items(), (-0.2, 0.2), strict=True):
            rows = [r for r in segments if (r["by"], r["metric"], r["ranking"]) == (by, "ndcg", ranking)]
            values = _column(rows, "value")
            whiskers = _whiskers(values, _column(rows, "low"), _column(rows, "high"))
            places = [place + shift for place in range(len(rows))]
            look: dict[str, Any] = {"color": style["color"], "label": style["label"], "ecolor": "#333333", "capsize": 3}
            axes.bar(places, values, 0.38, yerr=whiskers, **look)
            axes.set_xticks(range(len(rows)), [row["segment"] for row in rows])
        axes.set(title=title, xlabel=label, ylabel="NDCG@10", ylim=(0, None))
        axes.margins(y=0.15)
        _save(axes, out / f"by_{by}.png")


def draw_popularity(concentration: list[Row], popularity: Sequence[Named], out: Path) -> None:
    """``concentration.png``: the share of the most popular items; ``long_tail.png``: that of the others at each k."""
    chosen: dict[str, Any] = {"color": CHOSEN, "linestyle": ":", "linewidth": 2.5, "label": "what users chose"}
    axes = _axes()
    for name, style in {**RANKINGS, "consumed": chosen}.items():
        shares = [100 * row[name] for row in concentration]
        axes.plot([row["items"] for row in concentration], shares, **{**style, "marker": None})
    axes.set(xscale="log", ylim=(0, 103), xlabel="number of most popular items (log scale)", ylabel="share of all, %")
    axes.set_title("Concentration on popular items")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _save(axes, out / "concentration.png")
    axes = _axes()
    for ranking, style in RANKINGS.items():
        rows = [row for row in popularity if row["ranking"] == ranking and row["what"] == "recommended"]
        shares = [100 * value for value in _column(rows, "tail_share")]
        axes.plot(range(len(rows)), shares, markersize=5, clip_on=False, **style)
        axes.set_xticks(range(len(rows)), [row["k"] for row in rows])
    (consumed,) = (100 * float(row["tail_share"]) for row in popularity if row["what"] == "consumed")
    axes.axhline(consumed, **chosen)
    axes.set(title="Long tail", xlabel="k: first items of the list", ylabel="share of all, %", ylim=(0, None))
    _save(axes, out / "long_tail.png")


WINDOWS = (
    {"color": MODEL, "marker": "o", "linestyle": "-"},
    {"color": CHOSEN, "marker": "^", "linestyle": ":"},
    {"color": "#7f4fa8", "marker": "v", "linestyle": "-."},
    {"color": BASELINE, "marker": "s", "linestyle": "--"},
)
"""The styles of the series of a backtest; the ranking by popularity is the last one."""


def draw_windows(
    dates: Sequence[str], series: Mapping[str, Sequence[tuple[float, float, float]]], out: Path, *, title: str
) -> None:
    """``ndcg.png``: NDCG@10 in each window of a backtest by series: value, low and high end of its interval."""
    axes = _axes()
    styles = (*WINDOWS[: len(series) - 1], WINDOWS[-1])
    for number, (style, (name, values)) in enumerate(zip(styles, series.items(), strict=True)):
        shift = 0.06 * (number - (len(series) - 1) / 2)
        places = [place + shift for place in range(len(values))]
        heights, lows, highs = zip(*values, strict=True)
        look: dict[str, Any] = {"label": name, "markersize": 5, "capsize": 3, **style}
        axes.errorbar(places, heights, yerr=_whiskers(heights, lows, highs), **look)
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right"} if len(dates) > 4 else {}
    axes.set_xticks(range(len(dates)), dates, **slanted)
    axes.set(title=title, xlabel="first day of the window", ylabel="NDCG@10, 95 % interval", ylim=(0, None))
    axes.margins(y=0.1)
    _save(axes, out / "ndcg.png", columns=1)


def draw_drift(dates: Sequence[str], values: Sequence[float], threshold: float, out: Path, *, title: str) -> None:
    """A measure in each window of log A, and at last in log B, with the threshold; NaN draws nothing."""
    axes = _axes()
    places = range(len(values))
    axes.plot(places, values, color=MODEL, marker="o", markersize=4, linewidth=1, label="windows of A")
    axes.plot(places[-1:], values[-1:], color=CHOSEN, marker="^", markersize=9, linestyle="", label="B")
    axes.axhline(threshold, color=BASELINE, linestyle="--", label="threshold")
    axes.set(title=title, xlabel="first day of the window", ylim=(0, None))
    shown = sorted({0, len(dates) // 2, len(dates) - 1})
    axes.set_xticks(shown, [dates[place] for place in shown])
    axes.margins(y=0.1)
    _save(axes, out)


def _axes() -> Axes:
    """Axes whose texts can be read on a phone."""
    axes: Axes = Figure(figsize=(4.8, 3.2), layout="constrained", dpi=150).subplots()
    return axes


def _save(axes: Axes, path: Path, *, columns: int = 3) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure = axes.figure
    assert isinstance(figure, Figure)
    handles, names = axes.get_legend_handles_labels()
    if names:
        figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
    figure.savefig(path)


def _whiskers(values: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> npt.NDArray[np.float64]:
    """[2, n] lengths below and above the values; NaN, which draws nothing, where there is no interval."""
    return np.maximum(0.0, [np.subtract(values, lows), np.subtract(highs, values)])


def _column(rows: Sequence[Named], name: str) -> list[float]:
    """Numbers of a CSV's column, NaN where it is empty."""
    return [float(row[name] or "nan") for row in rows]
