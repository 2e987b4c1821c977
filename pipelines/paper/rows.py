"""The rows of the paper's tables with what was measured of each: what `pipelines.tables` prints, draws and writes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutrec import config
from cutrec.reporting.paper_settings import only_ways
from cutrec.reporting.results_file import Result, of_run
from cutrec.workflow.plan import plan
from pipelines.paper import points
from pipelines.paper.experiments import Experiment
from pipelines.paper.points import GridPoint

if TYPE_CHECKING:
    from rec_models.planning import Calibration

PAPER = Path(__file__).parents[1] / "reference" / "paper_tables.csv"
MEASURES = ("ndcg_at_10", "coverage_at_10", "surprisal_at_10", "peak_gib", "epoch_seconds")
"""What the paper prints of a row; memory and seconds are of the whole fit, validation included."""


@dataclass(frozen=True)
class PaperRow:
    """A row as printed."""

    table: int
    model: str
    loss: str
    sampling: str | None
    dataset: str
    batch_size: int
    max_seq_len: int
    num_negatives: int | None
    values: dict[str, float]
    """By the names of `MEASURES`."""


@dataclass(frozen=True)
class OurRow:
    """What we have of a row, under one choice of the things that the paper leaves no choice in."""

    twin: bool
    sharing: str | None
    paper_faithful: bool
    seed: int
    device: str
    revision: str
    predicted: bool
    """By the planner, not measured."""
    status: str
    options: str | None
    """How it was computed, where not by default."""
    values: dict[str, float]
    """By the names of `MEASURES`, those that were measured."""

    @property
    def label(self) -> str:
        """How it was run, in a few words."""
        words = [
            "twin" if self.twin else None,
            f"negatives shared by {self.sharing}" if self.sharing not in (None, "none") else None,
            "paper-faithful" if self.paper_faithful else None,
            self.options,
            f"seed {self.seed}" if self.seed != 42 else None,
            self.status if self.status != "ok" else None,
            "predicted" if self.predicted else None,
        ]
        return ", ".join(word for word in words if word) or "the data itself"

    @property
    def is_the_papers_way(self) -> bool:
        """Whether every token drew negatives of its own, without the defects of the paper's code."""
        return self.sharing in (None, "none") and not self.paper_faithful


@dataclass(frozen=True)
class Line:
    """A row of a table: the paper's, and ours if there are any."""

    paper: PaperRow
    ours: tuple[OurRow, ...]


