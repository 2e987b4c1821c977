"""The rows of the paper's tables with our results for each: what `pipelines.paper.tables` prints, draws and writes."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cutrec.errors import StageError
from cutrec.reporting import results_file
from cutrec.reporting.results_file import Result, Status
from cutrec.reporting.standard_settings import network
from cutrec.workflow.plan import plan
from pipelines.paper import points
from pipelines.paper.points import GridPoint
from rec_models.planning import Calibration

PAPER = Path(__file__).parents[1] / "reference" / "paper_tables.csv"
MEASURES = {
    "ndcg_at_10": "ndcg_at_10",
    "coverage_at_10": "coverage_at_10",
    "surprisal_at_10": "surprisal_at_10",
    "peak_gib": "max_memory_gb",
    "epoch_seconds": "epoch_seconds",
}
"""What the paper prints in a row, by its column in `PAPER`. Memory and seconds are of the whole fit with validation."""


_WAYS = frozenset({"compile", "cuda_graphs", "impl", "optimizer"})
"""Options of a result that say how it was computed; the others say what was trained and tested."""


@dataclass(frozen=True)
class OurRow:
    """Our results for a row of the paper, for one choice of what the paper does not vary."""

    result: Result
    """The point, the machine, and the status and revision of its measurements."""
    values: dict[str, float]
    """By the names of `MEASURES`, those that were measured; of several seeds their mean."""
    deviations: dict[str, float] = field(default_factory=dict)
    """The standard deviation (n - 1) of the values of which several seeds were measured."""
    seeds: tuple[int, ...] = ()
    """In ascending order; empty for a prediction."""
    predicted: bool = False
    """By the planner, not measured."""

    @property
    def twin(self) -> bool:
        """Whether the log is synthetic."""
        return self.result.twin is not None

    @property
    def label(self) -> str:
        """How it was run, in a few words."""
        run = self.result
        words = [
            "twin" if self.twin else "the data itself",
            f"negatives shared by {run.sharing}" if run.sharing not in (None, "none") else None,
            "paper-faithful" if run.paper_faithful else None,
            run.options,
            self._seeds,
            run.status if run.status != "ok" else None,
            "predicted" if self.predicted else None,
        ]
        return ", ".join(word for word in words if word)

    @property
    def _seeds(self) -> str | None:
        if len(self.seeds) > 1:
            return f"{len(self.seeds)} seeds"
        return f"seed {self.result.seed}" if self.result.seed != 42 else None


@dataclass(frozen=True)
class Line:
    """A row of the paper, and our rows for it."""

    point: GridPoint
    paper: dict[str, float]
    """As printed, by the names of `MEASURES`; empty for a data set that the paper does not have."""
    ours: tuple[OurRow, ...]


def read_paper(path: Path = PAPER) -> list[dict[str, float]]:
    """The measures of the paper's rows by the names of `MEASURES`, in the order of its tables."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(row[column]) for name, column in MEASURES.items()} for row in csv.DictReader(file)]


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The rows of results files, the newest of each point.

    Raises:
        StageError: a file is missing.
    """
    for path in paths:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "no such file"
            raise StageError(f"{path}: {what}, allowed: results of `python -m pipelines.measure`")
    return results_file.merge(results_file.read(path) for path in paths)


def lines(results: Sequence[Result], file: dict[str, Any], *, calibration: Calibration | None = None) -> list[Line]:
    """Every row of the tables with our results for it; two rows that repeat one point get the same results.

    Args:
        results: results of the data sets and of their twins. Those of scaled twins, and those that were trained with
            other settings than the paper's, belong to no row.
        file: the mapping of params.yaml, for its grid.
        calibration: the planner's constants, to predict rows whose memory was not measured as the paper draws: each
            token its own negatives, with the row's own network, without the defects of the paper's code. None leaves
            them empty.
    """
    by_key: dict[object, list[Result]] = {}
    for result in results:
        if result.twin in (None, 1.0) and is_the_papers_point(result.options):
            by_key.setdefault(_key(result), []).append(result)
    found, printed = [], iter(read_paper())
    for key, point in _points(file):
        ours = _grouped(by_key.get(key, []))
        measured = any(
            "peak_gib" in row.values
            and row.result.sharing in (None, "none")
            and not row.result.paper_faithful
            and row.result.network == network(point.params)
            for row in ours
        )
        if calibration is not None and not measured:
            planned = plan(point.params, calibration)
            values = {"peak_gib": planned.memory.peak, "epoch_seconds": planned.epoch_seconds}
            ours.append(OurRow(Result.of(point.params, "training", device="planner"), values, predicted=True))
        found.append(Line(point, next(printed) if point.printed else {}, tuple(ours)))
    return found


def without_row(results: Sequence[Result], file: dict[str, Any]) -> list[str]:
    """A line on the results with other settings than the paper's, and a line on those of no point of its tables."""
    keys = {key for key, _ in _points(file)}
    others = [result for result in results if _key(result) in keys and not is_the_papers_point(result.options)]
    strangers = [result for result in results if _key(result) not in keys or result.twin not in (None, 1.0)]
    found = []
    if others:
        how = dict.fromkeys(str(result.options) for result in others)
        shown = ", ".join(list(how)[:3]) + (", ..." if len(how) > 3 else "")
        found.append(f"{len(others)} results fill no row, they did otherwise than the paper: {shown}")
    if strangers:
        found.append(f"{len(strangers)} results are of no point of the paper's tables, or of a twin of another scale")
    return found


