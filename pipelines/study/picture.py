"""The picture of the accuracy study: accuracy against time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLOURS = {"cce": "#222222", "none": "#d9822b", "tile": "#2f5d8a", "batch": "#5a9a5a"}
GREY = "#777777"
SHARINGS = {
    "cce": "no sampling: exact CCE",
    "none": "CCE-, each token its own negatives",
    "tile": "CCE-, negatives shared by 64 tokens",
    "batch": "CCE-, negatives shared by the batch",
}
SAMPLINGS = {
    "o": "negatives drawn uniformly",
    "^": "negatives drawn by popularity",
    "s": "negatives taken from the batch",
    "o ": "hollow: without the logQ correction",
}
LABEL_PLACES = {"cce": (8, -6, "left"), "none": (7, 2, "left"), "tile": (-4, 5, "right"), "batch": (7, -8, "left")}
"""Offset of a label from its marker, in points: one side for each way of sharing, because the markers are close."""


def draw(table: Sequence[dict[str, Any]], path: Path, machine: str) -> Path:
    """Test NDCG@10 against the time of a step: one panel per data set, one marker per setting, bars of one deviation.

    Settings without the logQ correction are far below the others and get a strip of their own. The entries are those
    of `pipelines.study.tables.trade_off_table`.
    """
    points = [entry for entry in table if entry["step_ms_p10"] is not None and entry["ndcg_at_10"] is not None]
    datasets = list(dict.fromkeys(entry["dataset"] for entry in points))
    figure = Figure(figsize=(6.2 * len(datasets), 6.4), layout="constrained")
    for panel, dataset in zip(figure.subfigures(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        _panel(panel, dataset, [entry for entry in points if entry["dataset"] == dataset])
    figure.legend(handles=_handles(), loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    caption = f"Numbers: negatives of a token. Bars: one standard deviation over seeds. Times: {machine}, a tenth of"
    figure.supxlabel(f"{caption} the steps is faster.", fontsize=8)
    figure.savefig(path, dpi=130)
    return path


def _panel(panel: Any, dataset: str, entries: Sequence[dict[str, Any]]) -> None:
    parts = [[entry for entry in entries if _uncorrected(entry) == without] for without in (False, True)]
    rows = [part for part in parts if part]
    all_axes = panel.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=[4, 1][: len(rows)])[:, 0]
    for axes, row in zip(all_axes, rows, strict=True):
        for entry in row:
            _point(axes, entry)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12, y=0.14)
        axes.grid(axis="y", color="#eeeeee")
        axes.set_axisbelow(True)
    if len(rows) == 2:
        all_axes[0].spines["bottom"].set_linestyle((0, (4, 4)))  # the axis is broken here
        all_axes[0].tick_params(bottom=False, which="both")
    all_axes[0].set(title=dataset, ylabel="test NDCG@10", xscale="log")
    all_axes[-1].set(xlabel="milliseconds a training step")
    all_axes[-1].xaxis.set_major_formatter("{x:g}")
    all_axes[-1].xaxis.set_minor_formatter("{x:g}")


def _point(axes: Axes, entry: dict[str, Any]) -> None:
    sharing, _, rest = entry["point"].partition(" ")
    time, ndcg, colour = entry["step_ms_p10"], entry["ndcg_at_10"], COLOURS[sharing]
    marker = "*" if sharing == "cce" else "^" if "popularity" in rest else "s" if "in_batch" in rest else "o"
    size, inside = 11 if marker == "*" else 7, "white" if _uncorrected(entry) else colour
    style: dict[str, Any] = {"color": colour, "markerfacecolor": inside, "markersize": size}
    axes.errorbar(time, ndcg.mean, ndcg.std, fmt=marker, capsize=2, elinewidth=0.8, **style)
    right, up, side = LABEL_PLACES[sharing]
    label, place = "exact" if sharing == "cce" else rest.split()[0], (time, ndcg.mean)
    axes.annotate(label, place, (right, up), textcoords="offset points", ha=side, size=8, color=colour)


def _uncorrected(entry: dict[str, Any]) -> bool:
    return "no logQ" in entry["point"]


def _handles() -> list[Any]:
    """Colors show which tokens share negatives, shapes how they are drawn; the numbers in the picture are N."""
    styles = [("*" if name == "cce" else "o", COLOURS[name], COLOURS[name], text) for name, text in SHARINGS.items()]
    styles += [(mark[0], GREY, "white" if mark == "o " else GREY, text) for mark, text in SAMPLINGS.items()]
    return [
        Line2D([], [], linestyle="", marker=marker, markersize=7, color=colour, markerfacecolor=inside, label=text)
        for marker, colour, inside, text in styles
    ]
