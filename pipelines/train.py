"""Stage ``train``: a model, its curves, its time and its memory.

    python -m pipelines.train

Reads params.yaml and ``data/split/``; writes into ``data/train/`` ``model.ckpt`` (the epoch of the best validation
NDCG@10), ``items.parquet`` (the catalogue that it ranks, as the split has it: a model and its ids stay together),
``history.csv`` (a row an epoch), ``metrics.json`` and TensorBoard's ``tensorboard/``.

A run that was killed goes on from its last checkpoint at the next start. DVC deletes a stage's outputs before it runs
the stage again, so checkpoints live outside them, in ``.checkpoints/<hash of params, split and code>``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cutrec import config
from cutrec.workflow import outputs as stage
from cutrec.workflow import training_inputs as of_point
from cutrec.workflow.run_hash import SEQUENCES, run_hash

if TYPE_CHECKING:
    from rec_models.training.result import FitResult


def main() -> None:
    """Train, resume if there is something to resume from."""
    point = config.load()

    import pyarrow.parquet as pq
    import torch

    from rec_data.sequences.store import SequenceStore
    from rec_models.errors import TrainingError
    from rec_models.training.loop import fit

    catalogue = stage.DATA / "split" / "items.parquet"
    counts = torch.tensor(pq.read_table(catalogue, columns=["count"])["count"].to_numpy())  # [V] int64
    train = SequenceStore.open(SEQUENCES / "train.arrow")
    validation = SequenceStore.open(SEQUENCES / "validation.arrow")
    checkpoints = stage.checkout() / ".checkpoints" / run_hash(point)
    with own_output() as out:
        try:
            result = fit(
                model=of_point.model_settings(point),
                loss=of_point.loss_settings(point),
                training=of_point.training_settings(point),
                num_items=len(counts),
                train_batches=of_point.make_batches(point, train, len(counts)),
                validate=of_point.make_validation(point, validation),
                out=out,
                checkpoint_dir=checkpoints,
                item_counts=counts,
                batching=of_point.batch_settings(point),
            )
        except TrainingError as error:
            if error.on_every_rank and not is_first_process():
                sys.exit(1)
            raise stage.StageError(str(error)) from error
        if result.is_first_rank and not point.dataset.startswith("twin:"):
            for line in notes(result, of_point.popularity_ndcg(point, validation, counts)):
                print(f"note: {line}", file=sys.stderr)
        shutil.copyfile(catalogue, out / "items.parquet")
        stage.write_json(out / "metrics.json", summary(point, result))
    if result.is_first_rank:
        shutil.rmtree(checkpoints, ignore_errors=True)


@contextmanager
def own_output() -> Iterator[Path]:
    """The stage's output for the first of several processes (``train.devices``), a passing folder for the others."""
    if is_first_process():
        with stage.output(stage.DATA / "train") as out:
            yield out
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def is_first_process() -> bool:
    """Whether this is the process that was started, and not one of those that Lightning starts beside it."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def notes(result: FitResult, popularity: float) -> list[str]:
    """What should not go unsaid about a trained model.

    Args:
        result: of training.
        popularity: validation NDCG@10 of the ranking by popularity.
    """
    found = result.metrics["ndcg@10"]
    if found > popularity:
        return []
    return [
        f"the best validation ndcg@10, {found:.4f}, is not above that of the ranking by popularity, {popularity:.4f}: "
        "more train.patience and train.max_epochs (pointwise losses start slowly), or another loss, may help"
    ]


def summary(point: config.Config, result: FitResult) -> dict[str, object]:
    """What ``dvc metrics`` shows of a training run; no accuracy of a twin, which has nothing to be accurate about."""
    accuracy = {} if point.dataset.startswith("twin:") else result.metrics
    return {
        "train_loss": round(result.train_loss, 6),
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        **{f"validation_{name}": round(value, 6) for name, value in accuracy.items()},
        "epoch_seconds": round(result.epoch_seconds, 3),
        "whole_epoch_seconds": round(result.whole_epoch_seconds, 3),
        "peak_memory_gib": round(result.peak_memory_gib, 3),
        "loop_peak_memory_gib": round(result.loop_peak_memory_gib, 3),
        "peak_memory_kind": result.peak_memory_kind,
        "tokens_per_second": round(result.tokens_per_second),
        "device": result.device,
        "precision": result.precision,
    }


if __name__ == "__main__":
    stage.run(main)
