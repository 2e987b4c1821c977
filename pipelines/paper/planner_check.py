"""Predictions beside measured rows of the paper's tables, and constants fitted to those rows."""

import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cutrec.commands.plan import source_of
from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.reporting.result import Result
from cutrec.reporting.text_table import number, render
from cutrec.workflow.plan import plan, setup_of, sizes_of
from pipelines.paper import points
from pipelines.paper.points import Choices, Sharing
from pipelines.paper.rows import read_results
from rec_models import planning
from rec_models.planning import Calibration, Measured, memory_of, seconds_of
from rec_models.planning.fit import FEWEST

TITLE = (
    "# The planner beside measured runs\n\nPredicted for the batches that were measured. "
    "`pipelines.plan` counts the largest batch of a whole epoch, which takes up to a fifth more in CE."
)
FUSED_SINCE = "2026-11-30T21:33:55Z"
"""Networks measured before then ran in plain torch."""
Pair = tuple[Config, Result]
"""A point of the paper's tables and a result that measured it."""


class Check(NamedTuple):
    """Predictions beside measurements."""

    table: str
    memory: list[float]
    """Relative errors of the peak; above 0 where the prediction is too high."""
    time: list[float]
    """Relative errors of a step."""

    def summary(self) -> list[str]:
        """A line on memory and a line on time."""
        return [
            f"{name}: {sum(abs(error) <= 0.1 for error in found)} of {len(found)} within 10 %, "
            f"median {statistics.median(map(abs, found)):.1%}, largest {max(found, key=abs):+.0%}"
            for name, found in (("memory", self.memory), ("time", self.time))
        ]


def refit(paths: Sequence[Path], calibration: Calibration) -> str:
    """Fit the constants to the runs of results files and save them; constants stay where nothing was measured.

    Returns:
        What was done, in lines.

    Raises:
        StageError: the results are of several kinds of GPU, or too few.
    """
    measured = on_gpus(read_results(paths))
    devices = sorted({result.device for result in measured})
    if len(devices) != 1:
        raise StageError(f"--refit: found results of {devices or 'no GPU'}, allowed: those of one kind of GPU")
    pairs = with_points(measured)
    if len(pairs) < FEWEST:
        raise StageError(f"--refit: found {len(pairs)} measured points, allowed: {FEWEST} or more")
    by = _summary_of(pairs)
    planning.save(planning.refit([run_of(*pair) for pair in pairs], calibration, by=by))
    return "\n".join([f"{planning.PATH.name}: fitted to {by}", *_left_out(len(measured), len(pairs))])


def report(paths: Sequence[Path], calibration: Calibration) -> tuple[str, str]:
    """Predictions beside the measured rows of results files.

    Returns:
        The text for the terminal, and the same as a page of markdown.

    Raises:
        StageError: no row is a point of the paper's tables measured on a GPU.
    """
    found = read_results(paths)
    measured = on_gpus(found)
    pairs = with_points(measured)
    if not pairs:
        raise StageError("--check: found no point of the paper's tables measured on a GPU, allowed: one or more")
    checked = check(pairs, calibration)
    said = [f"measured: {_summary_of(pairs)}", *checked.summary(), *_left_out(len(measured), len(pairs))]
    for point, result in with_points([result for result in found if result.status == "out of memory"]):
        name, peak = points.experiment_name(point), plan(point, calibration).memory.peak
        said.append(f"ran out of memory on {result.device}: {name}, predicted {peak:.3g} GiB")
    if len({result.dataset for _, result in pairs}) > 1:
        said += [f"constants fitted without the point's data set: {line}" for line in held_out(pairs).summary()]
    source = f"predicted with constants of: {source_of(calibration)}"
    text = "\n".join([checked.table, "", *said, source])
    return text, "\n\n".join([TITLE, *said, source, checked.table]) + "\n"


