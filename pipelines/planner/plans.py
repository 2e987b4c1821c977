"""Plans: a point's sizes, memory and seconds together, as tables, and beside what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cutrec import config as params
from cutrec.reporting.result import Result
from cutrec.reporting.text_table import number, render
from pipelines.paper import points
from pipelines.planner.calibration import Calibration
from pipelines.planner.fit import PointIndex, refit
from pipelines.planner.memory import Memory, memory_of
from pipelines.planner.seconds import Seconds, seconds_of
from pipelines.planner.sizes import Sizes, sizes_of


@dataclass(frozen=True)
class Plan:
    """What is predicted for a point."""

    point: params.Params
    sizes: Sizes
    memory: Memory
    seconds: Seconds

    @property
    def epoch_seconds(self) -> float:
        """Training loop of an epoch."""
        return self.seconds.step * math.ceil(self.sizes.steps / self.point.train.accumulate)


def plan(point: params.Params, calibration: Calibration) -> Plan:
    """Predict a point.

    Args:
        point: what to train.
        calibration: the planner's constants.

    Raises:
        ParamsError: the sizes of its data set are not known yet.
    """
    sizes = sizes_of(point)
    return Plan(point, sizes, memory_of(point, sizes, calibration), seconds_of(point, sizes, calibration))


HEADER = (
    "point", "items", "tokens", "state", "gradients", "activations", "loss", "peak GiB", "fits", "host ms", "GPU ms",
    "step ms", "epoch s",
)  # fmt: skip


def table_of(plans: Sequence[Plan], gpu_gib: float) -> str:
    """Plans as a table.

    Args:
        plans: one a row.
        gpu_gib: memory of the GPU.
    """
    rows = []
    for planned in plans:
        memory = planned.memory
        parts = (memory.state, memory.gradients, memory.activations, memory.loss, memory.peak)
        rows.append(
            [
                points.experiment_name(planned.point),
                f"{planned.sizes.items:,}",
                f"{planned.sizes.tokens:,.0f}",
                *(number(part) for part in parts),
                "yes" if memory.fits(gpu_gib) else "NO",
                *(number(1e3 * part) for part in (planned.seconds.host, planned.seconds.device, planned.seconds.step)),
                number(planned.epoch_seconds),
            ]
        )
    return render(HEADER, rows)


def check(measured: Sequence[Result], calibration: Calibration) -> tuple[str, list[float], list[float]]:
    """Predicted beside measured.

    Args:
        measured: results of training on twins.
        calibration: the planner's constants.

    Returns:
        A table, and the relative errors of memory and of time.
    """
    rows, memory_errors, time_errors = [], [], []
    for point, result in with_points(measured):
        assert result.peak_loop_gib is not None
        assert result.step_ms is not None
        sizes = sizes_of(point)
        peak = memory_of(point, sizes, calibration, tokens=result.most_tokens).peak
        step = seconds_of(point, sizes, calibration, tokens=result.tokens_per_step).step * 1e3
        memory_errors.append(peak / result.peak_loop_gib - 1)
        time_errors.append(step / result.step_ms - 1)
        rows.append(
            [
                points.experiment_name(point),
                number(result.peak_loop_gib),
                number(peak),
                f"{memory_errors[-1]:+.1%}",
                number(result.step_ms),
                number(step),
                f"{time_errors[-1]:+.0%}",
            ]
        )
    header = ("point", "peak GiB", "predicted", "error", "step ms", "predicted", "error")
    return render(header, rows), memory_errors, time_errors


def held_out(measured: Sequence[Result]) -> tuple[list[float], list[float]]:
    """Errors of memory and of time at each data set's points, with constants fitted to the others' alone."""
    memory_errors: list[float] = []
    time_errors: list[float] = []
    for dataset in sorted({result.dataset for result in measured}):
        others = with_points([result for result in measured if result.dataset != dataset])
        constants = refit(others, Calibration(), by=f"all but {dataset}")
        _, memory, time = check([result for result in measured if result.dataset == dataset], constants)
        memory_errors += memory
        time_errors += time
    return memory_errors, time_errors


def with_points(measured: Sequence[Result]) -> list[tuple[params.Params, Result]]:
    """Results of points of the paper's tables, with their points; params.yaml is read for its grid."""
    index = PointIndex(points.load())
    found = [(index.find(result), result) for result in measured]
    return [(point, result) for point, result in found if point is not None]
