"""The Lightning module: one training step, and the optimiser."""

from __future__ import annotations

from dataclasses import dataclass

import lightning
import torch
from torch import Tensor

from rec_models.backbones import Encoder
from rec_models.optimizers import build_optimizer
from rec_models.randomness import mix_seed
from rec_models.recording import RecordedSteps
from rec_models.settings import LossSettings, TrainingSettings
from rec_models.step_batch import StepBatch
from rec_models.stepping import BatchLoss


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
        record: record whole steps as CUDA graphs; batches then come filled up to a size, and stay on the host.
    """

    def __init__(
        self,
        encoder: Encoder,
        loss: LossSettings,
        training: TrainingSettings,
        item_counts: Tensor | None = None,
        *,
        record: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss_settings = loss
        self.training_settings = training
        self.optimizer_step_count = 0
        """Optimiser steps done; set when a run is resumed."""
        self.recent_losses: list[tuple[Tensor, int, int]] = []
        """(mean loss, tokens, step of the optimiser from 1) of each micro-batch since the list was emptied.

        Reading a value waits for the device."""
        self.last_loss: Tensor
        """Mean loss of the last micro-batch."""
        self.automatic_optimization = not record
        self._record = record
        self._shares = Shares(0, (0,))
        self._item_counts = item_counts
        self._loss: BatchLoss
        self._recorded: RecordedSteps

    def on_fit_start(self) -> None:
        """Bring network and loss together, now that the device and the processes are known."""
        counts = None if self._item_counts is None else self._item_counts.to(self.device)
        settings = self.training_settings
        self._loss = BatchLoss(self.encoder, self.loss_settings, settings, counts, self.trainer.world_size)
        if self._record:
            self._recorded = RecordedSteps(self._loss, self.trainer.optimizers[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As the settings say."""
        return build_optimizer(self.encoder, self.training_settings)

    def transfer_batch_to_device(self, batch: StepBatch, device: torch.device, dataloader_idx: int) -> StepBatch:
        """As Lightning's own, without its walk through any kind of collection at every step."""
        stays = device.type == "cpu" or self._record
        return batch if stays else batch.to(device)

    def training_step(self, batch: StepBatch, batch_idx: int) -> Tensor | None:
        """The loss of a micro-batch, scaled so that the gradient is that of the mean over all tokens of the step."""
        self._seed_dropout(batch.position)
        if self._record:
            mean = self._recorded.run(batch, self.optimizer_step_count)
            self._keep(mean, batch)
            return None
        if batch.position == 0:
            self._shares = self._gather_shares(batch.window_counts)
        mean = self._loss(batch, self.optimizer_step_count, self._shares.offsets[batch.position])
        self._keep(mean.detach(), batch)
        # DDP averages over ranks and Lightning over micro-batches: both are undone, then all tokens count alike.
        parts = self.trainer.world_size * self.trainer.accumulate_grad_batches
        share = batch.num_targets * parts / max(1, self._shares.total)
        return mean if share == 1 else mean * share

    def _keep(self, mean: Tensor, batch: StepBatch) -> None:
        self.last_loss = mean
        self.recent_losses.append((mean, batch.num_targets, self.optimizer_step_count + 1))

    def _seed_dropout(self, position: int) -> None:
        """Make dropout a function of (seed, step, micro-batch, rank): nothing to keep for resuming in mid-epoch."""
        key = (self.training_settings.seed, self.optimizer_step_count, position, self.global_rank)
        on_gpu = self.device.type == "cuda"
        # torch.manual_seed would visit every kind of accelerator, at milliseconds a step.
        generator = torch.cuda.default_generators[self.device.index or 0] if on_gpu else torch.default_generator
        generator.manual_seed(mix_seed("dropout", *key))

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