def read_paper(path: Path = PAPER) -> list[PaperRow]:
    """The paper's rows, in the order of its tables."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            PaperRow(
                table=int(row["table"]),
                model=row["model"],
                loss=row["loss"],
                sampling=row["sampling"] or None,
                dataset=row["dataset"],
                batch_size=int(row["batch_size"]),
                max_seq_len=int(row["max_seq_len"]),
                num_negatives=int(row["num_negatives"]) if row["num_negatives"] else None,
                values={
                    "ndcg_at_10": float(row["ndcg_at_10"]),
                    "coverage_at_10": float(row["coverage_at_10"]),
                    "surprisal_at_10": float(row["surprisal_at_10"]),
                    "peak_gib": float(row["max_memory_gb"]),
                    "epoch_seconds": float(row["epoch_seconds"]),
                },
            )
            for row in csv.DictReader(file)
        ]


def lines(results: Sequence[Result], file: dict[str, Any], *, calibration: Calibration | None = None) -> list[Line]:
    """Every row of the paper with what was measured of it; two rows of one point get the same.

    Args:
        results: of twins of full size and of the data sets, trained as the paper prescribes; others belong to no row.
        file: the mapping of params.yaml, for its grid.
        calibration: the planner's constants, to predict rows whose memory was not measured the paper's way; None: leave
            them empty.
    """
    rows = read_paper()
    grid = points.table_points(file, twin=True)
    by_key: dict[object, list[Result]] = {}
    for result in results:
        if result.twin in (None, 1.0) and only_ways(result.options):
            by_key.setdefault(_key(result), []).append(result)
    found = []
    for paper, point in zip(rows, grid, strict=True):
        matching = by_key.get(_key(Result.of(point.params, "training", device="")), [])
        ours = _grouped(matching)
        if calibration is not None and not any("peak_gib" in row.values and row.is_the_papers_way for row in ours):
            ours = [*ours, _predicted(point, calibration)]
        found.append(Line(paper, tuple(ours)))
    return found


def otherwise(results: Sequence[Result], file: dict[str, Any]) -> list[str]:
    """A line on the results that did otherwise than the paper prescribes, and one on those of no point of its tables.

    Args:
        results: as of `lines`.
        file: the mapping of params.yaml, for its grid.
    """
    named = {_key(Result.of(point.params, "training", device="")) for point in points.table_points(file, twin=True)}
    others = [result for result in results if _key(result) in named and not only_ways(result.options)]
    strangers = [result for result in results if _key(result) not in named or result.twin not in (None, 1.0)]
    said = []
    if others:
        how = dict.fromkeys(str(result.options) for result in others)
        shown = ", ".join(list(how)[:3]) + (", ..." if len(how) > 3 else "")
        said.append(f"{len(others)} results fill no row, they did otherwise than the paper: {shown}")
    if strangers:
        said.append(f"{len(strangers)} results are of no point of the paper's tables, or of a twin of another scale")
    return said


def from_experiments(found: Iterable[Experiment]) -> tuple[list[Result], list[str]]:
    """Results of finished experiments, and a line for each that gives none.

    Args:
        found: experiments; those that are not finished are left out without a word.
    """
    results: list[Result] = []
    remarks = []
    for experiment in found:
        if experiment.state != "finished":
            continue
        if not experiment.has_metrics:
            remarks.append(f"{experiment.name}: finished without metrics, `uv run dvc exp remove {experiment.name}`")
            continue
        try:
            point = config.from_mapping(experiment.params)
        except config.ConfigError as error:
            remarks.append(f"{experiment.name}: of a commit with other parameters ({error})")
            continue
        revision = experiment.baseline[:7] + ("+" if experiment.edited else "")
        where = {"revision": revision, "measured_at": experiment.finished_at}
        results += of_run(point, experiment.training, experiment.evaluation, **where)
    return results, remarks


def _key(result: Result) -> object:
    """What a row of the paper says of a point."""
    return (
        result.dataset, result.model, result.loss, result.sampling, result.num_negatives, result.batch_size,
        result.max_seq_len, result.hidden,
    )  # fmt: skip


def _grouped(results: Sequence[Result]) -> list[OurRow]:
    """Training and accuracy of the same run of a point on one row; real data before twins, the plain before others."""
    groups: dict[tuple[object, ...], dict[str, Result]] = {}
    for result in results:
        shared = (result.twin is not None, result.paper_faithful, result.sharing or "", result.options or "")
        kind = (*shared, result.seed, result.device)
        kinds = groups.setdefault(kind, {})
        if result.kind not in kinds or (result.measured_at or "") >= (kinds[result.kind].measured_at or ""):
            kinds[result.kind] = result
    return [_our_row(groups[kind]) for kind in sorted(groups, key=str)]


def _our_row(kinds: dict[str, Result]) -> OurRow:
    first = next(iter(kinds.values()))
    training, accuracy = kinds.get("training"), kinds.get("accuracy")
    values: dict[str, float | None] = {}
    if accuracy is not None:
        values |= {name: getattr(accuracy, name) for name in MEASURES[:3]}
    if training is not None:
        values |= {"peak_gib": training.peak_fit_gib, "epoch_seconds": training.whole_epoch_seconds}
    revisions = dict.fromkeys(result.revision or "" for result in kinds.values())
    return OurRow(
        twin=first.twin is not None,
        sharing=first.sharing,
        paper_faithful=first.paper_faithful,
        seed=first.seed,
        device=first.device,
        revision=" ".join(revision for revision in revisions if revision),
        predicted=False,
        status=training.status if training is not None else "ok",
        options=first.options,
        values={name: value for name, value in values.items() if value is not None},
    )


def _predicted(point: GridPoint, calibration: Calibration) -> OurRow:
    planned = plan(point.params, calibration)
    return OurRow(
        twin=True,
        sharing=planned.point.negatives.sharing if "negatives" in point.values else None,
        paper_faithful=False,
        seed=planned.point.seed,
        device="planner",
        revision="",
        predicted=True,
        status="ok",
        options=None,
        values={"peak_gib": planned.memory.peak, "epoch_seconds": planned.epoch_seconds},
    )
