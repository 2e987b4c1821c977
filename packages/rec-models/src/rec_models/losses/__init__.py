"""The losses: one file each, one signature, and the registry that names them (`rec_models.losses.registry`).

All losses take valid tokens only and return the mean over them. Importing this package imports no torch: `build_loss`
imports the file of the loss that it builds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rec_models.losses.base import Loss, LossContext
from rec_models.losses.registry import LOSSES, SAMPLERS, LossCost, LossSize, LossSpec
from rec_models.losses.settings import LossSettings

if TYPE_CHECKING:
    from torch import Tensor


def build_loss(settings: LossSettings, item_counts: Tensor | None = None) -> Loss:
    """The loss that the settings describe; `item_counts` ([V] int64, of the training data) is for popularity sampling.

    Raises:
        ValueError: popularity sampling without counts, or with counts that nothing can be drawn by.
    """
    loss: Loss = LOSSES[settings.loss].load(paper_faithful=settings.paper_faithful)(settings, item_counts)
    return loss


__all__ = ["LOSSES", "SAMPLERS", "Loss", "LossContext", "LossCost", "LossSize", "LossSpec", "build_loss"]
