"""The losses: one file each, one signature, and the registry that names them.

Definitions: the docstring of each file. All take valid tokens only and return the mean over them.
"""

from __future__ import annotations

from torch import Tensor

from rec_models.losses import bce, bce_neg, cce, cce_neg, ce, ce_neg, faithful, gbce, sce
from rec_models.losses.base import Builder, Loss, LossContext
from rec_models.settings import LossSettings

LOSSES: dict[str, Builder] = {
    "ce": ce.build,
    "ce_neg": ce_neg.build,
    "cce": cce.build,
    "cce_neg": cce_neg.build,
    "bce": bce.build,
    "bce_neg": bce_neg.build,
    "gbce": gbce.build,
    "sce": sce.build,
}

# The losses whose own formula the paper's code gets wrong; the others are the same in both registries.
FAITHFUL_LOSSES: dict[str, Builder] = LOSSES | {
    "cce_neg": faithful.build_cce_neg,
    "bce": faithful.build_bce,
    "bce_neg": faithful.build_bce,
}


def build_loss(settings: LossSettings, item_counts: Tensor | None = None) -> Loss:
    """The loss that the settings describe.

    Args:
        settings: which loss, and its options.
        item_counts: [V] int64, how often training saw each item; needed by popularity sampling only.

    Raises:
        ValueError: popularity sampling without counts.
    """
    registry = FAITHFUL_LOSSES if settings.paper_faithful else LOSSES
    return registry[settings.loss](settings, item_counts)


__all__ = ["FAITHFUL_LOSSES", "LOSSES", "Loss", "LossContext", "build_loss"]
