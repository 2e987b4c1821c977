"""Whole training steps on batches shaped like the paper's data sets: time, waiting for data, peak memory.

    python packages/rec-models/benchmarks/step.py OUT.csv [--points beauty,zvuk] [--losses cce,cce_neg] [--profile DIR]
        [--compile]

Runs `rec_models.training.fit` itself on synthetic batches, so that Lightning, the feeding thread and the optimiser are
in the figures. One line and one CSV row a measurement. `--compile` compiles the encoder's network; `--profile` also
writes each point's table of kernels.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor

from rec_models import training as training_module
from rec_models.backbones import Encoder, build_encoder
from rec_models.settings import LossSettings, ModelSettings, TrainingSettings

STEPS, WARMUP, HIDDEN = 60, 10, 256


class Point(NamedTuple):
    """One data set's batch: published or estimated sizes, lengths log-normal with this mean and median."""

    items: int
    batch_size: int
    max_seq_len: int
    negatives: int
    mean_length: float
    median_length: float
    paper_ms: float  # CCE- step of the paper's own code on an H100


POINTS = {
    "beauty": Point(176_450, 1024, 32, 511, 7.5, 5.5, 17.8),
    "movielens_20m": Point(15_405, 256, 512, 511, 88, 43, 38.7),
    "gowalla": Point(290_000, 1024, 320, 511, 45, 22, 104),
    "30music": Point(900_000, 256, 720, 4095, 523, 260, 729),
    "zvuk": Point(893_022, 1024, 128, 2047, 657, 290, 419),
}


class SyntheticBatch(NamedTuple):
    """See `rec_models.feed.Batch`."""

    inputs: Tensor
    lengths: Tensor
    targets: Tensor
    masked: Tensor | None = None


class SyntheticBatches:
    """A few different batches, made once and given again and again: no time of theirs is in the figures."""

    def __init__(self, point: Point, steps: int) -> None:
        self._steps = steps
        random = np.random.default_rng(0)
        sigma = math.sqrt(2 * math.log(point.mean_length / point.median_length))
        self._batches = [self._make(point, random, sigma) for _ in range(8)]
        self.tokens = statistics.mean(int(batch.lengths.sum()) for batch in self._batches)

    @staticmethod
    def _make(point: Point, random: np.random.Generator, sigma: float) -> SyntheticBatch:
        drawn = np.exp(math.log(point.median_length) + sigma * random.standard_normal(point.batch_size))
        lengths = torch.from_numpy(np.clip(drawn, 2, point.max_seq_len + 1).astype(np.int64) - 1)
        width = int(lengths.max())
        # Squaring a uniform number makes low ids popular: repeated targets, as in a real log.
        items = torch.from_numpy((random.random((point.batch_size, width + 1)) ** 2 * point.items).astype(np.int64))
        padded = torch.arange(width) >= lengths[:, None]
        return SyntheticBatch(items[:, :-1].masked_fill(padded, 0), lengths, items[:, 1:].masked_fill(padded, -100))

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[SyntheticBatch]:
        """See `rec_models.feed.Batches`."""
        return (self._batches[index % len(self._batches)] for index in range(start, self._steps))


class Stopwatch(lightning.Callback):
    """Time of each step between two looks at the clock with the device idle, and time waited for batches."""

    def __init__(self, profile: Path | None) -> None:
        self.started = self.milliseconds = self.waited = 0.0
        self._ended_at = 0.0
        self._profile = profile
        self._profiler: torch.profiler.profile | None = None

    def on_train_batch_start(self, trainer: object, module: object, batch: object, batch_idx: int) -> None:
        """After the warm-up: start the clock."""
        if batch_idx == WARMUP:
            torch.cuda.synchronize()
            self.started = time.perf_counter()
            if self._profile is not None:
                self._profiler = torch.profiler.profile()
                self._profiler.start()
        elif batch_idx > WARMUP:
            self.waited += time.perf_counter() - self._ended_at

    def on_train_batch_end(self, trainer: object, module: object, out: object, batch: object, batch_idx: int) -> None:
        """At the last step: stop it."""
        if batch_idx == STEPS - 1:
            torch.cuda.synchronize()
            self.milliseconds = (time.perf_counter() - self.started) * 1e3 / (STEPS - WARMUP)
            if self._profiler is not None and self._profile is not None:
                self._profiler.stop()
                table = self._profiler.key_averages().table(sort_by="self_device_time_total", row_limit=40)
                self._profile.write_text(table)
        self._ended_at = time.perf_counter()


def measure(name: str, loss: str, profile: Path | None, *, compiled: bool = False) -> dict[str, object]:
    """Train one point for STEPS steps."""
    point = POINTS[name]
    batches = SyntheticBatches(point, STEPS)
    stopwatch = Stopwatch(profile)
    assemble = training_module._trainer

    def with_stopwatch(*args: object, **kwargs: object) -> lightning.Trainer:
        trainer = assemble(*args, **kwargs)  # type: ignore[arg-type]
        trainer.callbacks.append(stopwatch)  # type: ignore[attr-defined]
        return trainer

    def build_compiled(settings: ModelSettings, num_items: int) -> Encoder:
        encoder = build_encoder(settings, num_items)
        if compiled:
            encoder.transform = torch.compile(encoder.transform, dynamic=True)  # type: ignore[method-assign]
        return encoder

    training_module._trainer, training_module.build_encoder = with_stopwatch, build_compiled
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = training_module.fit(
                model=ModelSettings(hidden=HIDDEN, max_seq_len=point.max_seq_len),
                loss=LossSettings.pick(loss, num_negatives=point.negatives, sharing="tile"),
                training=TrainingSettings(max_epochs=1, checkpoint_seconds=1e9),
                num_items=point.items,
                train_batches=batches,
                validate=None,
                out=Path(folder) / "out",
                checkpoint_dir=Path(folder) / "kept",
            )
    finally:
        training_module._trainer, training_module.build_encoder = assemble, build_encoder
    return {
        "point": name,
        "loss": loss,
        "V": point.items,
        "batch": f"{point.batch_size}x{point.max_seq_len}",
        "N": point.negatives if loss.endswith("_neg") else 0,
        "D": HIDDEN,
        "compiled": compiled,
        "tokens": round(batches.tokens),
        "step_ms": round(stopwatch.milliseconds, 3),
        "wait_share": round(stopwatch.waited * 1e3 / (STEPS - WARMUP) / stopwatch.milliseconds, 4),
        "peak_gib": round(result.peak_memory_gib, 3),
        "paper_cce_neg_step_ms": point.paper_ms,
        "device": result.device,
        "torch": torch.__version__,
        "revision": _revision(),
    }


def _revision() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return ran.stdout.strip() or "unknown"


def main() -> None:
    """Measure the points asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--points", default=",".join(POINTS))
    parser.add_argument("--losses", default="cce_neg,cce")
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA device")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for name in arguments.points.split(","):
        for loss in arguments.losses.split(","):
            table = None if arguments.profile is None else arguments.profile / f"{name}-{loss}.txt"
            if table is not None:
                table.parent.mkdir(parents=True, exist_ok=True)
            rows.append(measure(name, loss, table, compiled=arguments.compile))
            print(rows[-1], flush=True)
            with arguments.out.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
