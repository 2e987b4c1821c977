"""Peak memory of training on a GPU, from the sizes of a point alone.

The model counts bytes of tensors that live at the moments when most do, and takes the worst. With n parameters, T
places, M targets, V items, B histories, width D and 16-bit products:

    always      parameters 4 n, Adam 8 n, and cuBLAS's workspace of forward's and of backward's thread
    forward     all that is kept for backward, what the loss makes, and the gradients 4 n of the step before: Lightning
                clears them after forward. A recorded step has cleared its own.
    loss        inside its backward: the same without the last norm's output, and the item table's new gradient 4 V D;
                with accumulation the gradients so far stay as well
    attention   inside the backward of the last block's: 4 V D, what is still kept, gradients of queries, keys, values,
                and flash attention's fp32 sums for queries, 4 D (T + 128 B): many short histories make them large
    Adam        inside its step, for ``adam_lazy``: copies of the rows that the batch touched

    kept for backward, a block and token: 4 D norm's input (residual stream, fp32), 2 D its product input, 6 D queries,
        keys, values, 2 D attention's output, 4 heads log-sum-exps, 1 D dropout, and for the feed-forward net of width
        f D: 4 D, 2 D, 2 f D, 2 f D, 1 D. With dropout in attention, queries, keys, values and output are padded: B L
        places, and the output packed again.
    around the blocks, a token: 1 D dropout, 4 D the last norm's input, 4 D its output, 2 D the loss's input
    the loss: see `LOSSES`

Recorded steps fill batches up (`rec_models.training.cuda_graphs`). Their recordings share one pool, which takes what
the largest
step takes and gives it to nobody else: it is no part of the peak that torch reports, but has to fit. A measured run
corrects the parts by factors (`pipelines.planner.calibration`); without one they count as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from cutrec import config as params
from cutrec.losses import SAMPLED
from pipelines.planner.calibration import Calibration
from pipelines.planner.sizes import Sizes, filled_up, records_steps

GIB = 2**30
_FEED_FACTOR = {"sasrec": 1, "bert4rec": 4}  # rec_models.encoders: width of the feed-forward nets, in D
MOMENTS = {"adam": 8, "adam_bf16": 4, "adam_rowwise": 2, "adam_lazy": 8}
"""Bytes that an optimiser keeps of an element of the item table."""
_ROW_STATE = {"adam_rowwise": 4, "adam_lazy": 4}  # of a row: the second moment, the step that last updated it
_TOUCHED_COPIES = (
    8  # of touched rows: gradient and its sum, table, two moments, three temporaries (rec_models.optim.table_adam)
)
WORKSPACES = 2 * (32 << 20)  # cuBLAS on sm_90; autograd's thread has a handle of its own
_FLASH_ROWS = 128  # flash attention's backward keeps histories so many rows of fp32 sums apart
_PARTS = 48 << 20  # cce_kernels.full.tuning: fp32 sums of a split pass stay within it
_SCRATCH = 48 << 20  # cce_kernels.sampled.tuning.SCRATCH_BYTES: sums of gradients stay within it
_CHUNK = 1 << 27  # rec_models.losses.paper: gathered values of a chunk


@dataclass(frozen=True)
class Memory:
    """Predicted bytes of a point, in GiB."""

    state: float
    """Parameters and Adam's two moments."""
    gradients: float
    activations: float
    loss: float
    """What the loss adds, a 16-bit copy of the item table included."""
    constant: float
    """What every run has: cuBLAS's workspaces, and what a measured run adds to them."""
    peak: float
    """Of the training loop: the sum of the parts, which are those of the worst moment."""
    pool: float = 0.0
    """What recordings hold in addition: a batch of a size not yet recorded is trained on beside their pool."""

    def fits(self, gpu_gib: float) -> bool:
        """Whether a GPU of so many GiB holds it: a twentieth and half a GiB go to the CUDA context and to fragments."""
        return self.peak + self.pool <= 0.95 * gpu_gib - 0.5


class Moment(NamedTuple):
    """Bytes at a moment of a step, factors of a calibration left out."""

    gradients: float
    activations: float
    loss: float

    def scaled(self, loss: str, calibration: Calibration) -> Moment:
        """With the factors of a calibration."""
        factor = calibration.loss.get(loss, 1.0)
        return Moment(self.gradients, self.activations * calibration.activations, self.loss * factor)


