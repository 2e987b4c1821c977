"""Train once more on the whole log, for recommending: no events are held out for validation or test.

The network, the loss and the training loop are those of an existing model. Without validation there is no early
stopping, so training takes as many epochs as the best epoch of that model. The log is filtered as the split filtered
it; all remaining items are in the catalogue, including those that the training part of the split does not contain.
"""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cutrec.checksums import checksum, read_output, verified, write_checksums
from cutrec.config import batch_settings, loss_settings, model_settings, training_settings
from cutrec.config_point import Config, as_written, settled
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, read_json, unchanged, write_json
from cutrec.paths import MODEL, OLD_MODEL, SETTINGS
from cutrec.reporting.model_card import CARD, model_card
from cutrec.stores import refuse_parts
from cutrec.workflow import training_inputs as inputs
from cutrec.workflow.checkpoints import run_folder
from cutrec.workflow.initial import is_updated, trained_values
from cutrec.workflow.ranking import refuse_other_catalogue
from cutrec.workflow.run_hash import run_hash
from cutrec.workflow.train import summary
from rec_data.ids import hash_ids, read_ids
from rec_data.sequences.histories import read_catalogue
from rec_models.config import TrainingSettings
from rec_models.errors import TrainingError
from rec_models.training.checkpoint import ModelCheckpoint
from rec_models.training.loop import fit


def refit(
    config: Config, model: Path, log: Path, split: Path, out: Path, *, checkpoints: Path, device: torch.device
) -> Path:
    """Train on the whole log.

    Args:
        config: must be the configuration that the model was trained with; it describes the batches. What it leaves
            undecided is taken from the model.
        model: the file of a model whose settings and best epoch are used.
        log: the whole log.
        split: the folder of the split; its summary says how the log was filtered.
        out: the folder for the new model, with the files that `cutrec.workflow.train.train` writes.
        checkpoints: the folder for the state of interrupted runs; an interrupted refit resumes at the next call.
        device: where to train.

    Returns:
        The file of the new model.

    Raises:
        StageError: the configuration or the split is not the model's, the split is missing, or training failed.
    """
    checkpoint = ModelCheckpoint.read(verified(model))
    config = as_trained(config, checkpoint)
    refuse_other_config(config, checkpoint)
    if is_updated(model):
        raise StageError(
            f"--refit: found {model}, which was trained further from another model (train.init_from) and for too few "
            "epochs to begin with random weights, allowed: a model that was not"
        )
    refuse_parts(split, "--refit trains on the whole log in memory; without it, the model of data/train recommends")
    with unchanged(log, split):
        refuse_other_catalogue(model, checkpoint, read_output(read_ids, split / "items.parquet"))
        if not (path := split / "summary.json").is_file():
            raise StageError(f"--refit: found no {path}, which says how the log was filtered (dvc repro)")
        about, log_hash = read_json(split / "summary.json"), checksum(log)
        found, names = read_catalogue(
            log,
            min_item_count=about["min_item_count"],
            min_user_count=about["min_user_count"],
            tie_seed=config.download.tie_seed(config.seed),
        )
        name = f"{run_hash(config, split)}-refit-{checkpoint.epoch}"
    # One process takes the batches that all processes of the model's run took together.
    whole = dataclasses.replace(config, batch_size=config.batch_size * checkpoint.training.devices)
    print(f"refit: {checkpoint.epoch} epochs on {len(found.store):,} users and {len(names):,} items")
    counts = torch.bincount(found.store.items, minlength=len(names))
    dense = pa.array(range(len(names)), pa.int32())
    catalogue = pa.table({"item_id": dense, "original_id": names, "count": pa.array(counts.numpy())})
    with run_folder(checkpoints, name) as state, atomic_folder(out) as folder:
        try:
            result = fit(
                model=checkpoint.model,
                loss=checkpoint.loss,
                training=loop_settings(checkpoint, device),
                num_items=len(names),
                train_batches=inputs.make_batches(whole, found.store, len(names)),
                batching=batch_settings(whole),
                validate=None,
                out=folder,
                checkpoint_dir=state,
                item_counts=counts,
                catalogue=hash_ids(names),
                log=log_hash,
            )
        except TrainingError as error:
            raise StageError(str(error)) from error
        pq.write_table(catalogue, folder / "items.parquet")
        metrics = summary(whole, result)
        write_json(folder / "metrics.json", metrics)
        (folder / CARD).write_text(model_card(whole, about, metrics, whole=True), encoding="utf-8")
        if (decided := model.with_name(SETTINGS.name)).is_file():
            shutil.copyfile(decided, folder / decided.name)
        write_checksums(folder)
        # The files move one by one, items.parquet before the model. A kill in between leaves no model instead of a
        # model with the ids of another one.
        for name in (MODEL.name, OLD_MODEL):
            (out / name).unlink(missing_ok=True)
    return out / MODEL.name


def loop_settings(checkpoint: ModelCheckpoint, device: torch.device) -> TrainingSettings:
    """The training loop of the model, in one process on this device, for as many epochs as its best epoch."""
    accelerator: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
    loop = dataclasses.replace(checkpoint.training, max_epochs=checkpoint.epoch, devices=1, table="replicated")
    return dataclasses.replace(loop, accelerator=accelerator)


def as_trained(config: Config, checkpoint: ModelCheckpoint) -> Config:
    """The configuration with the model's own values for its undecided keys; old models do not record all of them."""
    found = {"num_negatives": config.num_negatives} | trained_values(checkpoint)
    names = {key: key.rpartition(".")[2] for key in config.undecided}
    return settled(config, {key: found[name] for key, name in names.items() if name in found})


def refuse_other_config(config: Config, checkpoint: ModelCheckpoint) -> None:
    """Refuse a configuration that the model was not trained with.

    Old checkpoints do not record their batches; then one line of warning is printed.

    Raises:
        StageError: naming the first setting in which params.yaml and the model differ.
    """
    pairs: list[tuple[Any, Any]] = [
        (model_settings(config), checkpoint.model),
        (loss_settings(config), checkpoint.loss),
        (training_settings(config), checkpoint.training),
    ]
    if checkpoint.batching is None:
        print(
            "warning: the model does not say what its batches held: batch_size and train.window are taken from "
            "params.yaml",
            file=sys.stderr,
        )
    else:
        pairs.append((batch_settings(config), checkpoint.batching))
    for asked, trained in pairs:
        own = dataclasses.asdict(trained)
        for name, value in dataclasses.asdict(asked).items():
            if value != own[name]:
                key = next((key for key in as_written(config) if key.split(".")[-1] == name), name)
                raise StageError(
                    f"--refit: params.yaml has {key}={value!r}, the model was trained with {own[name]!r}; "
                    "restore the model's params.yaml (dvc exp apply), or train again (dvc repro)"
                )
