"""The clock of `pipelines.measure`: a Lightning callback beside the training loop's own."""

from __future__ import annotations

import statistics
import time
from typing import Any

import lightning
import torch

from rec_models.feed import StepBatch
from rec_models.memory import peak_gib

_FEWEST_WARM = 3


class StepTimer(lightning.Callback):
    """Times whole steps after a warm-up, without making the host wait for the device in between.

    On a GPU the times are those of CUDA events at the ends of steps: from the end of a step to the end of the next one,
    so waiting for data counts. On a CPU the host's clock.

    Args:
        warmup: steps before the first timed one; fewer where they take longer than `seconds`, but at least three.
        fewest: steps to time at least.
        seconds: after so many seconds of timed steps no further one is begun, once there are `fewest`.
    """

    def __init__(self, warmup: int, fewest: int, seconds: float) -> None:
        self._warmup, self._fewest, self._seconds = warmup, fewest, seconds
        self._warm_at = 0  # steps that the warm-up took; 0: it still lasts
        self._first_at = 0.0
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
        tokens = batch.num_places
        self.most_tokens = max(self.most_tokens, tokens)
        on_gpu = pl_module.device.type == "cuda"
        if self._warm_at:
            self._tokens.append(tokens)
        elif self._is_warm(batch_idx + 1):
            if on_gpu:
                torch.cuda.synchronize()
            self._warm_at, self._started = batch_idx + 1, time.perf_counter()
        else:
            return
        self._ends.append(_mark(on_gpu))
        if len(self._tokens) >= self._fewest and time.perf_counter() - self._started > self._seconds:
            trainer.should_stop = True

    def _is_warm(self, steps: int) -> bool:
        """The first steps compile kernels: how long the others take is known from the third on."""
        now = time.perf_counter()
        if steps == _FEWEST_WARM - 1:
            self._first_at = now
        slow = steps >= _FEWEST_WARM and now - self._first_at > self._seconds / 4
        return steps >= self._warmup or slow

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
            "warmup_steps": self._warm_at,
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
