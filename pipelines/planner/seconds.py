"""Seconds of a training step: the longer of what the host and what the GPU takes, because they work side by side.

    host      launched kernel by kernel: a time for the launches of a batch, whatever its size
              recorded as a CUDA graph: a time for the replay, and for making ready a batch of so many places
    GPU       the sum of
      network   3 x 2 FLOPs a weight and token, and its activations read and written some times
      loss      a rate for each way of computing it: FLOPs of exact losses, rows gathered of sampled ones
      Adam      bytes: table, gradient and moments read, table and moments written, the gradient cleared

A step is one of the optimiser: with ``train.accumulate`` batches, and Adam once. The rates start from dated figures of
an H100 and are refitted from measured steps by `pipelines.plan --refit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cutrec import config as params
from pipelines.planner.calibration import Calibration
from pipelines.planner.memory import MOMENTS, activation_bytes, parameter_count
from pipelines.planner.sizes import Sizes, filled_up, records_steps

RATES: dict[str, float] = {
    "launched_ms": 10.9,
    "recorded_ms": 1.66,
    "ready_places": 10e6,
    "network_flops": 70e12,
    "network_passes": 3.0,
    "bytes": 2.36e12,
    "exact_flops": 680e12,
    "shared_elements": 14.5e12,
    "own_elements": 5e11,
    "logit_elements": 8e10,
    "gathered_elements": 6e10,
    "bucket_elements": 8e10,
}
"""Where each comes from, on an H100 80 GB.

``launched_ms``, ``recorded_ms``, ``ready_places`` (a second), ``bytes``, ``exact_flops``, ``network_flops`` and
``shared_elements``: `pipelines.planner.fit` of 29 whole steps on an NVIDIA H100 80GB HBM3, driver 580.159.04, torch
2.11.0+cu130, triton 3.6.0, revision a09511c, in packages/rec-models/benchmarks/results/step.csv. All networks there
have two blocks of D 128 or 256. Steps launched kernel by kernel took 8.9 to 11.5 ms where the GPU did not take longer,
those with `cce` or a compiled network 1 to 2 ms more than others: one number stands for all.

- ``network_passes``: not measured; the rates of the network go with it.
- ``own_elements``: M N D over the time of ``sampled softmax`` with sharing none (packages/cce-kernels/benchmarks,
  results/losses.csv).
- ``logit_elements``: M V over the time of eager torch (losses.csv), ``gathered_elements``: M N D over that of eager
  CE- (losses.csv).
- ``bucket_elements``: not measured; taken as ``logit_elements``.
"""

HOST = ("launched_ms", "recorded_ms", "ready_places")
"""The rates of the host; all others are the GPU's."""
MULTIPLIED = (*HOST[:2], "network_passes")
"""Rates that work is multiplied by; it is divided by all others."""


@dataclass(frozen=True)
class Seconds:
    """Predicted seconds of a step of the optimiser."""

    host: float
    """Launches, or a replay and its batch made ready."""
    network: float
    loss: float
    adam: float

    @property
    def device(self) -> float:
        """What the GPU works."""
        return self.network + self.loss + self.adam

    @property
    def step(self) -> float:
        """Of the two, the one that the other waits for."""
        return max(self.host, self.device)


def host_terms(point: params.Params, sizes: Sizes, *, tokens: float | None = None) -> dict[str, float]:
    """What the host does for a step, by its rate; arguments as of `device_terms`."""
    if not records_steps(point):
        return {"launched_ms": 1e-3 * point.train.accumulate}
    return {"recorded_ms": 1e-3, "ready_places": sizes.tokens if tokens is None else tokens}


