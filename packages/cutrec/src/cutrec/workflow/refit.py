"""Train once more on the whole log, for recommending: nothing is held out for validation or test.

The network, the loss and the loop are those of the model at hand. There is nothing to stop early by, so training takes
as many epochs as that model's best one had taken. The log is filtered as the split filtered it; every item that is left
is in the catalogue, also those that the split's training part never saw.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cutrec import config
from cutrec.workflow import outputs as stage

if TYPE_CHECKING:
    import torch

    from rec_models.config import TrainingSettings
    from rec_models.training.checkpoint import ModelCheckpoint


def refit(point: config.Config, model: Path, log: Path, out: Path, device: torch.device) -> Path:
    """Train on all of a log.

    Args:
        point: params.yaml; must be the point that the model was trained at, whose batches it describes.
        model: a checkpoint whose settings and best epoch are taken over.
        log: the whole log.
        out: a folder; it gets ``model.ckpt``, ``items.parquet`` (the catalogue), ``history.csv`` and ``tensorboard/``.
        device: where to train.

    Returns:
        The new checkpoint. A refit that was killed goes on from its last checkpoint at the next call.

    Raises:
        StageError: params.yaml is not the model's, the split is missing, or training failed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from cutrec.workflow.run_hash import run_hash
    from cutrec.workflow.training_inputs import batch_settings, make_batches
    from rec_data.sequences.histories import read_catalogue
    from rec_models.errors import TrainingError
    from rec_models.training.checkpoint import ModelCheckpoint
    from rec_models.training.loop import fit

    checkpoint = ModelCheckpoint.read(model)
    refuse_other_point(point, checkpoint)
    summary_path = stage.DATA / "split" / "summary.json"
    if not summary_path.is_file():
        raise stage.StageError(f"--refit: found no {summary_path}, which says how the log was filtered (dvc repro)")
    summary = stage.read_json(summary_path)
    found, names = read_catalogue(
        log, min_item_count=summary["min_item_count"], min_user_count=summary["min_user_count"]
    )
    counts = torch.bincount(found.store.items, minlength=len(names))
    # One process takes what all processes of the model's run took together.
    whole = dataclasses.replace(point, batch_size=point.batch_size * checkpoint.training.devices)
    checkpoints = stage.checkout() / ".checkpoints" / f"{run_hash(point)}-refit-{checkpoint.epoch}"
    print(f"refit: {checkpoint.epoch} epochs on {len(found.store):,} users and {len(names):,} items")
    catalogue = pa.table({"item_id": pa.array(range(len(names)), pa.int32()), "original_id": names})
    with stage.output(out) as fresh:
        try:
            fit(
                model=checkpoint.model,
                loss=checkpoint.loss,
                training=loop(checkpoint, device),
                num_items=len(names),
                train_batches=make_batches(whole, found.store, len(names)),
                batching=batch_settings(whole),
                validate=None,
                out=fresh,
                checkpoint_dir=checkpoints,
                item_counts=counts,
            )
        except TrainingError as error:
            raise stage.StageError(str(error)) from error
        pq.write_table(catalogue, fresh / "items.parquet")
        # The files move one by one, items.parquet before model.ckpt: whoever is killed in between leaves no model,
        # rather than one with the ids of another.
        (out / "model.ckpt").unlink(missing_ok=True)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return out / "model.ckpt"


def loop(checkpoint: ModelCheckpoint, device: torch.device) -> TrainingSettings:
    """The model's loop, one process of this device, as long as the model's best epoch."""
    accelerator: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
    return dataclasses.replace(checkpoint.training, max_epochs=checkpoint.epoch, devices=1, accelerator=accelerator)


def refuse_other_point(point: config.Config, checkpoint: ModelCheckpoint) -> None:
    """Refuse to train with batches that the model was not trained with.

    A checkpoint of before batches were recorded in it says nothing about them: one line of warning then.

    Raises:
        StageError: naming the first setting in which params.yaml and the model differ.
    """
    from cutrec.workflow.training_inputs import batch_settings, loss_settings, model_settings, training_settings

    pairs: list[tuple[Any, Any]] = [
        (model_settings(point), checkpoint.model),
        (loss_settings(point), checkpoint.loss),
        (training_settings(point), checkpoint.training),
    ]
    if checkpoint.batching is None:
        print(
            "warning: the model does not say what its batches held: batch_size and train.window are taken from "
            "params.yaml",
            file=sys.stderr,
        )
    else:
        pairs.append((batch_settings(point), checkpoint.batching))
    for asked, trained in pairs:
        own = dataclasses.asdict(trained)
        for name, value in dataclasses.asdict(asked).items():
            if value != own[name]:
                raise stage.StageError(
                    f"--refit: params.yaml has {name}={value!r}, the model was trained with {own[name]!r}; "
                    "bring back the model's params.yaml (dvc exp apply), or train anew (dvc repro)"
                )
