"""Pictures of the tables: memory by loss, seconds per epoch by loss, accuracy against memory."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from pipelines.paper.rows import Line, OurRow
from rec_models.losses.registry import LOSSES

DATASETS = ("beauty", "movielens_20m", "gowalla", "30music", "zvuk", "megamarket")
CURVES = ("ce", "ce_neg", "cce", "cce_neg")
"""The losses that the paper is about: tables 1 to 4."""


def draw_all(lines: Sequence[Line], folder: Path) -> list[Path]:
    """Draw the three pictures of all tables into a folder; their paths."""
    paths = [folder / name for name in ("memory_by_loss.png", "epoch_time_by_loss.png", "accuracy_by_memory.png")]
    main = [line for line in lines if line.point.table in (1, 2, 3, 4)]
    _by_loss(main, "peak_gib", "peak memory, GiB", paths[0])
    _by_loss(main, "epoch_seconds", "seconds of an epoch", paths[1])
    _accuracy([line for line in lines if line.point.params.model == "sasrec"], paths[2])
    return paths


def _by_loss(lines: Sequence[Line], measure: str, label: str, path: Path) -> None:
    """SASRec's four main losses on six data sets; markers are hollow for the paper, filled for ours."""
    figure = Figure(figsize=(11, 5), layout="constrained", dpi=150)
    axes = figure.subplots()
    for line in lines:
        if (dataset := line.point.dataset) not in DATASETS:
            continue
        loss, printed = line.point.params.loss, line.paper[measure]
        colour, x = LOSSES[loss].colour, DATASETS.index(dataset) + (CURVES.index(loss) - 1.5) * 0.2
        axes.plot(x, printed, _shape(line), markersize=8, markerfacecolor="none", color=colour)
        for ours in _shown(line.ours, (measure,)):
            value = ours.values[measure]
            axes.plot([x, x], [printed, value], color=colour, linewidth=1, alpha=0.5)
            axes.plot(x, value, _marker(line, ours), markersize=8, color=colour)
    axes.set(yscale="log", ylabel=label, xlim=(-0.6, len(DATASETS) - 0.4))
    axes.set_xticks(range(len(DATASETS)), DATASETS)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(_plain_number)
    axes.yaxis.set_minor_formatter(lambda *_: "")
    _tidy(axes)
    _legend(figure, CURVES, lines, (measure,))
    figure.supxlabel(_caption(lines, measure), fontsize="small")
    figure.savefig(path)


def _caption(lines: Sequence[Line], measure: str) -> str:
    """What somebody who sees only the picture needs to know."""
    shown = [row for line in lines for row in _shown(line.ours, (measure,))]
    devices = sorted({row.result.device for row in shown if not row.predicted})
    said = ["SASRec, negatives drawn uniformly. The paper names no GPU."]
    if devices:
        said[0] += f" Ours: {', '.join(devices)}."
    if any(row.twin for row in shown):
        said.append("Ours: synthetic logs of the published shapes; megamarket has 1.66 million items, paper: 3.28.")
    return "\n".join(said)


