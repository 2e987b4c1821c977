"""Binary cross-entropy with one negative, as SASRec was published: ``-[log sigma(s_t) + log(1 - sigma(s_n))]``.

A negative equal to the target is removed.
"""

from __future__ import annotations

from torch import Tensor

from cce_kernels import BCE
from rec_models.config import LossSettings
from rec_models.losses.base import Loss
from rec_models.losses.sampling import fused_loss


def build(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.build_loss`."""
    return fused_loss(settings, item_counts, BCE())
