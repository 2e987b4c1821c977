"""Network and loss of one micro-batch: the same for launched steps and for CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rec_models.config import LossSettings, TrainingSettings
from rec_models.encoders import Encoder
from rec_models.encoders.embedding import lookup, lookup_into_grad, sparse_lookup
from rec_models.encoders.packing import Layout
from rec_models.losses import LossContext, build_loss
from rec_models.losses.paper import trains_padding, with_padding_targets
from rec_models.training.batch import StepBatch

if TYPE_CHECKING:  # Lightning takes two seconds to import, and planning does not need it
    from lightning.fabric import Fabric


class StepLoss(nn.Module):
    """The mean loss of a micro-batch; one module, so that DDP sees one forward pass.

    The encoder is on the device of the batches, as are `item_counts` ([V] int64, for popularity sampling); its `lookup`
    is set. `world_size` processes train together.
    """

    def __init__(
        self,
        encoder: Encoder,
        loss: LossSettings,
        training: TrainingSettings,
        item_counts: Tensor | None = None,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self._seed = training.seed
        self._sparse_grad = training.optimizer == "adam_lazy"
        # One gradient table instead of two, where that is safe: DDP must see every gradient in the graph.
        dense_lookup = lookup_into_grad if world_size == 1 else lookup
        encoder.lookup = sparse_lookup if self._sparse_grad else dense_lookup
        self._loss = build_loss(loss, item_counts)
        self._pads = trains_padding(loss)
        # The encoder itself is not compiled: validation has other shapes, which would be compiled too.
        self._network: Callable[[Tensor, Layout], Tensor] = (
            torch.compile(encoder.transform, dynamic=True) if training.compile else encoder.transform
        )

    def forward(self, batch: StepBatch, step: int | Tensor, row_offset: int = 0) -> Tensor:
        """The mean over the tokens with a target, and over padded places where the loss trains them; 0 without any.

        The batch is on the encoder's device; `step` is the optimizer's, from 0, for losses of cce_kernels also an int64
        scalar on the device; `row_offset` counts the tokens of the same step before this batch's first. Returns an fp32
        scalar.

        Raises:
            ValueError: a batch without masked places, for a model that learns from nothing else.
        """
        if batch.masked is None and not self.encoder.causal:
            model = self.encoder.settings.model
            allowed = f"masked places with model={model}, which sees the targets themselves otherwise"
            raise ValueError(f"train_batches: found masked=None, allowed: {allowed}")
        context = LossContext(self._seed, step, row_offset, self._sparse_grad)
        x = self.encoder.embed(batch.items, batch.layout, batch.masked)
        hidden = self._network(x, batch.layout)  # [T, D]
        tokens = hidden if batch.rows is None else hidden.index_select(0, batch.rows)  # [M, D]
        # Under autocast the last norm returns fp32, but the loss computes in the dtype of matrix products.
        if torch.is_autocast_enabled(kind := hidden.device.type):
            tokens = tokens.to(torch.get_autocast_dtype(kind))
        targets = batch.targets
        if self._pads:
            tokens, targets = with_padding_targets(self.encoder, tokens, targets, batch.layout.starts.diff().long())
        return self._loss(tokens, self.encoder.item_table, targets, context)


def count_tokens(fabric: Fabric, counts: tuple[int, ...]) -> tuple[int, list[int]]:
    """The tokens of an optimizer step on all ranks, from those of each micro-batch of this rank.

    Beside them, for each micro-batch the tokens before this rank's part, in the order in which one process would see
    them.
    """
    table = [list(counts)]  # [ranks, micro-batches]
    if fabric.world_size > 1:
        gathered = fabric.all_gather(torch.tensor(counts, device=fabric.device))
        assert isinstance(gathered, Tensor)
        table = gathered.view(fabric.world_size, -1).tolist()
    per_micro = [sum(column) for column in zip(*table, strict=True)]
    before = [sum(column[: fabric.global_rank]) for column in zip(*table, strict=True)]
    return sum(per_micro), [sum(per_micro[:k]) + before[k] for k in range(len(counts))]
