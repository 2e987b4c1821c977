"""The picture of the accuracy study: accuracy against time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw(table: Sequence[dict[str, Any]], path: Path) -> Path:
    """Test NDCG@10 against the time of a step: a panel a data set, a point a setting, a bar of one deviation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [entry for entry in table if entry["step_ms"] is not None and entry["ndcg_at_10"] is not None]
    datasets = list(dict.fromkeys(entry["dataset"] for entry in points))
    colours = {"cce": "#222222", "none": "#d9822b", "tile": "#2f5d8a", "batch": "#5a9a5a"}
    meanings = {
        "cce": "exact",
        "none": "each token its own negatives",
        "tile": "shared by 64 tokens",
        "batch": "shared by the batch",
    }
    figure = Figure(figsize=(6.2 * len(datasets), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        for entry in (entry for entry in points if entry["dataset"] == dataset):
            sharing, _, rest = entry["point"].partition(" ")
            ndcg = entry["ndcg_at_10"]
            marker = "*" if sharing == "cce" else "^" if "popularity" in rest else "s" if "in_batch" in rest else "o"
            axes.errorbar(
                entry["step_ms"], ndcg.mean, ndcg.std, fmt=marker, color=colours[sharing], markersize=7, capsize=2
            )
            axes.annotate(entry["point"], (entry["step_ms"], ndcg.mean), (5, 4), textcoords="offset points", size=7)
        for sharing, colour in colours.items():
            axes.plot([], [], "*" if sharing == "cce" else "o", color=colour, label=meanings[sharing])
        axes.legend(frameon=False, fontsize=7)
        axes.set(xscale="log", title=dataset, xlabel="milliseconds a training step", ylabel="test NDCG@10")
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.margins(x=0.2)
    figure.savefig(path, dpi=110)
    return path
