"""The Lightning module: one training step, and the optimiser."""

from __future__ import annotations

from dataclasses import dataclass

import lightning
import torch
from torch import Tensor

from rec_models.backbones import Encoder
from rec_models.backbones.lookup import lookup, lookup_into_grad
from rec_models.feed import StepBatch
from rec_models.losses import LossContext, build_loss
from rec_models.losses.padding import with_padding_targets
from rec_models.randomness import mix_seed
from rec_models.settings import LossSettings, TrainingSettings

_ADAM_BETAS = (0.9, 0.98)  # the paper's


@dataclass(frozen=True)
class Shares:
    """How a window's tokens are spread over micro-batches and ranks."""

    total: int
    """Tokens of the window on all ranks."""
    offsets: tuple[int, ...]
    """Tokens before this rank's part of each micro-batch, in the order that one process would see them."""


class TrainingModule(lightning.LightningModule):
    """Trains an encoder with a loss.

    Args:
        encoder: trained in place.
        loss: the loss.
        training: learning rate, weight decay, seed.
        item_counts: [V] int64 for popularity sampling.
    """

    def __init__(
        self, encoder: Encoder, loss: LossSettings, training: TrainingSettings, item_counts: Tensor | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss_settings = loss
        self.training_settings = training
        self.optimizer_step_count = 0
        """Optimiser steps done; set when a run is resumed."""
        self.recent_losses: list[tuple[Tensor, int]] = []
        """(mean loss, tokens) of each micro-batch since the list was emptied; reading a value waits for the device."""
        self._shares = Shares(0, (0,))
        self._item_counts = item_counts
        self._loss = build_loss(loss, item_counts)
        self._pads = loss.paper_faithful and loss.loss == "cce"

    def on_fit_start(self) -> None:
        """Bring what the loss draws by to the device, and keep the tied table's gradient to one, where that is safe."""
        self.encoder.lookup = lookup_into_grad if self.trainer.world_size == 1 else lookup
        if self._item_counts is not None:
            self._loss = build_loss(self.loss_settings, self._item_counts.to(self.device))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam in its fused form: one kernel for all parameters."""
        settings = self.training_settings
        return torch.optim.Adam(
            self.parameters(),
            lr=settings.learning_rate,
            betas=_ADAM_BETAS,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def transfer_batch_to_device(self, batch: StepBatch, device: torch.device, dataloader_idx: int) -> StepBatch:
        """As Lightning's own, without its walk through any kind of collection at every step."""
        return batch if device.type == "cpu" else batch.map(lambda tensor: tensor.to(device, non_blocking=True))

    def training_step(self, batch: StepBatch, batch_idx: int) -> Tensor:
        """The loss of a micro-batch, scaled so that the gradient is that of the mean over all tokens of the step."""
        if batch.position == 0:
            self._shares = self._gather_shares(batch.window_counts)
        context = LossContext(
            self.training_settings.seed, self.optimizer_step_count, self._shares.offsets[batch.position]
        )
        self._seed_dropout(batch.position)
        hidden = self.encoder.encode_packed(batch.items, batch.layout, batch.masked)  # [T, D]
        tokens = self._compute_dtype(hidden if batch.rows is None else hidden.index_select(0, batch.rows))  # [M, D]
        targets = batch.targets
        if self._pads:
            tokens, targets = with_padding_targets(self.encoder, tokens, targets, batch.layout.starts.diff().long())
        mean = self._loss(tokens, self.encoder.item_table, targets, context)
        self.recent_losses.append((mean.detach(), batch.targets.numel()))
        # DDP averages over ranks and Lightning over micro-batches: both are undone, then all tokens count alike.
        parts = self.trainer.world_size * self.trainer.accumulate_grad_batches
        return mean * (batch.targets.numel() * parts / max(1, self._shares.total))

    def _seed_dropout(self, position: int) -> None:
        """Make dropout a function of (seed, step, micro-batch, rank): nothing to keep for resuming in mid-epoch."""
        key = (self.training_settings.seed, self.optimizer_step_count, position, self.global_rank)
        on_gpu = self.device.type == "cuda"
        # torch.manual_seed would visit every kind of accelerator, at milliseconds a step.
        generator = torch.cuda.default_generators[self.device.index or 0] if on_gpu else torch.default_generator
        generator.manual_seed(mix_seed("dropout", *key))

    def _compute_dtype(self, hidden: Tensor) -> Tensor:
        """Under autocast the last norm returns fp32; the loss works in the dtype of matrix products."""
        device = hidden.device.type
        return hidden.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden

    def _gather_shares(self, counts: tuple[int, ...]) -> Shares:
        world = self.trainer.world_size
        if world == 1:
            offsets = tuple(sum(counts[:k]) for k in range(len(counts)))
            return Shares(sum(counts), offsets)
        local = torch.tensor(counts, device=self.device)
        gathered = self.all_gather(local)
        assert isinstance(gathered, Tensor)
        table = gathered.view(world, len(counts)).tolist()  # [ranks, micro-batches]
        per_micro = [sum(column) for column in zip(*table, strict=True)]
        before = [sum(row[k] for row in table[: self.global_rank]) for k in range(len(counts))]
        return Shares(sum(per_micro), tuple(sum(per_micro[:k]) + before[k] for k in range(len(counts))))