class LossBytes(NamedTuple):
    """Bytes that a loss adds, the fp32 gradient of the item table left out."""

    forward: float
    """At the end of its forward."""
    backward: float
    """Inside its backward."""
    with_gradient: bool = True
    """Whether the item table's gradient is there at that moment of backward."""


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
    """Bytes kept for backward, a token, where attention is packed."""
    return point.backbone.blocks * _block_bytes(point) + (1 + 4 + 4 + 2) * point.backbone.hidden + 40  # 40: ids, places


def _block_bytes(point: params.Params) -> int:
    width, factor = point.backbone.hidden, _FEED_FACTOR[point.model]
    return (4 + 2 + 6 + 2 + 1 + 4 + 2 + 2 * factor + 2 * factor + 1) * width + 4 * point.backbone.heads + 16


def _padded_bytes(point: params.Params, rows: int, places: float) -> float:
    """What padded attention keeps beside a packed block: 8 D and log-sum-exps a place of B L, less 6 D a packed one."""
    if point.backbone.attention_dropout == 0:
        return 0.0
    width, heads = point.backbone.hidden, point.backbone.heads
    return (8 * width + 4 * heads) * rows * point.max_seq_len - (6 * width + 4 * heads) * places


def _attention_bytes(point: params.Params, rows: int, places: float) -> float:
    """What lives inside the backward of the last block's attention, all blocks' activations included."""
    width = point.backbone.hidden
    spread = rows * (point.max_seq_len if point.backbone.attention_dropout else 0)
    inside = max(places, spread)
    kept = (point.backbone.blocks - 1) * (_block_bytes(point) * places + _padded_bytes(point, rows, places))
    kept += (1 + 4 + 2 + 8) * width * places + (8 * width * spread if spread else 0)
    # The residual stream's gradient, that of the output, those of queries, keys, values; sums for queries.
    flowing = 4 * width * places + (2 + 6) * width * inside
    return kept + flowing + 4 * width * (inside + _FLASH_ROWS * rows)


def _split_sums(elements: float) -> float:
    """Fp32 sums of a pass that `cce_kernels.full.tuning.full_splits` may split to fill the chip."""
    parts = min(16, int(_PARTS / max(4 * elements, 1)))
    return 4 * elements * parts if parts > 1 else 0.0


def _ce(s: _Shape) -> LossBytes:
    logits = s.M * s.V  # 16-bit, fp32, log-softmax; its gradient
    return LossBytes(2 * s.V * s.D + 10 * logits, 2 * s.V * s.D + 12 * logits, with_gradient=False)


def _cce(s: _Shape) -> LossBytes:
    dhidden = 2 * s.M * s.D
    return LossBytes(2 * s.V * s.D + dhidden + _split_sums(s.M * s.D), 2 * dhidden + _split_sums(s.V * s.D))


def _ce_neg(s: _Shape) -> LossBytes:
    rows, scores = s.groups * s.N * s.D, s.M * s.N
    return LossBytes(6 * rows + 17 * scores, 8 * rows + 21 * scores + 24 * s.groups * s.N)


def _fused(s: _Shape) -> LossBytes:
    shared = s.groups < s.M
    dhidden = 2 * s.M * s.D
    rows_read = s.groups * s.N * (2 if shared else 1)
    copy = 2 * s.V * s.D if 2 * rows_read >= 6 * s.V else 0  # cce_kernels' copy_pays
    # What sums of gradients take: its own bound, and a share of dH that three measured shapes agree on.
    scratch = 0 if shared else _SCRATCH + 0.4 * s.V * s.D + 0.7 * dhidden
    kept = copy if shared else 0
    return LossBytes(copy + dhidden, kept + dhidden + max(scratch, dhidden))


def _sce(s: _Shape) -> LossBytes:
    buckets = s.sce.buckets
    across, down = min(s.sce.bucket_size_x, s.M), min(s.sce.bucket_size_y, s.V)
    table = buckets * across * down
    rows = buckets * (across + down) * s.D
    search = 2 * s.V * s.D + 2 * buckets * s.V + 4 * buckets * s.M
    return LossBytes(max(search, 11 * table + 6 * rows), 15 * table + 8 * rows)


