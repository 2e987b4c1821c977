"""Stage ``report``: one page with the data, the settings, the curves and the metrics of the run.

    python -m pipelines.report

Reads what the other stages wrote; writes ``data/report/report.md`` and its pictures. It imports no torch.
"""

from __future__ import annotations

import csv
import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import params, stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes

Row = dict[str, float]

MODEL_COLOUR, BASELINE_COLOUR, SECOND_COLOUR = "#1f5fa8", "#9a9a9a", "#d1662b"
ACCURACY = {
    "ndcg": "NDCG",
    "recall": "Recall",
    "hitrate": "Hit rate",
    "precision": "Precision",
    "map": "MAP",
    "mrr": "MRR",
}
BEYOND = {"coverage": "Coverage", "surprisal": "Surprisal"}


def main() -> None:
    """Draw the pictures and write the page."""
    point = params.load()
    summary = stage.read_json(stage.DATA / "split" / "summary.json")
    training = stage.read_json(stage.DATA / "train" / "metrics.json")
    evaluation = stage.read_json(stage.DATA / "evaluate" / "metrics.json")
    history = _read_csv(stage.DATA / "train" / "history.csv")
    at_k = _read_csv(stage.DATA / "evaluate" / "metrics_at_k.csv")
    with stage.output(stage.DATA / "report") as out:
        draw_training(history, training["best_epoch"], out / "training.png")
        if "ndcg" in at_k[0]:
            draw_accuracy(at_k, out / "metrics_at_k.png")
        page = write_page(point, summary, training, evaluation, at_k)
        (out / "report.md").write_text(page, encoding="utf-8")


def _read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return [
            {key: float(value) if value else float("nan") for key, value in row.items()} for row in csv.DictReader(file)
        ]


def draw_training(history: list[Row], best_epoch: int, path: Path) -> None:
    """Training loss and validation NDCG@10 over epochs, the best epoch marked."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.2), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["train_loss"] for row in history], marker="o", markersize=3, color=SECOND_COLOUR)
    left.set(title="Training loss", xlabel="epoch", ylabel="mean loss a token")
    scores = [row["validation_ndcg@10"] for row in history]
    right.plot(epochs, scores, marker="o", markersize=3, color=MODEL_COLOUR)
    best = scores[epochs.index(best_epoch)]
    right.plot(best_epoch, best, marker="o", markersize=9, markerfacecolor="none", color=MODEL_COLOUR)
    right.annotate(f"best: {best:.4f}", (best_epoch, best), (0, -16), textcoords="offset points", ha="center")
    right.set(title="Validation NDCG@10", xlabel="epoch", ylabel="NDCG@10", ylim=(0, 1.1 * max(scores) or 1))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _tidy(axes)
    figure.savefig(path)


def draw_accuracy(at_k: list[Row], path: Path) -> None:
    """NDCG, Recall, Coverage and Surprisal at each k, the model beside the ranking by popularity."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained", dpi=150)
    positions = list(range(len(at_k)))
    for axes, (metric, title) in zip(
        figure.subplots(1, 4), {"ndcg": "NDCG", "recall": "Recall", **BEYOND}.items(), strict=True
    ):
        for name, label, colour in (
            (metric, "model", MODEL_COLOUR),
            (f"popularity_{metric}", "popularity", BASELINE_COLOUR),
        ):
            axes.plot(positions, [row[name] for row in at_k], marker="o", markersize=4, color=colour, label=label)
        axes.set_xticks(positions, [str(int(row["k"])) for row in at_k])
        axes.set(title=f"{title}@k", xlabel="k", ylim=(0, None))
        _tidy(axes)
    figure.axes[0].legend(frameon=False)
    figure.savefig(path)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)


def write_page(
    point: params.Params,
    summary: dict[str, Any],
    training: dict[str, Any],
    evaluation: dict[str, Any],
    at_k: list[Row],
) -> str:
    """The report as markdown; the pictures are referred to by their names."""
    parts = [
        f"# {point.model} with {point.loss} on {point.dataset}",
        _headline(point, training, evaluation),
        "## Accuracy",
        _accuracy(point, evaluation, at_k),
        "## Training",
        "![Training loss and validation NDCG@10 over epochs](training.png)",
        _table(("", ""), [(name, _show(value)) for name, value in training.items()]),
        "## Data",
        _reachable(point, summary),
        _table(("", ""), _flat(_with_dates(summary))),
        "## Settings",
        _table(("key", "value"), _flat(dataclasses.asdict(point))),
    ]
    return "\n\n".join(parts) + "\n"


def _headline(point: params.Params, training: dict[str, Any], evaluation: dict[str, Any]) -> str:
    if "ndcg@10" not in evaluation:
        return (
            f"A twin has the shape of a real log and nothing to learn: no accuracy is reported. An epoch took "
            f"{training['epoch_seconds']:.2f} s and {training['peak_memory_gib']:.2f} GiB on {training['device']}."
        )
    model, baseline = evaluation["ndcg@10"], evaluation["popularity"]["ndcg@10"]
    times = f", {model / baseline:.1f} times that of the ranking by popularity ({baseline:.4f})" if baseline else ""
    label = " This run repeats the known defects of the paper's code." if point.paper_faithful else ""
    return (
        f"**NDCG@10 is {model:.4f}**{times}, over {evaluation['users']:,} test users. An epoch took "
        f"{training['epoch_seconds']:.2f} s and {training['peak_memory_gib']:.2f} GiB on {training['device']}.{label}"
    )


def _accuracy(point: params.Params, evaluation: dict[str, Any], at_k: list[Row]) -> str:
    if "ndcg" not in at_k[0]:
        return f"{evaluation['users']:,} users were ranked in {evaluation['rank_seconds']:.1f} s."
    titles = ACCURACY | BEYOND
    rows = []
    for row in at_k:
        for label, prefix in (("model", ""), ("popularity", "popularity_")):
            rows.append((str(int(row["k"])), label, *(f"{row[prefix + metric]:.4f}" for metric in titles)))
    reference = {"train": "the training log", "test_input": "the histories of the test users"}[point.evaluate.reference]
    seen = "are left out" if point.evaluate.filter_seen else "stay in"
    return "\n\n".join(
        [
            "![NDCG, Recall, Coverage and Surprisal at each k](metrics_at_k.png)",
            _table(("k", "ranking", *titles.values()), rows),
            f"The whole catalogue was ranked for each user; items of the user's own history {seen}. "
            f"Coverage and Surprisal count in {reference}.",
        ]
    )


def _reachable(point: params.Params, summary: dict[str, Any]) -> str:
    """How many test targets no ranking could have hit."""
    test = summary["test"]
    parts = [f"{test['users']:,} users are tested"]
    if point.evaluate.filter_seen:
        seen = test["unreachable_targets"]
        parts.append(f"{seen:,} of their targets are in their own history, so no list can hold them")
    parts.append(f"{test['targets_unseen_in_train']:,} of their targets never occur in training")
    return "; ".join(parts) + ". All of them count as misses."


def _with_dates(summary: dict[str, Any]) -> dict[str, Any]:
    """The boundary of a temporal split as a date; the unit of times that are positions says nothing."""
    shown = dict(summary)
    boundary = shown.pop("boundary_time", None)
    unit = shown.pop("timestamp_unit", "s")
    if boundary is not None:
        seconds = boundary / {"s": 1, "ms": 1_000, "us": 1_000_000}[unit]
        shown["boundary"] = datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")
    return shown


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _show(value)))
    return rows


def _show(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int):
        return str(value) if value < 10_000 else f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_show(entry) for entry in value)
    return str(value)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    stage.run(main)