def device_terms(point: params.Params, sizes: Sizes, *, tokens: float | None = None) -> dict[str, float]:
    """What the GPU does in a step, by the rate that it is divided by; ``network_passes`` is multiplied.

    Args:
        point: the point.
        sizes: its sizes.
        tokens: places of a step, all its batches together; None: of mean batches.
    """
    width, blocks, batches = point.backbone.hidden, point.backbone.blocks, point.train.accumulate
    places = sizes.tokens if tokens is None else tokens / batches
    if records_steps(point):
        places = filled_up(places)
    parameters, table = parameter_count(point, sizes.items), sizes.items * width
    weights = parameters - table - point.max_seq_len * width
    attended = sizes.mean_length / (1 if point.model == "bert4rec" else 2)
    of_a_batch = {
        "network_flops": places * (6 * weights + 12 * blocks * attended * width),
        "network_passes": activation_bytes(point) * places,
        **LOSSES[point.loss](point, sizes, sizes.targets(places)),
    }
    moments = MOMENTS[point.train.optimizer]
    # Lazy Adam leaves the table's rows alone that the batch did not touch: all but a few.
    of_table = 0 if point.train.optimizer == "adam_lazy" else (16 + 2 * moments) * table
    adam = 32.0 * (parameters - table) + of_table
    return {name: batches * work for name, work in of_a_batch.items()} | {"bytes": adam}


def _ce(point: params.Params, sizes: Sizes, targets: float) -> dict[str, float]:
    elements = targets * sizes.items
    return {"exact_flops": 6.0 * elements * point.backbone.hidden, "logit_elements": elements}


def _cce(point: params.Params, sizes: Sizes, targets: float) -> dict[str, float]:
    if point.paper_faithful:  # padded places are trained too
        targets = max(targets, sizes.rows * point.max_seq_len)
    return {"exact_flops": 8.0 * targets * sizes.items * point.backbone.hidden}


def _sce(point: params.Params, sizes: Sizes, targets: float) -> dict[str, float]:
    sce, items, width = point.losses.sce, sizes.items, point.backbone.hidden
    table = sce.buckets * min(sce.bucket_size_x, targets) * min(sce.bucket_size_y, items)
    search = 2.0 * sce.buckets * (items + 2 * targets) * width
    return {"exact_flops": search + 6.0 * table * width, "bucket_elements": table + sce.buckets * items}


def _drawn(point: params.Params, targets: float) -> float:
    return targets * (1 if point.loss == "bce" else point.num_negatives) * point.backbone.hidden


def _shares(point: params.Params) -> bool:
    return point.negatives.sharing != "none" and not point.paper_faithful


def _gathered(point: params.Params, sizes: Sizes, targets: float) -> dict[str, float]:
    members = point.negatives.tile_tokens if _shares(point) else 1
    return {"gathered_elements": _drawn(point, targets) / members}


def _fused(point: params.Params, sizes: Sizes, targets: float) -> dict[str, float]:
    return {"shared_elements" if _shares(point) else "own_elements": _drawn(point, targets)}


def _fused_or_the_papers(point: params.Params, sizes: Sizes, targets: float) -> dict[str, float]:
    return (_gathered if point.paper_faithful else _fused)(point, sizes, targets)


LOSSES: dict[str, Callable[[params.Params, Sizes, float], dict[str, float]]] = {
    "ce": _ce,
    "cce": _cce,
    "ce_neg": _gathered,
    "cce_neg": _fused_or_the_papers,
    "bce": _fused_or_the_papers,
    "bce_neg": _fused_or_the_papers,
    "gbce": _fused,
    "sce": _sce,
}
"""What a loss does with so many targets, by the rate that it is divided by."""


def seconds_of(point: params.Params, sizes: Sizes, calibration: Calibration, *, tokens: float | None = None) -> Seconds:
    """Predicted seconds of a step of the optimiser.

    Args:
        point: the point.
        sizes: its sizes.
        calibration: rates.
        tokens: places of a step, all its batches together; None: of mean batches.
    """
    rates = RATES | calibration.seconds
    host = sum(_time(name, work, rates) for name, work in host_terms(point, sizes, tokens=tokens).items())
    parts = device_terms(point, sizes, tokens=tokens)
    adam = parts.pop("bytes") / rates["bytes"]
    network = parts.pop("network_flops") / rates["network_flops"]
    network += parts.pop("network_passes") * rates["network_passes"] / rates["bytes"]
    return Seconds(host, network, sum(_time(name, work, rates) for name, work in parts.items()), adam)


def _time(name: str, work: float, rates: dict[str, float]) -> float:
    return work * rates[name] if name in MULTIPLIED else work / rates[name]
