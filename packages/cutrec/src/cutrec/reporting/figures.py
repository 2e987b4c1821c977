"""The pictures of the report, each a PNG. Needs matplotlib only."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

Row = dict[str, float]
Named = dict[str, str]

MODEL, BASELINE, SECOND = "#1f5fa8", "#9a9a9a", "#d1662b"
RANKINGS = (("model", MODEL), ("popularity", BASELINE))
AT_K = {"ndcg": "NDCG", "recall": "Recall", "coverage": "Coverage", "surprisal": "Surprisal"}
SEGMENTS = {"history": "items in the user's history", "popularity": "interactions of the target in training"}


def draw_training(history: list[Row], best_epoch: int, path: Path, *, accuracy: bool = True) -> None:
    """Training loss over epochs, and validation NDCG@10 with the best epoch marked, or the seconds per epoch."""
    figure = _figure(9, 3.2)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["train_loss"] for row in history], marker="o", markersize=3, color=SECOND)
    left.set(title="Training loss", xlabel="epoch", ylabel="mean loss per token")
    if accuracy:
        scores = [row["validation_ndcg@10"] for row in history]
        right.plot(epochs, scores, marker="o", markersize=3, color=MODEL)
        best = scores[epochs.index(best_epoch)]
        right.plot(best_epoch, best, marker="o", markersize=9, markerfacecolor="none", color=MODEL)
        side = "right" if best_epoch == epochs[-1] else "center"
        right.annotate(f"best: {best:.4f}", (best_epoch, best), (0, -16), textcoords="offset points", ha=side)
        right.set(title="Validation NDCG@10", xlabel="epoch", ylabel="NDCG@10", ylim=(0, 1.1 * max(scores) or 1))
    else:
        seconds = [row["train_seconds"] for row in history]
        right.plot(epochs, seconds, marker="o", markersize=3, color=MODEL)
        right.set(title="Time per epoch", xlabel="epoch", ylabel="seconds", ylim=(0, 1.1 * max(seconds)))
    for axes in (left, right):
        axes.xaxis.set_major_locator(FixedLocator(epochs) if len(epochs) == 1 else MaxNLocator(integer=True))
        _tidy(axes)
    figure.savefig(path)


def draw_metrics(intervals: Sequence[Named], path: Path) -> None:
    """NDCG, Recall, Coverage and Surprisal at each k with their intervals, the model beside popularity."""
    figure = _figure(12, 3.2)
    for axes, (metric, title) in zip(figure.subplots(1, 4), AT_K.items(), strict=True):
        for ranking, colour in RANKINGS:
            rows = [row for row in intervals if row["metric"] == metric and row["ranking"] == ranking]
            places = range(len(rows))
            axes.plot(places, _column(rows, "value"), marker="o", markersize=4, color=colour, label=ranking)
            axes.fill_between(places, _column(rows, "low"), _column(rows, "high"), color=colour, alpha=0.2, linewidth=0)
            axes.set_xticks(places, [row["k"] for row in rows])
        axes.set(title=f"{title}@k", xlabel="k", ylim=(0, None))
        _tidy(axes)
    figure.axes[0].legend(frameon=False)
    figure.savefig(path)


def draw_segments(bands: Sequence[Named], path: Path) -> None:
    """NDCG@10 of each segment of users with its interval: by length of history, by popularity of the target."""
    figure = _figure(10, 3.2)
    for axes, (by, label) in zip(figure.subplots(1, 2, sharey=True), SEGMENTS.items(), strict=True):
        for (ranking, colour), shift in zip(RANKINGS, (-0.2, 0.2), strict=True):
            rows = [r for r in bands if (r["by"], r["metric"], r["ranking"]) == (by, "ndcg", ranking)]
            values = _column(rows, "value")
            errors = [
                [max(0.0, value - low) for value, low in zip(values, _column(rows, "low"), strict=True)],
                [max(0.0, high - value) for value, high in zip(values, _column(rows, "high"), strict=True)],
            ]
            places = [place + shift for place in range(len(rows))]
            axes.bar(places, values, 0.38, yerr=errors, color=colour, ecolor="#444444", capsize=3, label=ranking)
            axes.set_xticks(range(len(rows)), [row["band"] for row in rows], fontsize=8)
        axes.set(xlabel=label, ylim=(0, None))
        _tidy(axes)
    figure.axes[0].set_ylabel("NDCG@10")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    figure.savefig(path)


def draw_popularity(concentration: list[Row], popularity: Sequence[Named], path: Path) -> None:
    """Recommended and consumed items: the share of the most popular items, and of the long tail."""
    figure = _figure(10, 3.2)
    left, right = figure.subplots(1, 2)
    items = [row["items"] for row in concentration]
    curves = {"consumed": ("what the test users chose", SECOND), "model": ("the model's first 10", MODEL)}
    curves["popularity"] = ("popularity's first 10", BASELINE)
    for name, (label, colour) in curves.items():
        left.plot(items, [100 * row[name] for row in concentration], color=colour, label=label)
    left.set(xscale="log", ylim=(0, 103), xlabel="most popular items (log scale)", ylabel="share, %")
    left.set_title("Concentration on popular items", fontsize=11)
    left.legend(frameon=False, fontsize=8)
    for ranking, colour in RANKINGS:
        rows = [row for row in popularity if row["ranking"] == ranking and row["what"] == "recommended"]
        shares = [100 * value for value in _column(rows, "tail_share")]
        right.plot(range(len(rows)), shares, marker="o", markersize=4, color=colour, label=ranking, clip_on=False)
        right.set_xticks(range(len(rows)), [row["k"] for row in rows])
    (consumed,) = (100 * float(row["tail_share"]) for row in popularity if row["what"] == "consumed")
    right.axhline(consumed, color=SECOND, linestyle="--", label="consumed")
    right.set(xlabel="k", ylabel="%", ylim=(0, None))
    right.set_title("Share of the long tail in the first k", fontsize=11)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        _tidy(axes)
    figure.savefig(path)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def _column(rows: Sequence[Named], name: str) -> list[float]:
    """Numbers of a CSV's column, NaN where it is empty."""
    return [float(row[name] or "nan") for row in rows]


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
