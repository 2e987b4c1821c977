"""The optimizers by name, and the registry of what each keeps for the item table."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from cce_kernels.hardware import is_ampere_or_newer
from rec_models.config import TrainingSettings
from rec_models.encoders import Encoder
from rec_models.optim.table_adam import TableAdam

_BETAS = (0.9, 0.98)  # the paper's


class Kept(NamedTuple):
    """What an optimizer keeps for the item table."""

    moments: torch.dtype
    rowwise: bool = False
    lazy: bool = False  # rows without a gradient are left alone

    @property
    def element_bytes(self) -> int:
        """Bytes of the moments per element of the table; a number per row is not counted."""
        return self.moments.itemsize * (1 if self.rowwise else 2)

    @property
    def row_bytes(self) -> int:
        """Bytes per row of the table: its second moment, and the step that last updated it."""
        return torch.float32.itemsize * (self.rowwise + self.lazy)


KEPT: dict[str, Kept] = {
    "adam": Kept(torch.float32),
    "adam_bf16": Kept(torch.bfloat16),
    "adam_rowwise": Kept(torch.bfloat16, rowwise=True),
    "adam_lazy": Kept(torch.bfloat16, rowwise=True, lazy=True),
}


def table_bytes(optimizer: str, num_items: int, hidden: int) -> int:
    """Bytes of the item table [V, D] in fp32, its gradient and its moments; single numbers per item not counted."""
    kept = KEPT[optimizer]
    return num_items * hidden * (2 * torch.float32.itemsize + kept.element_bytes)


def build_optimizer(encoder: Encoder, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Fused Adam; the item table is updated as `settings.optimizer` says, on a GPU by a kernel of its own.

    The encoder must be on the device where it will train.
    """
    options: dict[str, Any] = {"lr": settings.learning_rate, "betas": _BETAS, "weight_decay": settings.weight_decay}
    table, everything = encoder.item_table, list(encoder.parameters())
    groups = [[parameter for parameter in everything if parameter is not table], [table]]
    if settings.optimizer == "adam":
        if not is_ampere_or_newer(table.device):
            return torch.optim.Adam(everything, fused=True, **options)
        groups = [everything]  # as torch's, so that a run may be resumed on another device
    kept = KEPT[settings.optimizer]
    return TableAdam(groups, table, **kept._asdict(), **options)