def on_gpus(found: Sequence[Result]) -> list[Result]:
    """Training measured on GPUs; the predictions do not cover CPUs."""
    return [
        result
        for result in found
        if (result.status, result.kind) == ("ok", "training")
        and result.peak_loop_gib
        and result.step_ms
        and not result.device.startswith("cpu")
    ]


@cache
def run_of(point: Config, result: Result) -> Measured:
    """A point and its result, one that `on_gpus` selects, ready to be compared and fitted."""
    assert result.peak_loop_gib is not None
    assert result.step_ms is not None
    measured = (result.peak_loop_gib, result.step_ms / 1e3, result.tokens_per_step, result.most_tokens)
    setup = setup_of(point)._replace(plain=str(result.measured_at) < FUSED_SINCE)
    return Measured(setup, sizes_of(point), *measured)


def check(pairs: Sequence[Pair], calibration: Calibration) -> Check:
    """Predict the batches that were measured."""
    cells, memory_errors, time_errors = [], [], []
    for point, result in pairs:
        run = run_of(point, result)
        peak = memory_of(run.setup, run.sizes, calibration, tokens=run.most_tokens).peak
        step = seconds_of(run.setup, run.sizes, calibration, tokens=run.tokens).step
        memory_errors.append(peak / run.peak_gib - 1)
        time_errors.append(step / run.step_seconds - 1)
        memory = (number(run.peak_gib), number(peak), f"{memory_errors[-1]:+.1%}")
        time = (number(run.step_seconds * 1e3), number(step * 1e3), f"{time_errors[-1]:+.0%}")
        cells.append([points.experiment_name(point), *memory, *time])
    header = ("point", "peak GiB", "predicted", "error", "step ms", "predicted", "error")
    return Check(render(header, cells), memory_errors, time_errors)


def held_out(pairs: Sequence[Pair]) -> Check:
    """Predict each data set's points with constants fitted to the other data sets only; the table stays empty."""
    whole = Check("", [], [])
    for dataset in sorted({result.dataset for _, result in pairs}):
        others = [run_of(*pair) for pair in pairs if pair[1].dataset != dataset]
        constants = planning.refit(others, Calibration(), by=f"all but {dataset}")
        part = check([pair for pair in pairs if pair[1].dataset == dataset], constants)
        whole.memory.extend(part.memory)
        whole.time.extend(part.time)
    return whole


def with_points(found: Sequence[Result]) -> list[Pair]:
    """Results that measured points of the paper's tables, with their points."""
    values = points.load()
    known: dict[object, Config] = {}
    ways: set[tuple[object, ...]] = set()
    for result in found:
        sharing: Sharing = "tile" if result.sharing == "tile" else "none"
        way = (result.twin, sharing, result.paper_faithful, result.network)
        if way not in ways:
            ways.add(way)
            choices = Choices(twin=result.twin or False, sharing=sharing, paper_faithful=result.paper_faithful)
            rows = points.table_points(with_network(values, result.network), **choices)
            known |= {_key(Result.of(row.params, "training", device="")): row.params for row in rows}
    return [(known[_key(result)], result) for result in found if _key(result) in known]


def with_network(values: dict[str, Any], network: str) -> dict[str, Any]:
    """The mapping of params.yaml, with this network in the paper's SASRec."""
    presets = values["presets"]
    return values | {"presets": presets | {"paper_sasrec": presets[f"{network}_sasrec"]}}


def _key(result: Result) -> object:
    """All but the kind and the precision, which depends on the device. Other options make another run."""
    *point, _, options = result.key[1:]
    return (*point, options)


def _summary_of(pairs: Sequence[Pair]) -> str:
    """How many points, on which GPUs and of which revisions."""
    devices = sorted({result.device for _, result in pairs})
    revisions = sorted({str(result.revision) for _, result in pairs})
    return f"{len(pairs)} points on {', '.join(devices)}, revision {', '.join(revisions)}"


def _left_out(measured: int, used: int) -> list[str]:
    left = measured - used
    return [f"{left} rows are no points of the paper's tables and left out"] if left else []
