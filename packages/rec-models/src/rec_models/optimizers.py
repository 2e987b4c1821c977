"""The optimisers by name, and the registry of what each keeps of the item table."""

from __future__ import annotations

from typing import NamedTuple

import torch

from rec_models.backbones import Encoder
from rec_models.settings import TrainingSettings
from rec_models.table_adam import TableAdam

_BETAS = (0.9, 0.98)  # the paper's


class Kept(NamedTuple):
    """What an optimiser keeps of the item table."""

    moments: torch.dtype
    rowwise: bool = False


KEPT: dict[str, Kept] = {
    "adam_bf16": Kept(torch.bfloat16),
    "adam_rowwise": Kept(torch.bfloat16, rowwise=True),
    "adam_lazy": Kept(torch.float32),
}


def build_optimizer(encoder: Encoder, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Adam in its fused form, one kernel for all parameters, the item table's as `settings.optimizer` says.

    Args:
        encoder: on the device where it will be trained.
        settings: optimizer, learning rate, weight decay.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    kept = KEPT.get(settings.optimizer)
    if kept is None:
        return torch.optim.Adam(encoder.parameters(), lr=rate, betas=_BETAS, weight_decay=decay, fused=True)
    others = [parameter for parameter in encoder.parameters() if parameter is not encoder.item_table]
    return TableAdam(
        others,
        encoder.item_table,
        moments=kept.moments,
        rowwise=kept.rowwise,
        lr=rate,
        betas=_BETAS,
        weight_decay=decay,
    )
