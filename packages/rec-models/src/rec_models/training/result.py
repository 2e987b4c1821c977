"""What a training run reports: after each micro-batch, and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rec_models.config import Precision
from rec_models.encoders import Encoder
from rec_models.training import memory
from rec_models.training.batch import StepBatch
from rec_models.training.devices import cpu_name
from rec_models.training.prefetch import Prefetcher
from rec_models.training.run_state import RunState


class BatchDone(NamedTuple):
    """What `rec_models.training.loop.fit` passes to its ``on_batch``."""

    batch: StepBatch
    mean: Tensor  # its mean loss on the device; reading it waits for the device
    encoder: Encoder
    prefetcher: Prefetcher
    graphed: bool  # whether the step was part of a CUDA graph


@dataclass(frozen=True)
class FitResult:
    """The outcome of `rec_models.training.loop.fit`."""

    train_loss: float  # mean loss per token in the best epoch
    best_epoch: int  # the epoch, from 1, whose weights are in ``model.safetensors``
    epochs: int  # number of epochs trained
    metrics: dict[str, float]  # validation metrics of the best epoch; empty without validation
    epoch_seconds: float  # mean per epoch in the training loop, with data loading, without validation and checkpoints
    whole_epoch_seconds: float  # per epoch of the whole fit with start, validation, checkpoints; as the paper measured
    peak_memory_gib: float  # peak memory of the whole fit, as the paper measured
    loop_peak_memory_gib: float  # of the loop alone, with weights and optimizer; on a CPU up to the first validation
    peak_memory_kind: str  # what was measured: torch's allocator on a GPU, a process's resident memory on a CPU
    waited_share: float  # of the training loop's seconds, those in which it waited for batches
    tokens_per_second: float  # input tokens (items of histories) read per second of the training loop
    device: str  # name of the device
    precision: str  # the precision that was used
    history: list[dict[str, float]]  # one row per epoch, as in ``history.csv``
    is_first_rank: bool  # false in all processes but the first: they should not write results

    @classmethod
    def of_state(cls, state: RunState, device: torch.device, precision: Precision, *, is_first_rank: bool) -> FitResult:
        """The result of a finished run."""
        best = state.history[state.best_epoch - 1]
        loop_seconds = sum(row["train_seconds"] for row in state.history)
        metrics = {name.removeprefix("validation_"): best[name] for name in best if name.startswith("validation_")}
        del metrics["seconds"]
        return cls(
            train_loss=best["train_loss"],
            best_epoch=state.best_epoch,
            epochs=len(state.history),
            metrics=metrics,
            epoch_seconds=loop_seconds / len(state.history),
            whole_epoch_seconds=state.whole_seconds / len(state.history),
            peak_memory_gib=max(state.peak_memory_gib, state.loop_peak_memory_gib, memory.peak_gib(device)),
            loop_peak_memory_gib=state.loop_peak_memory_gib,
            peak_memory_kind=memory.peak_kind(device),
            waited_share=sum(row["waited_seconds"] for row in state.history) / max(loop_seconds, 1e-9),
            tokens_per_second=sum(row["tokens"] for row in state.history) / max(loop_seconds, 1e-9),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
            precision=precision,
            history=state.history,
            is_first_rank=is_first_rank,
        )