def is_the_papers_point(options: str | None) -> bool:
    """Whether the options of a result say only how it was computed, so that it trains what the paper trains."""
    return all(entry.partition("=")[0] in _WAYS for entry in (options or "").split(";") if entry)


def _points(file: dict[str, Any]) -> list[tuple[object, GridPoint]]:
    """The points of all rows with their keys, in the order of the tables."""
    found = points.table_points(file, twin=True)
    return [(_key(Result.of(point.params, "training", device="")), point) for point in found]


def _key(result: Result) -> object:
    """What a row of the paper says about a point."""
    sizes = (result.num_negatives, result.batch_size, result.max_seq_len, result.hidden)
    return (result.dataset, result.model, result.loss, result.sampling, *sizes)


def _grouped(results: Sequence[Result]) -> list[OurRow]:
    """One row for training and accuracy of the same run; the paper's network and settings and real data come first."""
    groups: dict[tuple[object, ...], dict[int, dict[str, Result]]] = {}
    for result in results:
        way = (
            result.network,
            result.twin is not None,
            result.paper_faithful,
            result.sharing or "",
            result.options or "",
        )
        failed = None if result.status == "ok" else (result.status, result.seed)  # it has no mean with other seeds
        kinds = groups.setdefault((*way, failed, result.device), {}).setdefault(result.seed, {})
        if result.kind not in kinds or (result.measured_at or "") >= (kinds[result.kind].measured_at or ""):
            kinds[result.kind] = result
    return [_mean_row([_our_row(kinds) for _, kinds in sorted(groups[way].items())]) for way in sorted(groups, key=str)]


def _mean_row(rows: Sequence[OurRow]) -> OurRow:
    """One row for the runs that differ in their seeds."""
    measured = {name: [row.values[name] for row in rows if name in row.values] for name in MEASURES}
    revisions = dict.fromkeys(row.result.revision for row in rows if row.result.revision)
    return OurRow(
        replace(rows[0].result, revision=" ".join(revisions)),
        {name: statistics.fmean(found) for name, found in measured.items() if found},
        {name: statistics.stdev(found) for name, found in measured.items() if len(found) > 1},
        tuple(row.result.seed for row in rows),
    )


def _our_row(kinds: dict[str, Result]) -> OurRow:
    values: dict[str, float | None] = {}
    status: Status = "ok"
    if (accuracy := kinds.get("accuracy")) is not None:
        values |= {name: getattr(accuracy, name) for name in list(MEASURES)[:3]}
    if (training := kinds.get("training")) is not None:
        values |= {"peak_gib": training.peak_fit_gib, "epoch_seconds": training.whole_epoch_seconds}
        status = training.status
    revisions = dict.fromkeys(result.revision for result in kinds.values() if result.revision)
    shown = replace(next(iter(kinds.values())), status=status, revision=" ".join(revisions))
    return OurRow(shown, {name: value for name, value in values.items() if value is not None})
