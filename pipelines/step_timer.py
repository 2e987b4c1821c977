"""The clock of `pipelines.measure`: a Lightning callback beside the training loop's own."""

from __future__ import annotations

import statistics
import time
from typing import Any

import lightning
import torch

from rec_models.feed import StepBatch
from rec_models.memory import peak_gib


class StepTimer(lightning.Callback):
    """Times whole steps after a warm-up, without making the host wait for the device in between.

    On a GPU the times are those of CUDA events at the ends of steps: from the end of a step to the end of the next one,
    so waiting for data counts. On a CPU the host's clock.

    Args:
        warmup: steps before the first timed one.
        fewest: steps to time at least.
        seconds: after so many seconds of timed steps no further one is begun, once there are `fewest`.
    """

    def __init__(self, warmup: int, fewest: int, seconds: float) -> None:
        self._warmup, self._fewest, self._seconds = warmup, fewest, seconds
        self._ends: list[Any] = []
        self._tokens: list[int] = []
        self._started = self._wall = 0.0
        self.most_tokens = 0
        """Places of the largest batch, warm-up included."""
        self.peak_loop_gib = 0.0
        """Peak memory up to `stop`."""

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: StepBatch,
        batch_idx: int,
    ) -> None:
        """Note the end of a step."""
        tokens = batch.items.numel()
        self.most_tokens = max(self.most_tokens, tokens)
        steps = batch_idx + 1
        if steps < self._warmup:
            return
        on_gpu = pl_module.device.type == "cuda"
        if steps == self._warmup:
            if on_gpu:
                torch.cuda.synchronize()
            self._started = time.perf_counter()
        else:
            self._tokens.append(tokens)
        self._ends.append(_mark(on_gpu))
        if len(self._tokens) >= self._fewest and time.perf_counter() - self._started > self._seconds:
            trainer.should_stop = True

    def stop(self, device: torch.device) -> None:
        """The loop is over: wait for the device, read the clock and the peak."""
        if device.type == "cuda":
            torch.cuda.synchronize()
        self._wall = time.perf_counter() - self._started
        self.peak_loop_gib = peak_gib(device)

    def summary(self) -> dict[str, float | int]:
        """The times, as fields of `pipelines.results.Result`."""
        times = [_milliseconds(first, last) for first, last in zip(self._ends, self._ends[1:], strict=False)]
        tenths = statistics.quantiles(times, n=10, method="inclusive")
        return {
            "steps_timed": len(times),
            "warmup_steps": self._warmup,
            "tokens_per_step": round(statistics.mean(self._tokens), 1),
            "most_tokens": self.most_tokens,
            "step_ms": round(statistics.median(times), 4),
            "step_ms_p10": round(tenths[0], 4),
            "step_ms_p90": round(tenths[-1], 4),
            "mean_step_ms": round(self._wall * 1e3 / len(times), 4),
            "peak_loop_gib": round(self.peak_loop_gib, 4),
        }


def _mark(on_gpu: bool) -> Any:
    if not on_gpu:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _milliseconds(first: Any, last: Any) -> float:
    if isinstance(first, float):
        return float(last - first) * 1e3
    return float(first.elapsed_time(last))
