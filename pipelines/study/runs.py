"""One run of the accuracy study: train, measure, append a row. Needs neither polars nor DVC.

A row is a line of JSON with the trial, its measurements and the machine.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cutrec.outputs import read_json
from cutrec.paths import MODEL
from pipelines.study.trials import Row, Trial
from rec_data.locks import locked

if TYPE_CHECKING:
    from cutrec.config_point import Config

WARMUP = 10
"""Steps before the timed ones."""
IDENTITY = {"kind", "dataset", "contender", "settings", "seed", "status"}
"""The fields of every row."""
TRAINING = ("epochs", "best_epoch", "train_loss", "epoch_seconds", "peak_memory_gib", "precision")
TEST_METRICS = ("ndcg", "recall", "hitrate", "precision", "map", "mrr", "coverage", "surprisal")
MEMORY = Path("/dev/shm")  # noqa: S108
"""A tmpfs on every Linux: a run is never resumed, so its checkpoints need no disk."""


def run(trial: Trial, data: Path) -> Row:
    """Run a trial; an error becomes a row as well."""
    from cutrec.environment import environment

    row: Row = trial.row | environment()
    started = time.perf_counter()
    try:
        split = data / trial.dataset
        row |= time_steps(trial.point, split) if trial.kind == "time" else train_and_measure(trial, split)
        row["status"] = "ok"
    except (RuntimeError, ValueError, OSError, MemoryError) as error:
        row |= {"status": "failed", "note": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


def train_and_measure(trial: Trial, split: Path) -> Row:
    """Train to the best validation NDCG@10; only a final run ranks for the test users."""
    from cutrec.workflow.evaluate import evaluate
    from cutrec.workflow.train import train

    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        trained, tested = Path(name) / "train", Path(name) / "evaluate"
        train(trial.point, split, trained, checkpoints=Path(name) / "checkpoints")
        found = read_json(trained / "metrics.json")
        row: Row = {field: found[field] for field in TRAINING}
        row["validation_ndcg_at_10"] = found["validation_ndcg@10"]
        if trial.kind == "final":
            evaluate(trial.point, split, trained / MODEL.name, tested)
            found = read_json(tested / "metrics.json")
            row |= {f"{metric}_at_10": found[f"{metric}@10"] for metric in TEST_METRICS}
            row["test_users"] = found["users"]
    return row


def time_steps(point: Config, split: Path) -> Row:
    """Milliseconds per training step, over an epoch after ten steps; meaningful if nothing else is running."""
    import pyarrow.parquet as pq
    import torch

    from cutrec.config import loss_settings, model_settings, training_settings
    from cutrec.stores import read_store
    from cutrec.workflow import training_inputs as inputs
    from pipelines.paper.steps import step_fields
    from rec_models.training.benchmark import measure_steps

    counts = torch.tensor(pq.read_table(split / "items.parquet", columns=["count"])["count"].to_numpy())
    store = read_store(split, "train")
    make = inputs.make_batches(point, store, len(counts))
    steps = len(make(0, point.train.devices)) // point.train.accumulate
    times = measure_steps(
        model=model_settings(point),
        loss=loss_settings(point),
        training=training_settings(point),
        num_items=len(counts),
        train_batches=make,
        item_counts=counts,
        warmup=WARMUP,
        warmup_seconds=2.0,
        steps=max(1, steps - WARMUP),
        min_steps=10,
        max_seconds=20.0,
    )
    return step_fields(times)


def append(path: Path, row: Row) -> None:
    """Add a line to a file that several processes append to; an incomplete last line stays a line of its own."""
    with locked(path), path.open("a+b") as file:
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
