"""Network and loss of one micro-batch: the same for launched steps and for CUDA graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rec_models.config import LossSettings, TrainingSettings
from rec_models.encoders import Encoder
from rec_models.encoders.embedding import lookup_into_grad
from rec_models.encoders.sharded_lookup import ShardedLookup
from rec_models.losses import LOSSES, LossContext, build_loss
from rec_models.losses.paper import trains_padding, with_padding_targets
from rec_models.training.batch import IGNORED, StepBatch
from rec_models.training.ranks import RankTokens


class StepLoss(nn.Module):
    """The mean loss of a micro-batch.

    The encoder is on the device of the batches, as are `item_counts` ([V] int64, for popularity sampling); its `lookup`
    is set.
    """

    def __init__(
        self,
        encoder: Encoder,
        loss: LossSettings,
        training: TrainingSettings,
        item_counts: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self._seed = training.seed
        encoder.lookup = lookup_into_grad  # one gradient table instead of two
        self._sharded = None if encoder.shard is None else ShardedLookup(encoder.shard)
        if self._sharded is not None:
            encoder.lookup = self._sharded
        self._loss = build_loss(loss, item_counts)
        self._joint = LOSSES[loss.loss].joint
        self._pads = trains_padding(loss)
        # Validation has other shapes, which would be compiled too if the encoder itself were.
        self._compiled = torch.compile(encoder.transform, dynamic=True) if training.compile else None

    def forward(self, batch: StepBatch, step: int | Tensor, row_offset: int | Tensor = 0) -> Tensor:
        """The mean over the tokens with a target, and over padded places where the loss trains them; 0 without any.

        With several ranks the tokens are those of this rank, or for a joint loss the result is this rank's part of the
        mean over the tokens of all, and with a sharded table that mean itself: `weight` is what it stands for.

        The batch is on the encoder's device; `step` is the optimizer's, from 0, for losses of cce_kernels also an int64
        scalar on the device; `row_offset` counts the tokens of the same step before this batch's first, for the same
        losses also on the device. Returns an fp32 scalar.

        Raises:
            ValueError: a batch without masked places, for a model that learns from nothing else.
        """
        if batch.masked is None and not self.encoder.causal:
            model = self.encoder.settings.model
            allowed = f"masked places with model={model}, which sees the targets themselves otherwise"
            raise ValueError(f"train_batches: found masked=None, allowed: {allowed}")
        ranks = None if batch.rank_counts is None else RankTokens(batch.micro_counts, batch.rank)
        context = LossContext(self._seed, step, row_offset, ranks, self.encoder.shard)
        items = batch.items
        if self._sharded is not None and batch.found is not None:
            self._sharded.asked, items = batch.asked, batch.found
        # Under autocast the loss computes in the dtype of matrix products.
        mixed = torch.is_autocast_enabled(kind := batch.items.device.type)
        dtype = torch.get_autocast_dtype(kind) if mixed else None
        if self._compiled is None:
            hidden = self.encoder(items, batch.layout, batch.masked, dtype)  # [T, D]
        else:
            hidden = self._compiled(self.encoder.embed(items, batch.layout, batch.masked), batch.layout, dtype)
        tokens = hidden if batch.rows is None else hidden.index_select(0, batch.rows)  # [M, D]
        targets = batch.targets
        if self._sharded is not None and ranks is not None:
            tokens, targets = ranks.filled(tokens, 0), ranks.filled(targets, IGNORED)
        if self._pads:
            tokens, targets = with_padding_targets(self.encoder, tokens, targets, batch.layout.starts.diff().long())
        return self._loss(tokens, self.encoder.item_table, targets, context)

    def weight(self, batch: StepBatch) -> int:
        """Of how many tokens the result of `forward` is the mean, in the mean over all tokens of the step."""
        return batch.num_targets if self._sharded is None and not self._joint else sum(batch.micro_counts)

    def counted(self, batch: StepBatch) -> int:
        """Of how many tokens the result of `forward` counts: a mean that all ranks have counts once."""
        return self.weight(batch) if self._sharded is None else batch.num_targets
