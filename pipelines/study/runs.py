"""One run of the accuracy study: train, measure, append a row. Needs neither polars nor DVC.

A row is a line of JSON with the trial, its measurements and the machine.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutrec.environment import environment
from cutrec.reporting.results_file import lock
from pipelines.study.trials import Row, Trial

if TYPE_CHECKING:
    from cutrec import config
    from rec_data.sequences.store import SequenceStore
    from rec_models.encoders import Encoder
    from rec_models.training.result import FitResult

KS = (1, 5, 10, 20, 100)
WARMUP = 10
"""Steps before the timed ones."""
IDENTITY = {"kind", "dataset", "contender", "settings", "seed", "status"}
"""The fields of every row."""
TEST_METRICS = ("ndcg", "recall", "hitrate", "precision", "map", "mrr", "coverage", "surprisal")


@dataclasses.dataclass(frozen=True)
class SplitData:
    """The split of a data set, as the stage ``split`` writes it; the test is opened by `test_metrics` only."""

    folder: Path
    train: SequenceStore
    validation: SequenceStore
    counts: Any
    """[V] int64 tensor, events of each item in training."""

    @classmethod
    def open(cls, folder: Path) -> SplitData:
        """Open the files of a folder that a search may use: ``items.parquet`` and two of ``sequences/``."""
        import pyarrow.parquet as pq
        import torch

        counts = pq.read_table(folder / "items.parquet", columns=["count"])["count"].to_numpy()
        return cls(folder, _store(folder, "train"), _store(folder, "validation"), torch.tensor(counts))


def _store(folder: Path, part: str) -> SequenceStore:
    from rec_data.sequences.store import SequenceStore

    return SequenceStore.open(folder / "sequences" / f"{part}.arrow")


def run(trial: Trial, data: Path) -> Row:
    """Run a trial; an error becomes a row as well."""
    row: Row = trial.row | environment()
    started = time.perf_counter()
    try:
        split = SplitData.open(data / trial.dataset)
        row |= time_steps(trial.point, split) if trial.kind == "time" else train_and_measure(trial, split)
        row["status"] = "ok"
    except (RuntimeError, ValueError, OSError, MemoryError) as error:
        row |= {"status": "failed", "note": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def train_and_measure(trial: Trial, split: SplitData) -> Row:
    """Train to the best validation NDCG@10; only a final run opens and ranks the test targets."""
    import torch

    from rec_models.inference import load

    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        result = fit(trial.point, split, Path(folder))
        row: Row = {
            "epochs": result.epochs,
            "best_epoch": result.best_epoch,
            "train_loss": result.train_loss,
            "validation_ndcg_at_10": result.metrics["ndcg@10"],
            "epoch_seconds": result.epoch_seconds,
            "peak_memory_gib": result.peak_memory_gib,
            "precision": result.precision,
        }
        if trial.kind == "final":
            encoder = load(Path(folder) / "out" / "model.ckpt", "cuda" if torch.cuda.is_available() else "cpu")
            row |= test_metrics(encoder, split, trial.point)
    return row


def fit(point: config.Config, split: SplitData, folder: Path) -> FitResult:
    """`rec_models.training.loop.fit` at a point, as the stage ``train`` calls it."""
    from cutrec.workflow import training_inputs as of_point
    from rec_models.training import loop as training

    return training.fit(
        model=of_point.model_settings(point),
        loss=of_point.loss_settings(point),
        training=dataclasses.replace(of_point.training_settings(point), checkpoint_seconds=1e9),
        num_items=len(split.counts),
        train_batches=of_point.make_batches(point, split.train, len(split.counts)),
        validate=of_point.make_validation(point, split.validation),
        out=folder / "out",
        checkpoint_dir=folder / "kept",
        item_counts=split.counts,
        batching=of_point.batch_settings(point),
    )


def test_metrics(encoder: Encoder, split: SplitData, point: config.Config) -> Row:
    """The metrics at 10 of the test users, without seen items; coverage and surprisal refer to the training log."""
    import torch

    from cutrec.workflow.ranking import user_batches
    from rec_eval import LogCounts, evaluate, top_k

    test = _store(split.folder, "test")
    batches = user_batches(
        encoder, test, batch_users=point.evaluate.batch_users, filter_seen=True, title="rank the test users"
    )
    lists = [
        top_k(batch.queries, batch.items, max(KS), seen_offsets=batch.seen_offsets, seen_items=batch.seen_items).ids
        for batch in batches
    ]
    reference = LogCounts.from_logs([(split.train.offsets, split.train.items)], len(split.counts))
    assert test.targets is not None
    found = evaluate(torch.cat(lists).cpu(), test.targets.numpy(), KS, reference).summary()
    return {f"{name}_at_10": found[f"{name}@10"] for name in TEST_METRICS} | {"test_users": len(test)}


def time_steps(point: config.Config, split: SplitData) -> Row:
    """Milliseconds per training step, over an epoch after ten steps; meaningful if nothing else is running."""
    from cutrec.workflow import training_inputs as of_point
    from pipelines.paper.steps import step_fields
    from rec_models.training.benchmark import measure_steps

    make = of_point.make_batches(point, split.train, len(split.counts))
    steps = len(make(0, point.train.devices)) // point.train.accumulate
    times = measure_steps(
        model=of_point.model_settings(point),
        loss=of_point.loss_settings(point),
        training=of_point.training_settings(point),
        num_items=len(split.counts),
        train_batches=make,
        item_counts=split.counts,
        warmup=WARMUP,
        warmup_seconds=2.0,
        steps=max(1, steps - WARMUP),
        min_steps=10,
        max_seconds=20.0,
    )
    return step_fields(times)


def append(path: Path, row: Row) -> None:
    """Add a line to a file that several processes append to; an incomplete last line stays a line of its own."""
    with lock(path), path.open("a+b") as file:
        file.seek(0)
        present = file.read()
        start = b"\n" if present and not present.endswith(b"\n") else b""
        file.write(start + json.dumps(row).encode() + b"\n")


def read(path: Path) -> list[Row]:
    """The complete rows of a file; none if there is no such file.

    An incomplete line, of a process that was killed, is passed over.

    Raises:
        ValueError: the file is another one: a line is JSON but not a row, or no line is a row.
    """
    rows: list[Row] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        with suppress(json.JSONDecodeError):
            row = json.loads(line)
            if not isinstance(row, dict) or not row.keys() >= IDENTITY:
                raise ValueError(f"{path}, line {number}: found no row of the accuracy study")
            rows.append(row)
    if lines and not rows:
        raise ValueError(f"{path}: found no row of the accuracy study")
    return rows


def scratch() -> Path | None:
    """A folder in memory for the checkpoints of a run, which is never resumed; None for the usual one."""
    shared = Path("/dev/shm")  # noqa: S108  # a tmpfs on every Linux
    return shared if shared.is_dir() else None
