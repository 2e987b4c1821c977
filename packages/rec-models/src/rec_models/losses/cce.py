"""Cross-entropy over the catalogue, fused: the same number as ``ce`` without its [M, V] logits."""

from __future__ import annotations

from torch import Tensor

from cce_kernels import linear_cross_entropy
from cce_kernels.full.tuning import MAX_PARTIAL_BYTES, MAX_SPLITS
from rec_models.config import LossSettings
from rec_models.losses.base import Loss, LossContext
from rec_models.losses.cost import LossCost, LossSize


def build(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.build_loss`."""
    impl = settings.impl or "auto"

    def cut_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
        loss: Tensor = linear_cross_entropy(hidden, weight, targets, impl=impl)
        return loss

    return cut_cross_entropy


def cce_cost(size: LossSize) -> LossCost:
    """A 16-bit copy of the table, the hidden gradient, sums of split passes, and four products: scores come twice."""
    dhidden = 2 * size.tokens * size.width
    forward = 2 * size.items * size.width + dhidden + _split_sums(size.tokens * size.width)
    work = {"exact_flops": 8.0 * size.tokens * size.items * size.width}
    return LossCost(forward, 2 * dhidden + _split_sums(size.items * size.width), work)


def _split_sums(elements: float) -> float:
    """Bytes of the fp32 sums of a pass that `cce_kernels.full.tuning.full_splits` may split to fill the GPU."""
    parts = min(MAX_SPLITS, int(MAX_PARTIAL_BYTES / max(4 * elements, 1)))
    return 4 * elements * parts if parts > 1 else 0.0
