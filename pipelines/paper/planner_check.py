"""Predictions beside measured rows of the paper's tables, and constants fitted to those rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cutrec import config
from cutrec.commands.plan import source_of
from cutrec.errors import StageError
from cutrec.reporting import results_file as results
from cutrec.reporting.result import Result
from cutrec.reporting.text_table import number, render
from cutrec.workflow.plan import plan, setup_of, sizes_of
from pipelines.paper import points
from rec_models import planning
from rec_models.planning import Calibration, Measured, memory_of, seconds_of
from rec_models.planning.fit import FEWEST

TITLE = (
    "# The planner beside measured runs\n\nPredicted for the batches that were measured. "
    "`pipelines.plan` counts the largest batch of a whole epoch, which takes up to a fifth more in CE."
)


class Row(NamedTuple):
    """A measured point of the paper's tables."""

    point: config.Config
    dataset: str
    run: Measured


class Check(NamedTuple):
    """Predictions beside measurements."""

    table: str
    memory: list[float]
    """Relative errors of the peak; above 0 where the prediction is too high."""
    time: list[float]
    """Relative errors of a step."""


def refit(paths: Sequence[Path], calibration: Calibration) -> str:
    """Fit the constants to measured runs and save them.

    Args:
        paths: results files.
        calibration: constants that stay where nothing was measured.

    Returns:
        What was done, in lines.

    Raises:
        StageError: the results are of several kinds of GPU, or too few.
    """
    measured = on_gpus(read(paths))
    devices = sorted({result.device for result in measured})
    if len(devices) != 1:
        raise StageError(f"--refit: found results of {devices or 'no GPU'}, allowed: those of one kind of GPU")
    pairs = with_points(measured)
    if len(pairs) < FEWEST:
        raise StageError(f"--refit: found {len(pairs)} measured points, allowed: {FEWEST} or more")
    revisions = sorted({str(result.revision) for _, result in pairs})
    by = f"{len(pairs)} points on {devices[0]}, revision {', '.join(revisions)}"
    planning.save(planning.refit([row.run for row in rows_of(pairs)], calibration, by=by))
    return "\n".join([f"{planning.PATH.name}: fitted to {by}", *_left_out(len(measured), len(pairs))])


def report(paths: Sequence[Path], calibration: Calibration) -> tuple[str, str]:
    """Predictions beside the measured rows of results files.

    Returns:
        The text for the terminal, and the same as a page of markdown.

    Raises:
        StageError: no row is a point of the paper's tables measured on a GPU.
    """
    found = read(paths)
    measured = on_gpus(found)
    rows = rows_of(with_points(measured))
    if not rows:
        raise StageError("--check: found no point of the paper's tables measured on a GPU, allowed: one or more")
    checked = check(rows, calibration)
    said = [*_errors(checked), *_left_out(len(measured), len(rows)), *_out_of_memory(found, calibration)]
    if len({row.dataset for row in rows}) > 1:
        without = "constants fitted without the point's data set"
        said += [f"{without}: {line}" for line in _errors(held_out(rows))]
    source = source_of(calibration)
    text = "\n".join([checked.table, "", *said, source])
    return text, "\n\n".join([TITLE, *said, source, checked.table]) + "\n"


def read(paths: Sequence[Path]) -> list[Result]:
    """The rows of results files, the newest of each point.

    Raises:
        StageError: a file is missing.
    """
    for path in paths:
        if not path.is_file():
            raise StageError(f"{path}: no such file, allowed: results of `python -m pipelines.measure`")
    return results.merge(results.read(path) for path in paths)


def on_gpus(found: Sequence[Result]) -> list[Result]:
    """Training measured on GPUs; the predictions do not cover CPUs."""
    return [
        result
        for result in found
        if result.status == "ok"
        and result.kind == "training"
        and result.peak_loop_gib
        and result.step_ms
        and not result.device.startswith("cpu")
    ]


