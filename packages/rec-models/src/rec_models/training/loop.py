"""The callback that runs around Lightning's loop: counts, validates, keeps checkpoints, stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from rec_models.config import LossSettings, TrainingSettings
from rec_models.encoders import Encoder
from rec_models.errors import TrainingError
from rec_models.optim.build import build_optimizer
from rec_models.optim.table_adam import TableAdam
from rec_models.randomness import mix_seed
from rec_models.training.batch import StepBatch
from rec_models.training.checkpoint import ModelCheckpoint, Resumed, RunFolder, RunState
from rec_models.training.cuda_graphs import RecordedSteps
from rec_models.training.logging import Progress
from rec_models.training.memory import peak_gib, reset_peak
from rec_models.training.step import BatchLoss


# The Lightning module: one training step, and the optimiser.
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


MONITORED = "ndcg@10"
_READ_SECONDS = 0.5  # how often the losses are read back when one process can choose
_READ_STEPS = 16  # how often when ranks must agree: reading is a collective operation
_SAVES_APART = 50  # a checkpoint that takes a second is not followed by another for so many: 2 % of the time at most
_CHEAP_SECONDS = 1.0  # one that takes less is written at every end of an epoch

Validate = Callable[[Encoder], Mapping[str, float]]


class Conductor(lightning.Callback):
    """Holds the run's state; raises `TrainingError` where a loss, a weight or ``ndcg@10`` is not finite.

    Args:
        state: where the run stands.
        training: epochs, patience, checkpoint intervals.
        folder: where checkpoints go.
        snapshot: makes the model checkpoint of (epoch from 1, metrics, weights).
        validate: measures an encoder; None: no validation, and the last epoch is the best.
        batches_per_epoch: called once batches are known.
        resumed: a state to go on from.
        on_epoch: called on the first rank when the history has a new row.
        started: when the whole fit began, on the clock of `time.perf_counter`.
    """

    def __init__(
        self,
        *,
        state: RunState,
        training: TrainingSettings,
        folder: RunFolder,
        snapshot: Callable[[int, dict[str, float], dict[str, Tensor]], ModelCheckpoint],
        validate: Validate | None,
        batches_per_epoch: Callable[[], int],
        resumed: Resumed | None,
        on_epoch: Callable[[], None],
        started: float,
    ) -> None:
        self.state = state
        self.shape: tuple[int, int] | None = None
        """Rows and columns of the batch in work."""
        self._training = training
        self._folder = folder
        self._snapshot = snapshot
        self._validate = validate
        self._batches_per_epoch = batches_per_epoch
        self._resumed = resumed
        self._on_epoch = on_epoch
        self._progress = Progress(training.max_epochs, enabled=False)
        self._first = False
        self._in_window = False  # micro-batches are done that the optimiser has not stepped for
        self._has_validated = False
        self._unread_places = 0
        self._world = 1
        self._whole_started = self._lap = self._read_at = self._saved_at = started
        self._save_seconds = 0.0  # of the last checkpoint
        self._unsaved_best: ModelCheckpoint | None = None
        self._advice = "lower learning_rate"

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take up a run where it was left.

        Raises:
            ValueError: there is no batch, or one rank has more batches than another and would wait for it for ever.
        """
        module = _typed(pl_module)
        self._first, self._world = trainer.is_global_zero, trainer.world_size
        self._check_batches(module)
        self._progress = Progress(self._training.max_epochs, enabled=self._first)
        if module.encoder.autocast_dtype is not None:
            self._advice = "lower learning_rate, or take precision=32-true"
        module.optimizer_step_count = self.state.step
        if self._resumed is not None:
            module.encoder.load_state_dict(self._resumed.encoder)
            trainer.optimizers[0].load_state_dict(self._resumed.optimizer)
            if self._resumed.scaler:
                trainer.precision_plugin.load_state_dict(self._resumed.scaler)
            self._progress.say(
                f"resuming from {self._resumed.path.name}: epoch {self.state.epoch + 1}, batch {self.state.index}"
            )
            self._resumed = None  # its tensors are free to go

    def _check_batches(self, module: TrainingModule) -> None:
        """On all ranks alike: one that stops alone leaves the others waiting."""
        gathered = module.all_gather(torch.tensor([self._batches_per_epoch()], device=module.device))
        assert isinstance(gathered, Tensor)
        counts = gathered.flatten().tolist()  # [ranks]
        if min(counts) == 0:
            raise ValueError("train_batches: found no batch, allowed: at least one")
        if len(set(counts)) > 1:
            found = ", ".join(map(str, counts))
            raise ValueError(f"train_batches: found {found} batches on the ranks, allowed: equally many on each")

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock, and count the loop's memory apart from what was before."""
        self.state.peak_memory_gib = max(self.state.peak_memory_gib, peak_gib(pl_module.device))
        reset_peak(pl_module.device)
        self._progress.start_epoch(self.state.epoch, self.state.index, self._batches_per_epoch())
        self._lap = self._read_at = time.perf_counter()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: StepBatch, batch_idx: int
    ) -> None:
        """Remember the shape, for a message about memory."""
        self.shape = (batch.layout.rows, batch.layout.width)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: StepBatch,
        batch_idx: int,
    ) -> None:
        """Count; after a step of the optimiser, read losses and keep a checkpoint when it is time."""
        module, state = _typed(pl_module), self.state
        state.index += 1
        self._unread_places += batch.num_places
        self._in_window = not batch.is_last
        if self._in_window:
            return
        state.step += 1
        module.optimizer_step_count = state.step
        steps = self._training.checkpoint_steps
        save_now = steps is not None and state.step % steps == 0
        if save_now or self._time_to_read():
            self._read_losses(module)
            if save_now or self._is_time_to_save(self._training.checkpoint_seconds):
                self._save(trainer, module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Validate, compare, keep, and stop when nothing has got better for long enough."""
        module, state = _typed(pl_module), self.state
        self._read_losses(module)
        if state.loss_tokens == 0:
            text = "train_batches: found no target in a whole epoch, allowed: at least one"
            raise TrainingError(text, on_every_rank=True)
        self._count_loop_memory(module.device)
        optimizer = trainer.optimizers[0]
        if isinstance(optimizer, TableAdam):
            optimizer.catch_up()
        started = time.perf_counter()
        metrics = self._measure(module)
        validation_seconds = time.perf_counter() - started
        score = metrics.get(MONITORED)
        is_best = score is None or state.best_score is None or score > state.best_score
        row = self._row(validation_seconds) | {f"validation_{name}": value for name, value in metrics.items()}
        state.history.append(row)
        if is_best:
            state.best_score, state.best_epoch, state.bad_epochs = score, state.epoch + 1, 0
        else:
            state.bad_epochs += 1
        self._progress.end_epoch(row, score, best=is_best)
        if self._first:
            self._on_epoch()
        state.start_next_epoch()
        state.finished = state.epoch >= self._training.max_epochs or state.bad_epochs >= self._training.patience
        trainer.should_stop = state.finished
        save_now = state.finished or self._save_seconds < _CHEAP_SECONDS or self._is_time_to_save(0.0)
        if is_best and self._first:
            weights = module.encoder.state_dict()
            if not save_now:
                weights = {name: tensor.to("cpu", copy=True) for name, tensor in weights.items()}
            self._unsaved_best = self._snapshot(state.best_epoch, metrics, weights)
        self._lap = time.perf_counter()
        if save_now:
            self._save(trainer, module)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """A polite request to end (SIGTERM, raised by Lightning between batches) loses no work."""
        if isinstance(exception, SIGTERMException) and self._world == 1 and not self._in_window:
            module = _typed(pl_module)
            self._read_losses(module)
            self._save(trainer, module)
            self._progress.say(f"stopped by SIGTERM at step {self.state.step}; the next start goes on from there")

    def _count_loop_memory(self, device: torch.device) -> None:
        """A process's peak cannot be reset: on a CPU it is the loop's only before the first validation."""
        if device.type == "cuda" or not self._has_validated:
            self.state.loop_peak_memory_gib = max(self.state.loop_peak_memory_gib, peak_gib(device))

    def _is_time_to_save(self, seconds: float) -> bool:
        return time.perf_counter() - self._saved_at > max(seconds, _SAVES_APART * self._save_seconds)

    def _time_to_read(self) -> bool:
        if self._world > 1:
            return self.state.step % _READ_STEPS == 0
        return time.perf_counter() - self._read_at > _READ_SECONDS

    def _read_losses(self, module: TrainingModule) -> None:
        """Add the losses since the last time to the epoch's sum: the only place where training waits for the device."""
        pending, module.recent_losses = module.recent_losses, []
        if pending:
            means = torch.stack([loss for loss, _, _ in pending]).double()
            tokens = torch.tensor([count for _, count, _ in pending], dtype=torch.float64, device=means.device)
            places = torch.full_like(tokens, self._unread_places / len(pending))
            table = torch.stack([means * tokens, tokens, places])  # [3, micro-batches]
            if self._world > 1:
                torch.distributed.all_reduce(table)
            sums, counts, shares = table.tolist()
            self._refuse_nan(sums, [step for _, _, step in pending])
            self.state.loss_sum += math.fsum(sums)
            self.state.loss_tokens += round(sum(counts))
            self.state.places += round(sum(shares))
            self._unread_places = 0
        now = time.perf_counter()
        self.state.loop_seconds += now - self._lap
        self._lap = self._read_at = now
        self._show_progress(module)

    def _refuse_nan(self, sums: list[float], steps: list[int]) -> None:
        for value, step in zip(sums, steps, strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} at step {step} (epoch {self.state.epoch + 1}): "
                    f"{self._last_good()}; {self._advice}",
                    on_every_rank=True,  # the sums are those of all
                )

    def _last_good(self) -> str:
        saved, best = self._folder.newest, self._folder.newest_best
        if saved is None:
            return "there was no checkpoint yet"
        model = "" if best is None else f"; the best model so far is {best}"
        return f"the same call starts again from the last good checkpoint, {saved}{model}"

    def _show_progress(self, module: TrainingModule) -> None:
        state = self.state
        self._progress.update(
            state.index,
            self._batches_per_epoch(),
            state.loss_sum / max(1, state.loss_tokens),
            state.places / max(state.loop_seconds, 1e-9),
            max(state.peak_memory_gib, peak_gib(module.device)),
        )

    def _measure(self, module: TrainingModule) -> dict[str, float]:
        """Validation metrics, measured by the first rank and told to the others."""
        if self._validate is None:
            return {}
        self._has_validated = True
        box: list[dict[str, float] | None] = [None]
        if self._first:
            module.encoder.eval()
            with torch.no_grad():
                box[0] = {name: float(value) for name, value in self._validate(module.encoder).items()}
            module.encoder.train()
        if self._world > 1:
            torch.distributed.broadcast_object_list(box, src=0)
        metrics = box[0] or {}
        if not math.isfinite(metrics.get(MONITORED, math.nan)):
            found = metrics.get(MONITORED, f"only {sorted(metrics)}")
            text = f"validate: found {found} for {MONITORED}, allowed: a finite number"
            raise TrainingError(text, on_every_rank=True)
        return metrics

    def _row(self, validation_seconds: float) -> dict[str, float]:
        state = self.state
        return {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": state.loss_sum / state.loss_tokens,
            "train_seconds": state.loop_seconds,
            "validation_seconds": validation_seconds,
            "tokens": state.places,
            "tokens_per_second": state.places / max(state.loop_seconds, 1e-9),
        }

    def _save(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Keep a checkpoint; the time it takes is not the training loop's."""
        started = time.perf_counter()
        if self._first:
            weights = module.encoder.state_dict()
            # A sum carries any NaN or infinity, and needs no second table to find it.
            if not all(bool(torch.isfinite(tensor.sum())) for tensor in weights.values()):
                raise TrainingError(
                    f"a weight is no longer finite after step {self.state.step}: {self._last_good()}; {self._advice}"
                )
            now = time.perf_counter()
            self.state.whole_seconds += now - self._whole_started
            self.state.peak_memory_gib = max(self.state.peak_memory_gib, peak_gib(module.device))
            self._whole_started = now
            if self._unsaved_best is not None:
                self._unsaved_best.save(self._folder.best(self.state.best_epoch))
                self._unsaved_best = None
            scaler = trainer.precision_plugin.state_dict()
            self._folder.save(self.state, weights, trainer.optimizers[0].state_dict(), scaler)
        self._lap = self._saved_at = time.perf_counter()
        self._save_seconds = self._saved_at - started


def _typed(module: lightning.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
