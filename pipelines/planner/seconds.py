"""Seconds of a training step on a GPU, as a sum of what each part reads, multiplies and waits for.

    network   3 x 2 FLOPs a weight and token, and its activations read and written some times
    loss      a rate for each way of computing it: FLOPs of exact losses, rows gathered of sampled ones
    Adam      28 bytes a parameter (reads 4 tensors, writes 3), and the gradients cleared
    overhead  a step of Lightning and the launches of a network of two blocks

The rates start from dated figures of an H100 and are refitted from measured steps by `pipelines.plan --refit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines import params
from pipelines.planner.calibration import Calibration
from pipelines.planner.memory import activation_bytes, parameter_count
from pipelines.planner.sizes import Sizes

RATES: dict[str, float] = {
    "overhead_ms": 1.0,
    "network_flops": 300e12,
    "network_passes": 3.0,
    "bytes": 2.4e12,
    "exact_flops": 600e12,
    "shared_elements": 8e12,
    "own_elements": 5e11,
    "logit_elements": 8e10,
    "gathered_elements": 6e10,
    "bucket_elements": 8e10,
}
"""Where each comes from, on an H100 80 GB:

- ``overhead_ms``: Lightning adds 0.5 to 1 ms a step (packages/rec-models/README.md); launches of the rest, a guess.
- ``network_flops``, ``network_passes``: not measured; a share of the 730 TFLOP/s of matrix products.
- ``bytes``: 2.9 to 3.0 TB/s copied (packages/cce-kernels/benchmarks), less what unaligned rows lose.
- ``exact_flops``: 8 M V D over the time of forward and backward at D 256, fp32 table (benchmarks/results/losses.csv,
  variant "ours", point "master").
- ``shared_elements``, ``own_elements``: M N D over the time of ``sampled softmax`` with sharing tile and none
  (losses.csv).
- ``logit_elements``: M V over the time of eager torch (losses.csv), ``gathered_elements``: M N D over that of eager
  CE- (losses.csv).
- ``bucket_elements``: not measured; taken as ``logit_elements``.
"""


@dataclass(frozen=True)
class Seconds:
    """Predicted seconds of a step."""

    overhead: float
    network: float
    loss: float
    adam: float

    @property
    def step(self) -> float:
        """All of it."""
        return self.overhead + self.network + self.loss + self.adam


def terms(point: params.Params, sizes: Sizes, *, tokens: float | None = None) -> dict[str, float]:
    """What a step does, by the rate that it is divided by; ``overhead_ms`` and ``network_passes`` are multiplied.

    Args:
        point: the point.
        sizes: its sizes.
        tokens: places of a batch; None: of the mean batch.
    """
    width, blocks = point.backbone.hidden, point.backbone.blocks
    places = sizes.tokens if tokens is None else tokens
    targets = sizes.targets(places)
    weights = parameter_count(point, sizes.items) - (sizes.items + point.max_seq_len) * width
    attended = sizes.mean_length / (1 if point.model == "bert4rec" else 2)
    flops = places * (6 * weights + 12 * blocks * attended * width)
    return {
        "overhead_ms": 1e-3,
        "network_flops": flops,
        "network_passes": activation_bytes(point) * places,
        "bytes": 32.0 * parameter_count(point, sizes.items),
        **LOSSES[point.loss](point, sizes, targets),
    }


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
    """Predicted seconds of a training step.

    Args:
        point: the point.
        sizes: its sizes.
        calibration: rates.
        tokens: places of a batch; None: of the mean batch.
    """
    rates = RATES | calibration.seconds
    parts = terms(point, sizes, tokens=tokens)
    overhead = parts.pop("overhead_ms") * rates["overhead_ms"]
    network = parts.pop("network_flops") / rates["network_flops"]
    network += parts.pop("network_passes") * rates["network_passes"] / rates["bytes"]
    adam = parts.pop("bytes") / rates["bytes"]
    loss = sum(work / rates[name] for name, work in parts.items())
    return Seconds(overhead, network, loss, adam)
