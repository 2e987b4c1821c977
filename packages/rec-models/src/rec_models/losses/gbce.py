"""Generalised binary cross-entropy (Petrov and Macdonald, gSASRec, RecSys 2023).

``-[beta log sigma(s_t) + sum_n log(1 - sigma(s_n))] / (N + 1)`` with ``beta = 1 - t (1 - a)``, ``a = N / (V - 1)``.
Negatives equal to the target are removed. N above V - 1 is an error.
"""

from __future__ import annotations

from torch import Tensor

from cce_kernels import GBCE
from rec_models.config import LossSettings
from rec_models.losses.base import Loss
from rec_models.losses.sampling import fused_loss


def build(settings: LossSettings, item_counts: Tensor | None) -> Loss:
    """See `rec_models.losses.build_loss`."""
    return fused_loss(settings, item_counts, GBCE(settings.gbce_t if settings.gbce_t is not None else 0.75))
