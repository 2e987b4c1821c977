"""The signature that all losses share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rec_models.config import LossSettings
from rec_models.randomness import mix_seed


@dataclass(frozen=True, slots=True)
class LossContext:
    """Where in the run a loss is computed: what its random draws are a function of."""

    seed: int
    """Of the run."""
    step: int | Tensor
    """Of the optimiser, from 0; losses of cce_kernels also take an int64 scalar on the device."""
    row_offset: int = 0
    """Tokens of the same step before this call's first: on lower ranks and in earlier micro-batches."""
    sparse_grad: bool = False
    """The table's gradient holds the rows touched alone; for fused losses with sampled negatives."""


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


Builder = Callable[[LossSettings, Tensor | None], Loss]


def seeded_generator(device: torch.device, context: LossContext, purpose: str) -> torch.Generator:
    """A generator on a device that is a function of context and purpose alone: resuming needs no stored state.

    Args:
        device: where numbers are drawn.
        context: its step is a number, not a tensor.
        purpose: keeps streams of one step apart.
    """
    assert isinstance(context.step, int)
    seed = mix_seed(context.seed, context.step, context.row_offset, purpose)
    return torch.Generator(device).manual_seed(seed)


def no_tokens(hidden: Tensor, weight: Tensor) -> Tensor:
    """The loss of nothing, an fp32 scalar 0 attached to hidden [0, D] and weight [V, D]: gradients exist and are 0."""
    return hidden.float().sum() * 0.0 + weight[:1].float().sum() * 0.0
