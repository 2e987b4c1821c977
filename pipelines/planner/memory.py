"""Peak memory of training on a GPU, from the sizes of a point alone.

The model counts bytes of tensors that live at the two moments when most do: at the end of the loss's forward, while the
gradients of the step before still lie there (Lightning clears them after forward), and inside the loss's backward. With
n parameters, T places, M targets, V items, width D and 16-bit products:

    parameters 4 n, Adam 8 n, gradients 4 n (forward only: backward makes them anew, the item table's first)
    activations kept for backward, a block and token: 4 D norm's input (residual stream, fp32), 2 D its product input,
        6 D queries, keys, values, 2 D attention's output, 4 heads log-sum-exps, 1 D dropout, and for the feed-forward
        net of width f D: 4 D, 2 D, 2 f D, 2 f D, 1 D
    around the blocks, a token: 1 D dropout, 4 D the last norm's input, 4 D its output, 2 D the loss's input
    the loss: see `LOSSES`

A measured run corrects the parts by factors (`planner_calibration`); without one they count as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines import params
from pipelines.planner.calibration import Calibration
from pipelines.planner.sizes import Sizes
from pipelines.settings.losses import SAMPLED

GIB = 2**30
_FEED_FACTOR = {"sasrec": 1, "bert4rec": 4}  # rec_models.backbones: width of the feed-forward nets, in D
_MOMENTS = {"adam": 8, "adam_bf16": 4, "adam_rowwise": 2, "adam_lazy": 8}  # bytes an element of the item table
_SCRATCH = 48 << 20  # cce_kernels.tuning_sampled.SCRATCH_BYTES: sums of gradients stay within it
_CHUNK = 1 << 27  # rec_models.losses.faithful: gathered values of a chunk


@dataclass(frozen=True)
class Memory:
    """Predicted bytes of a point, in GiB."""

    state: float
    """Parameters and Adam's two moments."""
    gradients: float
    activations: float
    loss: float
    """What the loss adds to them at the worse of the two moments, a 16-bit copy of the item table included."""
    constant: float
    """What every run has: cuBLAS's workspace and the like."""
    peak: float
    """Of the training loop."""

    def fits(self, gpu_gib: float) -> bool:
        """Whether a GPU of so many GiB holds it: a twentieth and half a GiB go to the CUDA context and to fragments."""
        return self.peak <= 0.95 * gpu_gib - 0.5


@dataclass(frozen=True)
class _Shape:
    """The numbers that a loss's memory depends on."""

    V: int
    D: int
    M: float
    groups: float
    """Sets of negatives."""
    N: int
    sce: params.Sce


def parameter_count(point: params.Params, items: int) -> int:
    """Parameters of the network: the item table, positions, blocks."""
    width, factor = point.backbone.hidden, _FEED_FACTOR[point.model]
    block = 4 * width * width + 4 * width + 2 * factor * width * width + (factor + 1) * width + 4 * width
    extra = width if point.model == "bert4rec" else 0
    return (items + point.max_seq_len + 2) * width + point.backbone.blocks * block + extra


def activation_bytes(point: params.Params) -> int:
    """Bytes kept for backward, a token."""
    width, factor = point.backbone.hidden, _FEED_FACTOR[point.model]
    block = (4 + 2 + 6 + 2 + 1 + 4 + 2 + 2 * factor + 2 * factor + 1) * width + 4 * point.backbone.heads + 16
    return point.backbone.blocks * block + (1 + 4 + 4 + 2) * width + 40  # 40: ids, places, targets, statistics


def _ce(s: _Shape) -> tuple[float, float]:
    logits = s.M * s.V
    return 2 * s.V * s.D + 10 * logits, 2 * s.V * s.D + 12 * logits  # 16-bit logits, fp32, log-softmax; its gradient


def _cce(s: _Shape) -> tuple[float, float]:
    dhidden = 2 * s.M * s.D
    return 2 * s.V * s.D + dhidden, dhidden + 4 * s.V * s.D + dhidden