def _accuracy(lines: Sequence[Line], path: Path) -> None:
    """NDCG@10 against peak memory, one panel per data set; markers are hollow for the paper, filled for ours."""
    figure = Figure(figsize=(13, 6.6), layout="constrained", dpi=150)
    both = ("peak_gib", "ndcg_at_10")
    further = dict.fromkeys(line.point.dataset for line in lines if not line.paper)
    panels = figure.subplots(2, math.ceil((len(DATASETS) + len(further)) / 2), sharex=True, squeeze=False)
    for axes, dataset in zip(panels.flat, (*DATASETS, *further), strict=False):
        of_dataset = [line for line in lines if line.point.dataset == dataset]
        for line in of_dataset:
            colour = LOSSES[line.point.params.loss].colour
            if line.paper:
                axes.plot(*(line.paper[name] for name in both), _shape(line), markerfacecolor="none", color=colour)
            for ours in _shown(line.ours, both):
                axes.plot(*(ours.values[name] for name in both), _marker(line, ours), color=colour)
        heights = [line.paper["ndcg_at_10"] for line in of_dataset if line.paper]
        heights += [ours.values["ndcg_at_10"] for line in of_dataset for ours in _shown(line.ours, both)]
        axes.set(xscale="log", xlim=(0.2, 120), ylim=(0, 1.1 * max(heights, default=1.0)), title=dataset)
        axes.xaxis.set_major_formatter(_plain_number)
        axes.xaxis.set_minor_formatter(lambda *_: "")
        _tidy(axes)
    for axes in panels.flat[len(DATASETS) + len(further) :]:
        axes.set_axis_off()
    for axes in panels.flat[: len(DATASETS) + len(further)][-panels.shape[1] :]:  # the lowest panel of each column
        axes.set_xlabel("peak memory, GiB")
        axes.tick_params(labelbottom=True)
    for axes in panels[:, 0]:
        axes.set_ylabel("NDCG@10")
    shown = [row for line in lines for row in _shown(line.ours, both)]
    said = "SASRec. None of ours yet: synthetic logs have no accuracy."
    if shown:
        devices = ", ".join(sorted({row.result.device for row in shown}))
        seeds = ", ".join(map(str, sorted({seed for row in shown for seed in row.seeds})))
        said = f"SASRec. Ours: {devices}, seed {seeds}; synthetic logs have no accuracy."
    if "completejourney" in further:
        said += "\ncompletejourney is not in the paper; its package calls it simulated after real purchases."
    figure.supxlabel(said, fontsize="small")
    there = {line.point.params.loss for line in lines}
    _legend(figure, [loss for loss in LOSSES if loss in there], lines, both)
    figure.savefig(path)


def _shown(ours: Sequence[OurRow], measures: Sequence[str]) -> list[OurRow]:
    """Those of our rows that a picture shows.

    Runs with the defects of the paper's code, on a CPU, of a twin next to the data itself, or of the plain network next
    to the paper's are left out; of several ways of computing the same thing, the fastest is shown.
    """
    whole = [row for row in ours if set(measures) <= set(row.values) and not row.result.paper_faithful]
    whole = [row for row in whole if not row.result.device.startswith("cpu")]
    paper = {row.result.sharing for row in whole if row.result.network == "paper"}
    whole = [row for row in whole if row.result.network == "paper" or row.result.sharing not in paper]
    real = {row.result.sharing for row in whole if not row.twin}
    whole = [row for row in whole if not (row.twin and row.result.sharing in real)]
    best: dict[str | None, OurRow] = {}
    for row in sorted(whole, key=lambda row: row.values.get("epoch_seconds", math.inf)):
        best.setdefault(row.result.sharing, row)
    return list(best.values())


def _shape(line: Line) -> str:
    """The marker of a row: how its negatives are drawn."""
    point = line.point.params
    return "D" if LOSSES[point.loss].sampled and point.negatives.sampling == "popularity" else "o"


def _marker(line: Line, ours: OurRow) -> str:
    if ours.predicted:
        return "x"
    return "^" if ours.result.sharing not in (None, "none") else _shape(line)


def _legend(figure: Figure, losses: Sequence[str], lines: Sequence[Line], measures: Sequence[str]) -> None:
    """The colors of the losses, and the markers that occur in the picture."""
    used = {_marker(line, row) for line in lines for row in _shown(line.ours, measures)} | set(map(_shape, lines))
    kinds = {
        "o": "ours",
        "D": "negatives by popularity",
        "^": "ours, negatives shared by tile",
        "x": "ours, predicted",
    }
    handles = [Line2D([], [], marker="s", color=LOSSES[loss].colour, label=LOSSES[loss].title) for loss in losses]
    handles.append(Line2D([], [], marker="o", color="black", markerfacecolor="none", label="the paper's"))
    handles += [Line2D([], [], marker=kind, color="black", label=kinds[kind]) for kind in kinds if kind in used]
    for handle in handles:
        handle.set_linestyle("")
    figure.legend(handles=handles, frameon=False, ncols=len(handles), loc="outside upper center", columnspacing=1.2)


def _plain_number(value: float, _: object = None) -> str:
    return f"{value:g}"


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
