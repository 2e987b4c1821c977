"""Refitting the planner's constants to measured runs."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cutrec import config as params
from cutrec.reporting.results_file import Result
from pipelines.paper import points
from pipelines.planner.calibration import Calibration
from pipelines.planner.memory import GIB, WORKSPACES, state_bytes, worst_moment
from pipelines.planner.seconds import MULTIPLIED, RATES, device_terms, host_terms
from pipelines.planner.sizes import Sizes, sizes_of

FEWEST = 4
"""Measured points of a loss that its own factor is fitted to; with fewer it stays 1."""
ROUNDS = 12
"""Of fits that depend on the fit before; they settle after a few."""


class PointIndex:
    """The points of the grid by what a result says of them.

    Args:
        values: the mapping of params.yaml.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self._points: dict[object, dict[object, params.Params]] = {}

    def find(self, result: Result) -> params.Params | None:
        """The point that a result measured; None if it is no point of the grid."""
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
        """Without the kind and the precision, which a CPU changes. Other options are other runs than the table's."""
        *point, _, options = result.key[1:]
        return (*point, options)


def refit(measured: Sequence[tuple[params.Params, Result]], start: Calibration, *, by: str) -> Calibration:
    """Constants that fit measured runs best, in squares of relative errors, none of them negative.

    Memory: the factor of activations and a constant from all runs; the factor of a loss from its own, if there are at
    least `FEWEST`. Which moment is the peak depends on the factors: it is chosen anew after each of some fits.

    Time: whether the host or the GPU makes a step last is taken from the rates so far, then each side's rates are
    fitted to its own runs, until no run changes sides. For launches the median is taken, so that half the runs may be
    odd; the others are fitted again with weights that make the sum one of absolute, not squared, errors.

    Args:
        measured: points and results of one kind of GPU, status ok.
        start: constants that stay where there is nothing to fit them to.
        by: what the new constants were fitted to.
    """
    usable = [(point, result, sizes_of(point)) for point, result in measured if result.peak_loop_gib and result.step_ms]
    if len(usable) < FEWEST:
        return start
    steps = [Step.of(point, result, sizes) for point, result, sizes in usable]
    fitted = dataclasses.replace(_fit_memory(usable, start), seconds=fit_seconds(steps, start.seconds))
    return dataclasses.replace(fitted, measured_on=by, time_measured_on=by)


Usable = Sequence[tuple[params.Params, Result, Sizes]]


def _fit_memory(usable: Usable, start: Calibration) -> Calibration:
    by_loss: dict[str, int] = defaultdict(int)
    for point, _, _ in usable:
        by_loss[point.loss] += 1
    own = sorted(loss for loss, count in by_loss.items() if count >= FEWEST)
    columns = ["activations", "constant", *own]
    fitted = dataclasses.replace(start, activations=1.0, constant_gib=0.0, loss={})
    for _ in range(ROUNDS):
        rows, wanted = [], []
        for point, result, sizes in usable:
            assert result.peak_loop_gib is not None
            peak = result.peak_loop_gib * GIB
            places = result.most_tokens or sizes.most_tokens
            gradients, activations, loss = worst_moment(point, sizes, fitted, places)
            fixed = state_bytes(point, sizes.items) + gradients + WORKSPACES + (0.0 if point.loss in own else loss)
            row = dict.fromkeys(columns, 0.0) | {"activations": activations, "constant": GIB}
            if point.loss in own:
                row[point.loss] = loss
            rows.append([row[name] / peak for name in columns])
            wanted.append((peak - fixed) / peak)
        found = dict(zip(columns, (round(float(value), 4) for value in _nonnegative(rows, wanted)), strict=True))
        activations, constant = found.pop("activations"), found.pop("constant")
        fitted = dataclasses.replace(fitted, activations=activations, constant_gib=constant, loss=found)
    return fitted


@dataclass(frozen=True)
class Step:
    """A measured step, and the work in it."""

    seconds: float
    host: dict[str, float]
    device: dict[str, float]

    @classmethod
    def of(cls, point: params.Params, result: Result, sizes: Sizes) -> Step:
        """The step of a result."""
        assert result.step_ms is not None
        tokens = result.tokens_per_step
        work = device_terms(point, sizes, tokens=tokens)
        # network_passes and bytes go over the same memory: passes stay, the rate of bytes is fitted.
        work["bytes"] += work.pop("network_passes") * RATES["network_passes"]
        return cls(result.step_ms / 1e3, host_terms(point, sizes, tokens=tokens), work)


def fit_seconds(steps: Sequence[Step], start: dict[str, float]) -> dict[str, float]:
    """Rates of `pipelines.planner.seconds` that fit steps, as `refit` says.

    Args:
        steps: measured on one kind of GPU.
        start: rates that stay where no step says anything about them.
    """
    rates = dict(start)
    for _ in range(ROUNDS):
        now = RATES | rates
        waits = [_sum(step.host, now) > _sum(step.device, now) for step in steps]
        launched = [step for step, host in zip(steps, waits, strict=True) if host and "launched_ms" in step.host]
        recorded = [step for step, host in zip(steps, waits, strict=True) if host and "launched_ms" not in step.host]
        busy = [step for step, host in zip(steps, waits, strict=True) if not host]
        found: dict[str, float] = {}
        if launched:
            found["launched_ms"] = statistics.median(step.seconds / step.host["launched_ms"] for step in launched)
        found |= _rates([(step.host, step.seconds) for step in recorded])
        found |= _rates([(step.device, step.seconds) for step in busy])
        rates = dict(start) | {name: float(f"{value:.4g}") for name, value in found.items()}
    return rates


def _sum(work: dict[str, float], rates: dict[str, float]) -> float:
    return sum(amount * rates[name] if name in MULTIPLIED else amount / rates[name] for name, amount in work.items())


def _rates(steps: Sequence[tuple[dict[str, float], float]]) -> dict[str, float]:
    """Rates that make work last as long as measured; those without any work, or fitted to 0, are left out."""
    names = sorted({name for work, _ in steps for name in work})
    if not names:
        return {}
    matrix = np.array([[work.get(name, 0.0) / seconds for name in names] for work, seconds in steps])
    scale = matrix.max(0)
    matrix, weight = matrix / scale, np.ones(len(steps))
    for _ in range(ROUNDS):
        found = _nonnegative(matrix * weight[:, None], weight)
        weight = 1 / np.sqrt(np.maximum(np.abs(matrix @ found - 1), 0.01))
    slopes = dict(zip(names, found / scale, strict=True))
    return {name: slope if name in MULTIPLIED else 1 / slope for name, slope in slopes.items() if slope > 0}


def _nonnegative(rows: object, wanted: object) -> npt.NDArray[np.float64]:
    """Least squares without negative coefficients: columns that would be negative are left out, worst first."""
    matrix, target = np.asarray(rows, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    kept = [column for column in range(matrix.shape[1]) if matrix[:, column].any()]
    found = np.zeros(matrix.shape[1])
    while kept:
        part, *_ = np.linalg.lstsq(matrix[:, kept], target, rcond=None)
        if part.min() >= 0:
            found[kept] = part
            break
        kept.pop(int(part.argmin()))
    return found
