"""Cross-entropy over the catalogue, fused: the same number as ``ce`` without its [M, V] logits."""

from __future__ import annotations

from torch import Tensor

from cce_kernels import linear_cross_entropy
from rec_models.config import LossSettings
from rec_models.losses.base import Loss, LossContext


def build(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.build_loss`."""
    impl = settings.impl or "auto"

    def cut_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
        loss: Tensor = linear_cross_entropy(hidden, weight, targets, impl=impl)
        return loss

    return cut_cross_entropy
