"""Refitting the constants of the predictions to measured runs."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rec_models.planning.calibration import Calibration
from rec_models.planning.memory import GIB, WORKSPACES, moments_of, state_bytes, worst_of
from rec_models.planning.seconds import FUSED_RATES, MULTIPLIED, RATES, device_terms, host_terms, time_of
from rec_models.planning.sizes import Setup, Sizes

FEWEST = 4  # measured runs of a loss that its own factor is fitted to; with fewer it stays 1
ROUNDS = 12  # of fits that depend on the fit before; they settle after a few


class Measured(NamedTuple):
    """A measured run."""

    setup: Setup
    sizes: Sizes
    peak_gib: float  # of the training loop
    step_seconds: float
    tokens: float | None = None  # mean places of a measured step; None: those of `sizes`
    most_tokens: float | None = None  # places of the largest measured batch; None: as `sizes` expects it


def refit(measured: Sequence[Measured], start: Calibration, *, by: str) -> Calibration:
    """Constants that fit measured runs best, by squares of relative errors; none of them is negative.

    Memory: the factor of activations and a constant are fitted to all runs, and the factor of a loss to its own, if
    there are at least `FEWEST`. Which moment is the peak depends on the factors, so it is chosen again in each round.

    Time: the rates so far decide whether the host or the GPU limits a step, then each side's rates are fitted to its
    own runs, until no run changes sides. Launches get the median, which tolerates outliers in half of the runs; the
    other rates are fitted with weights that minimize the sum of absolute instead of squared errors. Runs with the fused
    network have their own rates.

    All runs are of one kind of GPU; `by` says what the new constants were fitted to. Those of `start` stay where
    nothing was measured, and all of them with fewer than `FEWEST` runs.
    """
    if len(measured) < FEWEST:
        return start
    fused, plain = ([Step.of(run) for run in measured if run.setup.fused is kind] for kind in (True, False))
    seconds = fit_seconds(plain, start.seconds)
    fused_seconds = fit_seconds(fused, start.fused_seconds, RATES | seconds | FUSED_RATES)
    fitted = dataclasses.replace(_fit_memory(measured, start), seconds=seconds, fused_seconds=fused_seconds)
    return dataclasses.replace(fitted, measured_on=by, time_measured_on=by)


def _fit_memory(measured: Sequence[Measured], start: Calibration) -> Calibration:
    by_loss = Counter(run.setup.loss.loss for run in measured)
    own = sorted(loss for loss, count in by_loss.items() if count >= FEWEST)
    columns = ["activations", "constant", *own]
    fitted = dataclasses.replace(start, activations=1.0, constant_gib=0.0, loss={})
    moments = [list(moments_of(run.setup, run.sizes, run.most_tokens or run.sizes.most_tokens)) for run in measured]
    for _ in range(ROUNDS):
        rows, wanted = [], []
        for run, choices in zip(measured, moments, strict=True):
            peak, name = run.peak_gib * GIB, run.setup.loss.loss
            gradients, activations, loss = worst_of(choices, name, fitted)
            fixed = state_bytes(run.setup, run.sizes.items) + gradients + WORKSPACES + (0.0 if name in own else loss)
            row = {"activations": activations, "constant": GIB, name: loss}
            rows.append([row.get(column, 0.0) / peak for column in columns])
            wanted.append((peak - fixed) / peak)
        found = dict(zip(columns, (round(float(value), 4) for value in _nonnegative(rows, wanted)), strict=True))
        activations, constant = found.pop("activations"), found.pop("constant")
        fitted = dataclasses.replace(fitted, activations=activations, constant_gib=constant, loss=found)
    return fitted


class Step(NamedTuple):
    """A measured step, and the work in it."""

    seconds: float
    host: dict[str, float]
    device: dict[str, float]

    @classmethod
    def of(cls, run: Measured) -> Step:
        """The step of a run."""
        work = device_terms(run.setup, run.sizes, tokens=run.tokens)
        # network_passes and bytes go over the same memory: passes stay, the rate of bytes is fitted.
        work["bytes"] += work.pop("network_passes") * RATES["network_passes"]
        return cls(run.step_seconds, host_terms(run.setup, run.sizes, tokens=run.tokens), work)


def fit_seconds(steps: Sequence[Step], start: dict[str, float], usual: dict[str, float] = RATES) -> dict[str, float]:
    """Rates that fit steps, as `refit` describes; those of `start` or the usual stay where no step depends on them."""
    rates = dict(start)
    for _ in range(ROUNDS):
        now = usual | rates
        waits = [time_of(step.host, now) > time_of(step.device, now) for step in steps]
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


def _rates(steps: Sequence[tuple[dict[str, float], float]]) -> dict[str, float]:
    """Rates at which the work takes the measured time; those without work, or fitted to 0, are left out."""
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
    """Least squares without negative coefficients: columns that would be negative are left out, the worst first."""
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
