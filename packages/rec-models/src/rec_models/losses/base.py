"""The signature that all losses share. This module imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rec_models.losses.settings import LossSettings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossContext:
    """Where in the run a loss is computed: what its random draws are a function of."""

    seed: int  # of the run
    step: int | Tensor  # of the optimizer, from 0; losses of cce_kernels also take an int64 scalar on the device
    row_offset: int = 0  # tokens of the step before this call's: on lower ranks, in earlier micro-batches
    sparse_grad: bool = False  # the table's gradient holds touched rows only; for fused losses with sampled negatives


class Loss(Protocol):
    """Mean loss of M valid tokens."""

    def __call__(self, hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
        """Compute the loss.

        Args:
            hidden: [M, D], the compute dtype.
            weight: [V, D], the item table, its own dtype.
            targets: [M] int64, in [0, V).
            context: what random draws are a function of.

        Returns:
            fp32 scalar; 0 with zero gradients where M = 0.
        """
        ...


Builder = Callable[[LossSettings, "Tensor | None"], Loss]  # of item counts [V] int64, None without popularity sampling
