"""The signature that all losses share. This module imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rec_models.losses.settings import LossSettings

if TYPE_CHECKING:
    from torch import Tensor

    from cce_kernels import Shard


@dataclass(frozen=True, slots=True)
class LossContext:
    """Where in the run a loss is computed: what its random draws are a function of."""

    seed: int  # of the run
    step: int | Tensor  # of the optimizer, from 0; losses of cce_kernels also take an int64 scalar on the device
    row_offset: int | Tensor = 0  # tokens of the step before this call's: on lower ranks, in earlier micro-batches
    ranks: Ranks | None = None  # the tokens of the other ranks; None: there are none
    shard: Shard | None = None  # which rows the table has, for losses of cce_kernels; None: all

    @property
    def first_row(self) -> int:
        """The tokens of the step before those of all ranks that this call is about; for a number on the host only."""
        assert isinstance(self.row_offset, int)
        return self.row_offset - (0 if self.ranks is None else self.ranks.first)


class Ranks(Protocol):
    """The tokens of several ranks that compute a loss at the same time: `rec_models.training.ranks.RankTokens`."""

    @property
    def total(self) -> int:
        """The tokens of all ranks."""

    @property
    def first(self) -> int:
        """The place of this rank's first token among them."""

    @property
    def rank(self) -> int:
        """The place of this rank among `size`."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def pool(self, targets: Tensor) -> Tensor:
        """The targets of all ranks in their order, from [M] int64 to [K], -100 in places without one."""

    def gather(self, mine: Tensor) -> Tensor:
        """[M, ...] of this rank to [total, ...] of all; the gradient of this rank's part comes back from all."""

    def each(self, values: Tensor) -> Tensor:
        """The values of all ranks, [P, ...], by rank; their shape is the same on all."""


class Loss(Protocol):
    """Mean loss of M valid tokens."""

    def __call__(self, hidden: Tensor, weight: Tensor, targets: Tensor, context: LossContext) -> Tensor:
        """Compute the loss.

        Args:
            hidden: [M, D], the compute dtype.
            weight: [V, D], the item table, its own dtype; with `LossContext.shard` the rows of this process.
            targets: [M] int64, in [0, V).
            context: what random draws are a function of.

        Returns:
            fp32 scalar; 0 with zero gradients where M = 0. Of a joint loss (`LossSpec.joint`) with several ranks this
            rank's part of the mean over the tokens of all; over a sharded table that mean itself.
        """
        ...


Builder = Callable[[LossSettings, "Tensor | None"], Loss]  # of item counts [V] int64, None without popularity sampling
