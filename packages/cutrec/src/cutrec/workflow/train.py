"""Train a model on a split."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import torch

from cutrec.checksums import read_output, verified, write_checksums
from cutrec.config import Config, batch_settings, loss_settings, model_settings, training_settings
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, read_json, unchanged, write_json
from cutrec.workflow import training_inputs as inputs
from cutrec.workflow.checkpoints import run_folder
from cutrec.workflow.run_hash import run_hash
from rec_data import arrays
from rec_data.ids import read_ids
from rec_data.sequences.store import SequenceStore
from rec_models.errors import TrainingError
from rec_models.training.loop import fit
from rec_models.training.result import FitResult

MANY_UNREACHABLE = 0.1
"""Share of unreachable validation targets from which on longer training is not advised."""


def train(
    config: Config, split: Path, out: Path, *, checkpoints: Path, confirm: Callable[[], None] = lambda: None
) -> None:
    """Train, or resume the training that was interrupted.

    Writes ``model.ckpt`` (the epoch of the best validation NDCG@10), ``items.parquet`` (the catalogue that it ranks: a
    model and its ids stay together), ``history.csv`` (one row per epoch), ``metrics.json`` and ``tensorboard/``. If
    another process trains the same, this one waits for it and takes its model.

    Args:
        config: the model, the loss and the training loop.
        split: the folder that `cutrec.workflow.split.split` wrote.
        out: the folder for the results.
        checkpoints: the folder for the states of runs. Each run has a folder of its own there, named by the hash of its
            settings, its split and its code. Of a complete run it is removed when another one starts.
        confirm: called when training is complete; if it raises, there are no results and the next call resumes.

    Raises:
        StageError: a file of the split is missing, nobody validates, training failed, or another process replaced the
            split while it was read.
    """
    for name in ("items.parquet", "sequences/train.arrow", "sequences/validation.arrow"):
        verified(split / name)
    # Training starts one more process for each further device (train.devices), which keeps no results and no locks.
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    with ExitStack() as places:
        with unchanged(split):
            state = checkpoints / run_hash(config, split)
            if first:
                places.enter_context(run_folder(checkpoints, state.name))
            place: AbstractContextManager[Path | str] = atomic_folder(out) if first else tempfile.TemporaryDirectory()
            folder = Path(places.enter_context(place))
            log = read_json(split / "summary.json").get("log_sha256") if (split / "summary.json").is_file() else None
            catalogue = read_output(read_ids, split / "items.parquet")
            shutil.copyfile(catalogue.path, folder / "items.parquet")
            hashes, sequences = {"items": catalogue.hash}, split / "sequences"
            train_store = read_output(SequenceStore.open, sequences / "train.arrow", hashes=hashes)
            validation_store = read_output(SequenceStore.open, sequences / "validation.arrow", hashes=hashes)
            if len(validation_store) == 0:
                raise StageError(f"{split}: found no validation users, allowed: at least 1 (of a larger log)")
            counts = torch.from_numpy(arrays.count(train_store.items.numpy(), len(catalogue.names)))  # [V] int64
        try:
            result = fit(
                model=model_settings(config),
                loss=loss_settings(config),
                training=training_settings(config),
                num_items=len(counts),
                train_batches=inputs.make_batches(config, train_store, len(counts)),
                validate=inputs.make_validation(config, validation_store),
                out=folder,
                checkpoint_dir=state,
                item_counts=counts,
                batching=batch_settings(config),
                catalogue=catalogue.hash,
                log=log,
            )
        except TrainingError as error:
            if error.on_every_rank and not first:
                sys.exit(1)
            raise StageError(str(error)) from error
        if result.is_first_rank and not config.dataset.startswith("twin:"):
            unreachable = inputs.unreachable_share(config, validation_store)
            for line in notes(result, inputs.popularity_ndcg(config, validation_store, counts), unreachable):
                print(f"note: {line}", file=sys.stderr)
        write_json(folder / "metrics.json", summary(config, result))
        write_checksums(folder)
        if first:
            confirm()


def notes(result: FitResult, popularity: float, unreachable: float) -> list[str]:
    """Remarks that the user should read.

    Args:
        result: of the training.
        popularity: validation NDCG@10 of the ranking by popularity.
        unreachable: share of the validation targets that no list can hold, because their user has seen them.
    """
    found = result.metrics["ndcg@10"]
    if found > popularity:
        return []
    advice = "more train.patience and train.max_epochs (pointwise losses start slowly), or another loss, may help"
    if unreachable >= MANY_UNREACHABLE:
        advice = (
            f"{unreachable:.0%} of the validation targets are in the history of their user already, and "
            "evaluate.filter_seen=true keeps such items out of every list; the notes of the split stage name the cure"
        )
    return [
        f"the best validation ndcg@10, {found:.4f}, is not above that of the ranking by popularity, {popularity:.4f}: "
        f"{advice}"
    ]


def summary(config: Config, result: FitResult) -> dict[str, object]:
    """The metrics of a training run that ``dvc metrics`` shows; a synthetic log has no accuracy."""
    accuracy = {} if config.dataset.startswith("twin:") else result.metrics
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