def _ce_neg(s: _Shape) -> tuple[float, float]:
    rows, scores = s.groups * s.N * s.D, s.M * s.N
    return 6 * rows + 17 * scores, 8 * rows + 21 * scores + 24 * s.groups * s.N + 4 * s.V * s.D


def _fused(s: _Shape) -> tuple[float, float]:
    shared = s.groups < s.M
    dhidden = 2 * s.M * s.D
    rows_read = s.groups * s.N * (2 if shared else 1)
    copy = 2 * s.V * s.D if 2 * rows_read >= 6 * s.V else 0  # cce_kernels' copy_pays
    # What sums of gradients take: its own bound, and a share of dH that three measured shapes agree on.
    scratch = 0 if shared else _SCRATCH + 0.4 * s.V * s.D + 0.7 * dhidden
    kept = copy if shared else 0
    return copy + dhidden, kept + dhidden + 4 * s.V * s.D + max(scratch, dhidden)


def _sce(s: _Shape) -> tuple[float, float]:
    buckets = s.sce.buckets
    across, down = min(s.sce.bucket_size_x, s.M), min(s.sce.bucket_size_y, s.V)
    table = buckets * across * down
    rows = buckets * (across + down) * s.D
    search = 2 * s.V * s.D + 2 * buckets * s.V + 4 * buckets * s.M
    return max(search, 11 * table + 6 * rows), 15 * table + 8 * rows + 4 * s.V * s.D


def _chunked(s: _Shape) -> tuple[float, float]:
    """The paper's own sampled losses, recomputed chunk by chunk."""
    ids = 8 * s.M * s.N
    return ids, ids + 12 * min(_CHUNK, s.M * s.N * s.D) + 8 * s.V * s.D


LOSSES: dict[str, Callable[[_Shape], tuple[float, float]]] = {
    "ce": _ce,
    "cce": _cce,
    "ce_neg": _ce_neg,
    "cce_neg": _fused,
    "bce": _fused,
    "bce_neg": _fused,
    "gbce": _fused,
    "sce": _sce,
}
"""Bytes that a loss adds: at the end of its forward, and inside its backward (with the gradient of the item table)."""


def memory_of(point: params.Params, sizes: Sizes, calibration: Calibration, *, tokens: float | None = None) -> Memory:
    """Predicted peak of the training loop of a point.

    Args:
        point: the point.
        sizes: its sizes.
        calibration: factors of the parts.
        tokens: places of the largest batch; None: as `sizes` expects it.
    """
    places = sizes.most_tokens if tokens is None else tokens
    parameters, table = parameter_count(point, sizes.items), sizes.items * point.backbone.hidden
    state = 12 * parameters - (8 - _MOMENTS[point.train.optimizer]) * table
    gradients = 4 * (parameters - (table if point.train.optimizer == "adam_lazy" else 0))
    activations = activation_bytes(point) * places * calibration.activations
    faithful = point.paper_faithful and point.loss in ("cce_neg", "bce", "bce_neg")
    at_forward, at_backward = (_chunked if faithful else LOSSES[point.loss])(_shape(point, sizes, places))
    # At the end of forward the old gradients are still there; backward makes the item table's anew: counted in it.
    loss = max(at_forward, at_backward - 4 * parameters, 0.0) * calibration.loss.get(point.loss, 1.0)
    constant = calibration.constant_gib * GIB
    parts = (state, gradients, activations, loss, constant)
    return Memory(*(part / GIB for part in (*parts, sum(parts))))


def _shape(point: params.Params, sizes: Sizes, places: float) -> _Shape:
    targets = sizes.targets(places)
    if point.paper_faithful and point.loss == "cce":
        targets = max(targets, sizes.rows * point.max_seq_len)  # padded places are trained too
    negatives = (1 if point.loss == "bce" else point.num_negatives) if point.loss in SAMPLED else 0
    sharing = "none" if point.paper_faithful else point.negatives.sharing
    members = {"none": 1.0, "tile": float(point.negatives.tile_tokens), "batch": max(targets, 1.0)}[sharing]
    return _Shape(sizes.items, point.backbone.hidden, targets, targets / members, negatives, point.losses.sce)
