"""Time and peak memory of whole training steps: `fit` itself, stopped after some steps."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import Encoder
from rec_models.training import memory
from rec_models.training.loop import fit
from rec_models.training.prefetch import Batches, MakeBatches, batches_of
from rec_models.training.result import BatchDone


@dataclass(frozen=True)
class StepTimes:
    """Optimizer steps after a warm-up: data, forward, loss, backward and optimizer."""

    warmup: int  # steps before the timed ones
    steps: int  # timed steps
    step_ms: float  # median, between the ends of consecutive steps: by the GPU's clock, or a CPU's wall clock
    low_ms: float  # first quartile
    high_ms: float  # third quartile
    p10_ms: float  # first decile
    p90_ms: float  # last decile
    mean_ms: float  # wall clock of all timed steps, divided by their number
    wait_share: float  # share of it spent waiting for batches; on a GPU only waits at whose end no work was left
    tokens: float  # mean number of input places per step
    most_tokens: int  # input places of the largest timed batch, which decides the peak of the loop
    loop_peak_gib: float  # of the training loop, with weights and optimizer, and of recording graphs in the warm-up
    fit_peak_gib: float  # the same with start, warm-up and, if asked for, a validation; see `memory.peak_gib`
    loss: float  # of the last warm-up step: two ways to compute the same step must agree on it


_COMPILING = 2  # steps at the start that compile kernels, and whose times say nothing about the others


class _EnoughError(Exception):
    """Ends the run; no user sees it."""


@dataclass
class _Stopwatch:
    """Times steps, then ends the run; the settings are those of `measure_steps`."""

    warmup: int
    steps: int
    min_steps: int
    max_seconds: float
    warmup_seconds: float
    validate: Callable[[Encoder], object] | None
    on_batch: Callable[[BatchDone], object] | None
    times: StepTimes | None = None
    _done: int = 0  # warm-up steps
    _compiled_at: float = 0.0
    _places: list[int] = field(default_factory=list)  # of each timed micro-batch
    _marks: list[Any] = field(default_factory=list)  # ends of the last warm-up step and of all timed steps

    def __call__(self, done: BatchDone) -> None:
        """Mark the end of a step; after the last one, compute the times and end the run."""
        if self.on_batch is not None:
            self.on_batch(done)
        is_warm = bool(self._marks)
        if is_warm:
            self._places.append(done.batch.num_places)
        if done.batch.is_last and is_warm:
            self._marks.append(_mark(done.mean.device))
            timed, late = len(self._marks) - 1, time.perf_counter() - self._started > self.max_seconds
            if timed >= self.steps or (late and timed >= self.min_steps):
                self._stop(done)
        elif done.batch.is_last:
            self._done += 1
            if self._done == _COMPILING:
                self._compiled_at = time.perf_counter()
            slow = self._done > _COMPILING and time.perf_counter() - self._compiled_at > self.warmup_seconds
            if slow or self._done >= self.warmup:
                self._start(done)

    def _start(self, done: BatchDone) -> None:
        device = done.mean.device
        self._loss = float(done.mean)  # waits for the device
        self._first_peak = memory.peak_gib(device)
        memory.reset_peak(device)
        self._marks.append(_mark(device))
        if device.type == "cuda":
            done.prefetcher.is_busy = lambda: not self._marks[-1].query()
        self._waited, self._started = done.prefetcher.waited_seconds, time.perf_counter()

    def _stop(self, done: BatchDone) -> None:
        device = done.mean.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds, waited = time.perf_counter() - self._started, done.prefetcher.waited_seconds - self._waited
        loop_peak = memory.peak_gib(device)
        if done.graphed:  # a replay allocates nothing: its memory was allocated when the graph was recorded
            loop_peak = max(loop_peak, self._first_peak)
        if self.validate is not None:
            done.encoder.eval()
            with torch.no_grad():
                self.validate(done.encoder)
        each = [_milliseconds(first, second) for first, second in pairwise(self._marks)]
        p10, low, median, high, p90 = np.percentile(each, (10, 25, 50, 75, 90)).tolist()
        self.times = StepTimes(
            warmup=self._done,
            steps=len(each),
            step_ms=median,
            low_ms=low,
            high_ms=high,
            p10_ms=p10,
            p90_ms=p90,
            mean_ms=seconds * 1e3 / len(each),
            wait_share=waited / seconds,
            tokens=sum(self._places) / len(each),
            most_tokens=max(self._places),
            loop_peak_gib=loop_peak,
            fit_peak_gib=max(self._first_peak, memory.peak_gib(device)),
            loss=self._loss,
        )
        raise _EnoughError


def measure_steps(
    *,
    model: ModelSettings,
    loss: LossSettings,
    training: TrainingSettings,
    num_items: int,
    train_batches: Batches | MakeBatches,
    item_counts: Tensor | None = None,
    validate: Callable[[Encoder], Mapping[str, float]] | None = None,
    warmup: int = 10,
    steps: int = 40,
    max_seconds: float = math.inf,
    min_steps: int = 1,
    warmup_seconds: float = math.inf,
    on_batch: Callable[[BatchDone], object] | None = None,
    build: Callable[[ModelSettings, int], Encoder] | None = None,
) -> StepTimes:
    """Train for some steps and time them; nothing is kept.

    Arguments and errors are those of `rec_models.training.loop.fit`, where epochs, patience and checkpoints have no
    effect, and an epoch must have ``(warmup + steps) * training.accumulate`` batches, or this raises a `ValueError`.
    `validate` is called once, after the steps, so that its memory counts in `fit_peak_gib`; `on_batch` after each
    micro-batch, before the clock is read.

    `warmup` optimizer steps, at least 1, come before the timed `steps`. After `warmup_seconds`, three steps of warm-up
    are enough; after `max_seconds` of timed steps, `min_steps` of them are.
    """
    for name, value in (("warmup", warmup), ("steps", steps)):
        if value < 1:
            raise ValueError(f"{name}: found {value}, allowed: 1 or more")
    needed = (warmup + steps) * training.accumulate
    there = len(batches_of(train_batches, 0, training.devices))
    if there < needed:
        raise ValueError(f"train_batches: found {there}, allowed: {needed} or more")
    watch = _Stopwatch(warmup, steps, min_steps, max_seconds, warmup_seconds, validate, on_batch)
    with tempfile.TemporaryDirectory() as folder, suppress(_EnoughError):
        fit(
            model=model,
            loss=loss,
            training=dataclasses.replace(training, checkpoint_seconds=math.inf, checkpoint_steps=None),
            num_items=num_items,
            train_batches=train_batches,
            validate=None,
            out=Path(folder) / "out",
            checkpoint_dir=Path(folder) / "kept",
            item_counts=item_counts,
            on_batch=watch,
            build=build,
        )
    assert watch.times is not None
    return watch.times


def _mark(device: torch.device) -> Any:
    """A moment on the device's timeline."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _milliseconds(first: Any, second: Any) -> float:
    return (second - first) * 1e3 if isinstance(first, float) else float(first.elapsed_time(second))
