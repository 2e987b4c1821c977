"""Refitting the planner's constants to measured runs."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines import params
from pipelines.paper import points
from pipelines.planner.calibration import Calibration
from pipelines.planner.memory import memory_of
from pipelines.planner.seconds import RATES, terms
from pipelines.planner.sizes import Sizes, sizes_of
from pipelines.records.results import Result

FEWEST = 4
"""Measured points of a loss that its own factor is fitted to; with fewer it stays 1."""


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
    least `FEWEST`. Time: the rates that the runs say something about.

    Args:
        measured: points and results of one kind of GPU, status ok.
        start: constants that stay where there is nothing to fit them to.
        by: what the new constants were fitted to.
    """
    usable = [(point, result, sizes_of(point)) for point, result in measured if result.peak_loop_gib and result.step_ms]
    if len(usable) < FEWEST:
        return start
    return dataclasses.replace(_fit_time(usable, _fit_memory(usable, start)), measured_on=by, time_measured_on=by)


Usable = Sequence[tuple[params.Params, Result, Sizes]]


def _fit_memory(usable: Usable, start: Calibration) -> Calibration:
    plain = Calibration()
    by_loss: dict[str, int] = defaultdict(int)
    for point, _, _ in usable:
        by_loss[point.loss] += 1
    own = sorted(loss for loss, count in by_loss.items() if count >= FEWEST)
    columns = ["activations", "constant", *own]
    rows, wanted = [], []
    for point, result, sizes in usable:
        assert result.peak_loop_gib is not None
        memory = memory_of(point, sizes, plain, tokens=result.most_tokens)
        # What the loss adds beyond the gradients that are there anyway scales; those do not.
        fixed = memory.state + memory.gradients + (0.0 if point.loss in own else memory.loss)
        row = dict.fromkeys(columns, 0.0) | {"activations": memory.activations, "constant": 1.0}
        if point.loss in own:
            row[point.loss] = memory.loss
        rows.append([row[name] / result.peak_loop_gib for name in columns])
        wanted.append((result.peak_loop_gib - fixed) / result.peak_loop_gib)
    found = dict(zip(columns, _nonnegative(rows, wanted), strict=True))
    return dataclasses.replace(
        start,
        activations=round(found["activations"], 4),
        constant_gib=round(found["constant"], 4),
        loss={name: round(found[name], 4) for name in own},
    )


def _fit_time(usable: Usable, start: Calibration) -> Calibration:
    names = [name for name in RATES if name != "network_passes"]
    rows, wanted = [], []
    for point, result, sizes in usable:
        assert result.step_ms is not None
        work = terms(point, sizes, tokens=result.tokens_per_step)
        # network_passes and bytes go over the same memory: passes stay, the rate of bytes is fitted.
        work["bytes"] += work.pop("network_passes") * RATES["network_passes"]
        seconds = result.step_ms / 1e3
        rows.append([work.get(name, 0.0) / seconds for name in names])
        wanted.append(1.0)
    matrix = np.array(rows)
    scale = np.where(matrix.max(0) > 0, matrix.max(0), 1.0)
    found = _nonnegative(matrix / scale, wanted) / scale
    rates = dict(start.seconds)
    for name, slope in zip(names, found, strict=True):
        if slope > 0:
            rates[name] = float(f"{slope if name == 'overhead_ms' else 1 / slope:.4g}")
    return dataclasses.replace(start, seconds=rates)


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
