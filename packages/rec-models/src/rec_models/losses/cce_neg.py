"""Sampled cross-entropy, fused: the formula of ``ce_neg`` without its [M, N] scores and its stored negatives."""

from __future__ import annotations

from torch import Tensor

from cce_kernels import Softmax
from rec_models.config import LossSettings
from rec_models.losses.base import Loss
from rec_models.losses.sampling import fused_loss


def build(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.build_loss`."""
    return fused_loss(settings, item_counts, Softmax())
