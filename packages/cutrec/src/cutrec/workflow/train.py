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
from cutrec.decide import UNREAD, Facts, decide, write_decisions
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, read_json, unchanged, write_json
from cutrec.paths import SETTINGS
from cutrec.workflow import training_inputs as inputs
from cutrec.workflow.checkpoints import run_folder
from cutrec.workflow.run_hash import run_hash
from rec_data import arrays
from rec_data.ids import read_ids
from rec_data.sequences.store import SequenceStore
from rec_models.errors import TrainingError
from rec_models.training.loop import OnEpoch, fit
from rec_models.training.result import FitResult

MANY_UNREACHABLE = 0.1
"""Share of unreachable validation targets that is worth a note, and from which on longer training is not advised."""


def train(
    config: Config,
    split: Path,
    out: Path,
    *,
    checkpoints: Path,
    confirm: Callable[[], None] = lambda: None,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Decide the settings that are ``auto`` and train, or resume the training that was interrupted.

    Writes ``model.ckpt`` (the epoch of the best validation NDCG@10), ``items.parquet`` (the catalogue that it ranks: a
    model and its ids stay together), ``settings.yaml`` (what was decided, and why), ``history.csv`` (one row per
    epoch), ``metrics.json`` and ``tensorboard/``. If another process trains the same, this one waits for it and takes
    its model.

    Args:
        config: the model, the loss and the training loop.
        split: the folder that `cutrec.workflow.split.split` wrote.
        out: the folder for the results.
        checkpoints: the folder for the state of interrupted runs. Each run has a folder of its own there, named by the
            hash of its settings, its split and its code, and removed when the run is complete.
        confirm: called when training is complete; if it raises, there are no results and the next call resumes.
        on_epoch: see `rec_models.training.loop.fit`.

    Raises:
        ConfigError: settings contradict each other or what was decided.
        StageError: a file of the split is missing, training failed, or another process replaced the split while it was
            read.
    """
    for name in ("items.parquet", "sequences/train.arrow", "sequences/validation.arrow"):
        verified(split / name)
    # Training starts one more process for each further device (train.devices), which keeps no results and no locks.
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    with ExitStack() as places:
        with unchanged(split):
            catalogue = read_output(read_ids, split / "items.parquet")
            hashes, sequences = {"items": catalogue.hash}, split / "sequences"
            train_store = read_output(SequenceStore.open, sequences / "train.arrow", hashes=hashes)
            validation_store = read_output(SequenceStore.open, sequences / "validation.arrow", hashes=hashes)
            facts = Facts.of(len(catalogue.names), train_store.lengths.numpy())
            config, decisions = decide(config, facts)
            unread = facts.unread(config)
            state = checkpoints / run_hash(config, split)
            if first:
                for decision in decisions:
                    print(decision, file=sys.stderr)
                places.enter_context(run_folder(checkpoints, state.name))
            place: AbstractContextManager[Path | str] = atomic_folder(out) if first else tempfile.TemporaryDirectory()
            folder = Path(places.enter_context(place))
            log = read_json(split / "summary.json").get("log_sha256") if (split / "summary.json").is_file() else None
            shutil.copyfile(catalogue.path, folder / "items.parquet")
            write_decisions(folder / SETTINGS.name, decisions)
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
                on_epoch=on_epoch,
            )
        except TrainingError as error:
            if error.on_every_rank and not first:
                sys.exit(1)
            raise StageError(str(error)) from error
        if result.is_first_rank and not config.dataset.startswith("twin:"):
            limits = notes(
                config,
                result,
                popularity=inputs.popularity_ndcg(config, validation_store, counts),
                unreachable=inputs.unreachable_share(config, validation_store),
                unread=unread,
            )
            for line in limits:
                print(f"note: {line}", file=sys.stderr)
        write_json(folder / "metrics.json", summary(config, result, unread))
        write_checksums(folder)
        if first:
            confirm()


def notes(config: Config, result: FitResult, *, popularity: float, unreachable: float, unread: float) -> list[str]:
    """What limits a model, each with what would help.

    Args:
        config: as trained.
        result: of the training.
        popularity: validation NDCG@10 of the ranking by popularity.
        unreachable: share of the validation targets that no list can hold, because their user has seen them.
        unread: share of the training interactions that no example contains.
    """
    lines = []
    if best_is_last(config, result):
        lines.append(
            f"the best epoch is the last of train.max_epochs={config.train.max_epochs}, so that more epochs may give a "
            f"better model: -S train.max_epochs={3 * config.train.max_epochs}"
        )
    if unread > UNREAD:
        lines.append(
            f"{unread:.0%} of the training interactions are never read, because they are older than the last "
            f"{config.max_seq_len} of their user: -S train.window={max(1, config.max_seq_len // 2)} reads them"
        )
    if unreachable >= MANY_UNREACHABLE:
        lines.append(
            f"{unreachable:.0%} of the validation targets are in the history of their user already, and "
            "evaluate.filter_seen=true keeps such items out of every list: -S evaluate.filter_seen=false ranks them; "
            "the notes of the split stage say whether copies of rows are the cause"
        )
    found = result.metrics["ndcg@10"]
    if found <= popularity:
        line = f"the best validation ndcg@10, {found:.4f}, is not above {popularity:.4f} of the ranking by popularity"
        if unreachable < MANY_UNREACHABLE:
            line += ": more train.patience (pointwise losses start slowly), or another loss, may help"
        lines.append(line)
    return lines


def best_is_last(config: Config, result: FitResult) -> bool:
    """Whether ``train.max_epochs`` ended a training that was still getting better."""
    return result.best_epoch == result.epochs == config.train.max_epochs


def summary(config: Config, result: FitResult, unread: float) -> dict[str, object]:
    """The metrics of a training run that ``dvc metrics`` shows; a synthetic log has no accuracy.

    `unread` is the share of the training interactions that no example contains.
    """
    accuracy = {} if config.dataset.startswith("twin:") else result.metrics
    return {
        "train_loss": round(result.train_loss, 6),
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "best_epoch_is_last": best_is_last(config, result),
        "unread_interactions": round(unread, 6),
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
