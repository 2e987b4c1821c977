"""The paper's own log of memory beside the model of its code: a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cutrec.reporting.text_table import render
from pipelines.planner.authors import CATALOGUES, Run, errors, predict, read_log

LABELS = {"ce": "CE", "ce_neg": "CE-"}


def write(folder: Path) -> str:
    """Write ``authors_memory.md`` and ``authors_memory.png`` into a folder; return the table."""
    runs = read_log()
    table = table_of(runs)
    text = (
        "# Peak memory of the paper's own code: its authors' log beside a model of it\n\n"
        "`python -m pipelines.plan --authors results` writes this page. The log is\n"
        "`pipelines/reference/authors_runs.csv`, the model `pipelines/planner/authors.py`.\n\n"
        f"{table}\n\n![Predicted against logged peak memory](authors_memory.png)\n"
    )
    (folder / "authors_memory.md").write_text(text, encoding="utf-8")
    draw(runs, folder / "authors_memory.png")
    return table


def table_of(runs: Sequence[Run]) -> str:
    """Errors by loss and data set."""
    rows = []
    for loss, label in LABELS.items():
        of_loss = [run for run in runs if run.loss == loss]
        for dataset in sorted({run.dataset for run in of_loss}):
            part = [run for run in of_loss if run.dataset == dataset]
            rows.append([label, dataset, f"{CATALOGUES[dataset]:,}", *_summary(part)])
        rows.append([label, "all", "", *_summary(of_loss)])
    header = ("loss", "data set", "items fitted", "runs", "median error", "size of it", "within 10 %", "within 25 %")
    return render(header, rows, left=2)


def _summary(runs: Sequence[Run]) -> list[str]:
    found = np.array(errors(runs))
    size = np.abs(found)
    return [
        str(len(runs)),
        f"{np.median(found):+.1%}",
        f"{np.median(size):.1%}",
        f"{np.mean(size <= 0.1):.0%}",
        f"{np.mean(size <= 0.25):.0%}",
    ]


def draw(runs: Sequence[Run], path: Path) -> None:
    """Predicted against logged GiB, one panel a loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained", dpi=150)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (loss, label) in zip(panels, LABELS.items(), strict=True):
        axes.plot([0.1, 100], [0.1, 100], color="#9a9a9a", linewidth=1)
        for dataset in CATALOGUES:
            part = [run for run in runs if run.loss == loss and run.dataset == dataset]
            if part:
                logged, predicted = [run.peak_gib for run in part], [predict(run) for run in part]
                axes.scatter(logged, predicted, s=10, alpha=0.7, linewidths=0, label=dataset)
        axes.set(xscale="log", yscale="log", title=f"{label}, {sum(run.loss == loss for run in runs)} runs")
        axes.set(xlabel="logged peak, GiB")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8, markerscale=1.6)
    panels[0].set(ylabel="predicted peak, GiB")
    figure.savefig(path)