def _chunked(s: _Shape) -> LossBytes:
    """The paper's own sampled losses, recomputed chunk by chunk; a second gradient of the table while they add up."""
    ids = 8 * s.M * s.N
    return LossBytes(ids, ids + 12 * min(_CHUNK, s.M * s.N * s.D) + 4 * s.V * s.D)


LOSSES: dict[str, Callable[[_Shape], LossBytes]] = {
    "ce": _ce,
    "cce": _cce,
    "ce_neg": _ce_neg,
    "cce_neg": _fused,
    "bce": _fused,
    "bce_neg": _fused,
    "gbce": _fused,
    "sce": _sce,
}
"""What a loss adds."""


def memory_of(point: params.Params, sizes: Sizes, calibration: Calibration, *, tokens: float | None = None) -> Memory:
    """Predicted peak of the training loop of a point.

    Args:
        point: the point.
        sizes: its sizes.
        calibration: factors of the parts.
        tokens: places of the largest batch; None: as `sizes` expects it.
    """
    worst = worst_moment(point, sizes, calibration, sizes.most_tokens if tokens is None else tokens)
    constant = WORKSPACES + calibration.constant_gib * GIB
    of_step = worst.scaled(point.loss, calibration)
    parts = (state_bytes(point, sizes.items), *of_step, constant)
    pool = sum(of_step) if records_steps(point) else 0.0
    return Memory(*(part / GIB for part in (*parts, sum(parts), pool)))


def worst_moment(point: params.Params, sizes: Sizes, calibration: Calibration, places: float) -> Moment:
    """The moment of the peak, its parts without the factors that chose it.

    Args:
        point: the point.
        sizes: its sizes.
        calibration: factors of the parts.
        places: T, of the largest batch.
    """
    return max(moments_of(point, sizes, places), key=lambda moment: sum(moment.scaled(point.loss, calibration)))


def state_bytes(point: params.Params, items: int) -> float:
    """Parameters and what the optimiser keeps of them."""
    parameters, optimizer = parameter_count(point, items), point.train.optimizer
    of_table = (8 - MOMENTS[optimizer]) * items * point.backbone.hidden - _ROW_STATE.get(optimizer, 0) * items
    return 12.0 * parameters - of_table


def moments_of(point: params.Params, sizes: Sizes, places: float) -> Iterator[Moment]:
    """The moments that may be the worst, as the head of the file tells.

    Args:
        point: the point.
        sizes: its sizes.
        places: T, of the largest batch.
    """
    width, lazy = point.backbone.hidden, point.train.optimizer == "adam_lazy"
    recorded = records_steps(point)
    places = filled_up(places) if recorded else places
    faithful = point.paper_faithful and point.loss in ("cce_neg", "bce", "bce_neg")
    shape = _shape(point, sizes, places)
    loss = (_chunked if faithful else LOSSES[point.loss])(shape)
    rows = (shape.groups * shape.N + shape.M + places) * width  # values of rows that lazy Adam may touch
    table = 4.0 * rows if lazy else 4.0 * sizes.items * width
    others = 4.0 * (parameter_count(point, sizes.items) - sizes.items * width)
    summed = table + others if point.train.accumulate > 1 else 0.0  # over the batches before
    kept = activation_bytes(point) * places + point.backbone.blocks * _padded_bytes(point, sizes.rows, places)
    yield Moment(0.0 if recorded or lazy else table + others, kept, loss.forward)
    yield Moment(summed + (table if loss.with_gradient else 0.0), kept - 4 * width * places, loss.backward)
    yield Moment(summed + table, _attention_bytes(point, sizes.rows, places), 0.0)
    yield Moment(others + (_TOUCHED_COPIES if lazy else 1) * table, 0.0, 0.0)


def _shape(point: params.Params, sizes: Sizes, places: float) -> _Shape:
    targets = sizes.targets(places)
    if point.paper_faithful and point.loss == "cce":
        targets = max(targets, sizes.rows * point.max_seq_len)  # padded places are trained too
    negatives = (1 if point.loss == "bce" else point.num_negatives) if point.loss in SAMPLED else 0
    sharing = "none" if point.paper_faithful else point.negatives.sharing
    members = {"none": 1.0, "tile": float(point.negatives.tile_tokens), "batch": max(targets, 1.0)}[sharing]
    return _Shape(sizes.items, point.backbone.hidden, targets, targets / members, negatives, point.losses.sce)