def rows_of(pairs: Sequence[tuple[config.Config, Result]]) -> list[Row]:
    """Points and their results, as `on_gpus` selects them, ready to be compared and fitted."""
    rows = []
    for point, result in pairs:
        assert result.peak_loop_gib is not None
        assert result.step_ms is not None
        measured = (result.peak_loop_gib, result.step_ms / 1e3, result.tokens_per_step, result.most_tokens)
        rows.append(Row(point, result.dataset, Measured(setup_of(point), sizes_of(point), *measured)))
    return rows


def check(rows: Sequence[Row], calibration: Calibration) -> Check:
    """Predict the batches that were measured."""
    cells, memory_errors, time_errors = [], [], []
    for point, _, run in rows:
        peak = memory_of(run.setup, run.sizes, calibration, tokens=run.most_tokens).peak
        step = seconds_of(run.setup, run.sizes, calibration, tokens=run.tokens).step
        memory_errors.append(peak / run.peak_gib - 1)
        time_errors.append(step / run.step_seconds - 1)
        memory = (number(run.peak_gib), number(peak), f"{memory_errors[-1]:+.1%}")
        time = (number(run.step_seconds * 1e3), number(step * 1e3), f"{time_errors[-1]:+.0%}")
        cells.append([points.experiment_name(point), *memory, *time])
    header = ("point", "peak GiB", "predicted", "error", "step ms", "predicted", "error")
    return Check(render(header, cells), memory_errors, time_errors)


def held_out(rows: Sequence[Row]) -> Check:
    """Predict each data set's points with constants fitted to the other data sets only; the table stays empty."""
    memory_errors: list[float] = []
    time_errors: list[float] = []
    for dataset in sorted({row.dataset for row in rows}):
        others = [row.run for row in rows if row.dataset != dataset]
        constants = planning.refit(others, Calibration(), by=f"all but {dataset}")
        _, memory, time = check([row for row in rows if row.dataset == dataset], constants)
        memory_errors += memory
        time_errors += time
    return Check("", memory_errors, time_errors)


def with_points(measured: Sequence[Result]) -> list[tuple[config.Config, Result]]:
    """Results that measured points of the paper's tables, with their points."""
    index = PointIndex(points.load())
    found = [(index.find(result), result) for result in measured]
    return [(point, result) for point, result in found if point is not None]


class PointIndex:
    """Finds the point of the grid that a result measured.

    Args:
        values: the mapping of params.yaml.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self._points: dict[object, dict[object, config.Config]] = {}

    def find(self, result: Result) -> config.Config | None:
        """The point that a result measured; None if it is not a point of the grid."""
        sharing: points.Sharing = "tile" if result.sharing == "tile" else "none"
        options = (result.twin, sharing, result.paper_faithful)
        if options not in self._points:
            rows = points.table_points(
                self._values, twin=result.twin or False, sharing=sharing, paper_faithful=result.paper_faithful
            )
            self._points[options] = {
                self._key(Result.of(row.params, "training", device="")): row.params for row in rows
            }
        return self._points[options].get(self._key(result))

    @staticmethod
    def _key(result: Result) -> object:
        """All but the kind and the precision, which depends on the device. Other options make another run."""
        *point, _, options = result.key[1:]
        return (*point, options)


def _errors(checked: Check) -> list[str]:
    return [
        f"{name}: {sum(abs(error) <= 0.1 for error in found)} of {len(found)} within 10 %, "
        f"median {statistics.median(map(abs, found)):.1%}"
        for name, found in (("memory", checked.memory), ("time", checked.time))
    ]


def _out_of_memory(found: Sequence[Result], calibration: Calibration) -> list[str]:
    """One line per point that did not fit the GPU that it was tried on."""
    return [
        f"ran out of memory on {result.device}: {points.experiment_name(point)}, "
        f"predicted {plan(point, calibration).memory.peak:.3g} GiB"
        for point, result in with_points([result for result in found if result.status == "out of memory"])
    ]


def _left_out(measured: int, used: int) -> list[str]:
    left = measured - used
    return [f"{left} rows are no points of the paper's tables and left out"] if left else []
