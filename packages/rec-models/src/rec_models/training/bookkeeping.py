"""What happens between training steps: losses are read, epochs counted, validated and compared, and states saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from itertools import groupby
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor

from cce_kernels.shard import Rows
from rec_models.config import TrainingSettings
from rec_models.encoders import Encoder
from rec_models.errors import TrainingError
from rec_models.optim.table_adam import TableAdam
from rec_models.training import memory
from rec_models.training.averaging import AveragedEncoder
from rec_models.training.batch import StepBatch
from rec_models.training.checkpoint import ModelCheckpoint
from rec_models.training.logging import Progress
from rec_models.training.prefetch import Prefetcher
from rec_models.training.run_state import Resumed, RunFolder, RunState, Tensors

MONITORED = "ndcg@10"
_READ_SECONDS = 0.5  # how often one process reads the losses back
_READ_STEPS = 16  # how often several processes do: reading is a collective operation, so they must agree when
_SAVES_APART = 50  # a checkpoint of one second is followed by 50 seconds of training: saving takes 2 % at most
_CHEAP_SECONDS = 1.0  # a checkpoint that takes less is written at the end of every epoch

Validate = Callable[[Encoder], Mapping[str, float]]


@dataclass
class Bookkeeping:
    """A run between its steps, with the counters, clocks and files that belong to it."""

    fabric: Fabric  # launched
    training: TrainingSettings
    state: RunState
    folder: RunFolder
    encoder: Encoder
    optimizer: torch.optim.Optimizer  # without Fabric's wrapper
    snapshot: Callable[[int, dict[str, float], dict[str, Tensor]], ModelCheckpoint]  # of epoch, metrics, weights
    prefetcher: Prefetcher
    started: InitVar[float]  # when the whole fit began, on the clock of time.perf_counter
    _pending: list[_Pending] = field(default_factory=list)
    _unsaved_best: ModelCheckpoint | None = None
    _has_validated: bool = False
    _save_seconds: float = 0.0  # of the last checkpoint
    _waited: float = 0.0  # of the prefetcher's waiting, what was counted

    def __post_init__(self, started: float) -> None:
        self.progress = Progress(self.training.max_epochs, self.training.patience, enabled=self.fabric.is_global_zero)
        self._whole_started = self._lap = self._read_at = self._saved_at = started
        gathered = self.fabric.all_gather(torch.tensor([self.num_batches], device=self.fabric.device))
        assert isinstance(gathered, Tensor)
        counts = gathered.flatten().tolist()  # [ranks]; every rank raises the same: none waits for another forever
        if min(counts) == 0:
            raise ValueError("train_batches: found no batch, allowed: at least one")
        if len(set(counts)) > 1:
            found = ", ".join(map(str, counts))
            raise ValueError(f"train_batches: found {found} batches on the ranks, allowed: equally many on each")
        self.average: AveragedEncoder | None = None
        if self.training.averaging:
            steps = math.ceil(self.num_batches / self.training.accumulate)
            self.average = AveragedEncoder(self.encoder, self.training.averaging, steps)

    @property
    def num_batches(self) -> int:
        """Per epoch of this rank."""
        return len(self.prefetcher.batches)

    @property
    def result(self) -> Encoder:
        """The network that is validated and kept."""
        return self.encoder if self.average is None else self.average.encoder

    def restore(self, resumed: Resumed) -> None:
        """Load weights, their average, optimizer and loss scale of a saved run."""
        shard = self.encoder.shard
        rows = Rows(self.encoder.num_items, 1, 0) if shard is None else shard.rows
        tensors = resumed.own(self._table_index, rows)
        self.encoder.load_state_dict(tensors.encoder)
        if self.average is not None:
            self.average.encoder.load_state_dict(tensors.average)
        self.optimizer.load_state_dict(tensors.optimizer)
        if tensors.scaler:
            self.fabric.strategy.precision.load_state_dict(tensors.scaler)
        place = f"epoch {self.state.epoch + 1}, batch {self.state.index}"
        self.progress.say(f"resuming from {resumed.path.name}: {place}{resumed.remark}")

    @property
    def _table_index(self) -> int:
        """The optimizer's number of the item table."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return [parameter is self.encoder.item_table for parameter in parameters].index(True)

    def start_epoch(self) -> None:
        """Start the loop's clock, and count the loop's memory apart from what came before."""
        self.state.peak_memory_gib = max(self.state.peak_memory_gib, memory.peak_gib(self.fabric.device))
        memory.reset_peak(self.fabric.device)
        self.progress.start_epoch(self.state.epoch, self.state.index, self.num_batches)
        self._lap = self._read_at = time.perf_counter()

    def count(self, batch: StepBatch, mean: Tensor, weight: int) -> None:
        """Count a micro-batch, whose loss is of `weight` tokens, and after a step average the weights."""
        self._pending.append(_Pending(mean, weight, batch.num_targets, batch.num_places, self.state.step + 1))
        self.state.index += 1
        if batch.is_last:
            self.state.step += 1
            if self.average is not None and self.average.is_due(self.state.step):
                self._catch_up()
                self.average.update(self.state.step)

    def read_and_save(self) -> None:
        """After an optimizer step, read the losses and write a checkpoint when it is time."""
        state, steps = self.state, self.training.checkpoint_steps
        save_now = steps is not None and state.step % steps == 0
        read_now = time.perf_counter() - self._read_at > _READ_SECONDS
        if self.fabric.world_size > 1:
            read_now = state.step % _READ_STEPS == 0
        if save_now or read_now:
            self.read_losses()
            if save_now or self._agreed(self._is_time_to_save(self.training.checkpoint_seconds)):
                self.save()

    def read_losses(self) -> None:
        """Add the pending losses to the epoch's sum, if finite: the only place where training waits for the device."""
        state = self.state
        pending, self._pending = self._pending, []
        if pending:
            means = torch.stack([row.mean for row in pending]).double()
            numbers = [[row.weight, row.tokens, row.places] for row in pending]
            weights, tokens, places = torch.tensor(numbers, dtype=torch.float64, device=means.device).T
            table = torch.stack([means * weights, tokens, places])  # [3, micro-batches]
            if self.fabric.world_size > 1:
                torch.distributed.all_reduce(table)
            sums, counts, inputs = table.tolist()
            for value, row in zip(sums, pending, strict=True):
                if not math.isfinite(value):
                    text = f"the loss is {value} at step {row.step} (epoch {state.epoch + 1}): {self._advice()}"
                    raise TrainingError(text, on_every_rank=True)  # the sums are those of all ranks
            for same in (list(group) for _, group in groupby(zip(pending, sums, counts, strict=True), _step_of)):
                state.step_losses.append(sum(row[1] for row in same) / max(1.0, sum(row[2] for row in same)))
            state.loss_sum += math.fsum(sums)
            state.loss_tokens += round(sum(counts))
            state.places += round(sum(inputs))
        now = time.perf_counter()
        state.loop_seconds += now - self._lap
        self._lap = self._read_at = now
        waited = self.prefetcher.waited_seconds
        state.waited_seconds += waited - self._waited
        self._waited = waited
        loss, speed = state.loss_sum / max(1, state.loss_tokens), state.places / max(state.loop_seconds, 1e-9)
        peak = max(state.peak_memory_gib, memory.peak_gib(self.fabric.device))
        self.progress.update(state.index, self.num_batches, loss, speed, peak)

    def close_loop(self) -> None:
        """Read what is left of an epoch, which must have had a target, and bring the network up to date."""
        self.read_losses()
        if self.state.loss_tokens == 0:
            raise TrainingError("train_batches: found no target in an epoch, allowed: at least one", on_every_rank=True)
        # The peak of a process cannot be reset: on a CPU it is the loop's only before the first validation.
        device = self.fabric.device
        if device.type == "cuda" or not self._has_validated:
            self.state.loop_peak_memory_gib = max(self.state.loop_peak_memory_gib, memory.peak_gib(device))
        self._catch_up()

    def _catch_up(self) -> None:
        if isinstance(self.optimizer, TableAdam):
            self.optimizer.catch_up()

    def measure(self, validate: Validate | None) -> tuple[dict[str, float], float]:
        """Validation metrics, as the first rank has them, and the seconds that it took.

        It measures alone, or together with the others if each has a part of the item table.
        """
        started = time.perf_counter()
        metrics: dict[str, float] = {}
        if validate is not None:
            self._has_validated = True
            if self._writes:
                self.result.eval()
                with torch.no_grad():
                    metrics = {name: float(value) for name, value in validate(self.result).items()}
            metrics = self.fabric.broadcast(metrics)
            if not math.isfinite(metrics.get(MONITORED, math.nan)):
                found = metrics.get(MONITORED, f"only {sorted(metrics)}")
                text = f"validate: found {found} for {MONITORED}, allowed: a finite number"
                raise TrainingError(text, on_every_rank=True)
        return metrics, time.perf_counter() - started

    def end_epoch(self, metrics: dict[str, float], validation_seconds: float) -> None:
        """Add a row to the history, compare it with the best epoch, and decide whether to stop."""
        state, score = self.state, metrics.get(MONITORED)
        row = state.end_epoch(metrics, score, validation_seconds)
        self.progress.end_epoch(row, score, state.bad_epochs)
        state.finished = state.epoch >= self.training.max_epochs or state.bad_epochs >= self.training.patience

    def keep_best(self, metrics: dict[str, float]) -> None:
        """Save at the end of an epoch; where that would take too long, hold a copy of the best model on the host."""
        takes_long = self._save_seconds >= _CHEAP_SECONDS and not self._is_time_to_save(0.0)
        save_now = self._agreed(self.state.finished or not takes_long)
        if self.state.bad_epochs == 0 and self._writes:
            weights = self.result.state_dict()
            if not save_now:
                weights = {name: tensor.to("cpu", copy=True) for name, tensor in weights.items()}
            self._unsaved_best = self.snapshot(self.state.best_epoch, metrics, weights)
        if save_now:
            self.save()

    def _is_time_to_save(self, seconds: float) -> bool:
        return time.perf_counter() - self._saved_at > max(seconds, _SAVES_APART * self._save_seconds)

    @property
    def _writes(self) -> bool:
        """Whether this rank writes checkpoints: the first one, or all of them where each has a part of the table."""
        return self.fabric.is_global_zero or self.encoder.shard is not None

    def _agreed(self, decision: bool) -> bool:
        """What the first rank decides by its clock, where all ranks act on it."""
        if self.encoder.shard is None:
            return decision
        decided = torch.tensor(int(decision), device=self.fabric.device)
        torch.distributed.broadcast(decided, 0)
        return bool(decided)

    def _refuse_not_finite(self, weights: Mapping[str, Tensor]) -> None:
        # A sum carries any NaN or infinity, and needs no second table to find it.
        is_finite = torch.stack([torch.isfinite(tensor.sum()) for tensor in weights.values()]).all().int()
        together = self.encoder.shard is not None
        if together:
            torch.distributed.all_reduce(is_finite, torch.distributed.ReduceOp.MIN)
        if not bool(is_finite):
            text = f"a weight is no longer finite after step {self.state.step}: {self._advice()}"
            raise TrainingError(text, on_every_rank=together)

    def save(self) -> None:
        """Write a checkpoint, if all weights are finite; the time that it takes does not count as the loop's."""
        started, shard = time.perf_counter(), self.encoder.shard
        if self._writes:
            weights = self.encoder.state_dict()
            self._refuse_not_finite(weights)
            before, self._whole_started = self._whole_started, time.perf_counter()
            self.state.whole_seconds += self._whole_started - before
            self.state.peak_memory_gib = max(self.state.peak_memory_gib, memory.peak_gib(self.fabric.device))
            if self._unsaved_best is not None:
                self._unsaved_best.save(self.folder.best(self.state.best_epoch), shard)
                self._unsaved_best = None
            scaler = self.fabric.strategy.precision.state_dict()
            averages = {} if self.average is None else self.average.encoder.state_dict()
            tensors = Tensors(weights, self.optimizer.state_dict(), scaler, averages)
            self.folder.save(self.state, tensors, self._table_index, shard)
        self._lap = self._saved_at = time.perf_counter()
        self._save_seconds = self._saved_at - started

    def save_before_exit(self) -> None:
        """Save what SIGTERM would lose; with several processes the others may be in another step."""
        if self.fabric.world_size == 1:
            self.read_losses()
            self.save()
            self.progress.say(f"stopped by SIGTERM at step {self.state.step}; the next start resumes there")

    def _advice(self) -> str:
        """Where a failed run resumes, and what to change."""
        mixed = self.encoder.autocast_dtype is not None
        cure = "lower learning_rate" + (", or take precision=32-true" if mixed else "")
        saved, best = self.folder.newest, self.folder.newest_best
        if saved is None:
            return f"there was no checkpoint yet; {cure}"
        model = "" if best is None else f"; the best model so far is {best}"
        return f"the same call starts again from the last good checkpoint, {saved}{model}; {cure}"


class _Pending(NamedTuple):
    """A micro-batch whose loss was not read yet."""

    mean: Tensor
    weight: int  # of the mean, in tokens
    tokens: int
    places: int
    step: int  # of the optimizer, from 1


def _step_of(row: tuple[_Pending, float, float]) -> int:
    """The optimizer step of a pending micro-batch, its loss and its tokens."""
    return row[0].step
