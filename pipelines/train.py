"""Stage ``train``: a model, its curves, its time and its memory.

    python -m pipelines.train

Reads params.yaml and ``data/split/``; writes into ``data/train/`` ``model.ckpt`` (the epoch of the best validation
NDCG@10), ``history.csv`` (a row an epoch), ``metrics.json`` and TensorBoard's ``tensorboard/``.

A run that was killed goes on from its last checkpoint at the next start. DVC deletes a stage's outputs before it runs
the stage again, so checkpoints live outside them, in ``.checkpoints/<hash of params, split and code>``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import params, stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from rec_data.batches import TrainingBatches
    from rec_data.sequences import SequenceStore
    from rec_models.backbones import Encoder
    from rec_models.settings import LossSettings, ModelSettings, TrainingSettings
    from rec_models.training import FitResult

SEQUENCES = stage.DATA / "split" / "sequences"
CODE = ("packages/*/src/**/*.py", "pipelines/params.py", "pipelines/ranking.py", "pipelines/train.py")


def main() -> None:
    """Train, resume if there is something to resume from."""
    point = params.load()

    import pyarrow.parquet as pq
    import torch

    from rec_data.sequences import SequenceStore
    from rec_models.errors import TrainingError
    from rec_models.training import fit

    items = pq.read_table(stage.DATA / "split" / "items.parquet", columns=["count"])
    counts = torch.tensor(items["count"].to_numpy())  # [V] int64
    train = SequenceStore.open(SEQUENCES / "train.arrow")
    validation = SequenceStore.open(SEQUENCES / "validation.arrow")
    checkpoints = stage.checkout() / ".checkpoints" / run_hash(point)
    with own_output() as out:
        try:
            result = fit(
                model=model_settings(point),
                loss=loss_settings(point),
                training=training_settings(point),
                num_items=len(counts),
                train_batches=make_batches(point, train, len(counts)),
                validate=make_validation(point, validation),
                out=out,
                checkpoint_dir=checkpoints,
                item_counts=counts,
            )
        except TrainingError as error:
            raise stage.StageError(str(error)) from error
        stage.write_json(out / "metrics.json", summary(result))
    if result.is_first_rank:
        shutil.rmtree(checkpoints, ignore_errors=True)


@contextmanager
def own_output() -> Iterator[Path]:
    """The stage's output for the first of several processes (``train.devices``), a passing folder for the others."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with stage.output(stage.DATA / "train") as out:
            yield out
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def run_hash(point: params.Params) -> str:
    """What a checkpoint belongs to: the settings that training reads, the split, and the code."""
    settings = dataclasses.asdict(point)
    for section in ("dataset", "download", "split"):  # they reach training through the split's files
        del settings[section]
    settings["evaluate"] = {"filter_seen": point.evaluate.filter_seen}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    code = sorted(path for pattern in CODE for path in Path().glob(pattern))
    for path in [*code, *sorted(SEQUENCES.iterdir()), stage.DATA / "split" / "items.parquet"]:
        with path.open("rb") as file:
            digest.update(f"{path.as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:16]


def model_settings(point: params.Params) -> ModelSettings:
    """The network of the point."""
    from rec_models.settings import ModelSettings

    return ModelSettings(model=point.model, max_seq_len=point.max_seq_len, **dataclasses.asdict(point.backbone))


def loss_settings(point: params.Params) -> LossSettings:
    """The loss of the point; what this loss has no use for is left out."""
    from rec_models.settings import LossSettings

    sce = {f"sce_{name}": value for name, value in dataclasses.asdict(point.losses.sce).items()}
    return LossSettings.pick(
        point.loss,
        num_negatives=point.num_negatives,
        gbce_t=point.losses.gbce.t,
        impl=point.impl,
        paper_faithful=point.paper_faithful,
        **dataclasses.asdict(point.negatives),
        **sce,
    )


def training_settings(point: params.Params) -> TrainingSettings:
    """The loop of the point."""
    from rec_models.settings import TrainingSettings

    loop = dataclasses.asdict(point.train)
    del loop["window"]  # of the batches
    return TrainingSettings(seed=point.seed, **loop)


def make_batches(point: params.Params, store: SequenceStore, num_items: int) -> Callable[[int, int], TrainingBatches]:
    """The training batches of each rank."""
    from rec_data.batches import TrainingBatches

    def make(rank: int, world_size: int) -> TrainingBatches:
        return TrainingBatches(
            store,
            num_items=num_items,
            task="masked_item" if point.model == "bert4rec" else "next_item",
            batch_size=point.batch_size,
            max_seq_len=point.max_seq_len,
            mask_prob=point.backbone.mask_prob,
            window=point.train.window,
            seed=point.seed,
            rank=rank,
            world_size=world_size,
        )

    return make


def make_validation(point: params.Params, store: SequenceStore) -> Callable[[Encoder], dict[str, float]]:
    """Exact ranks of the validation targets in the whole catalogue, as the test will rank."""
    import torch

    from pipelines import ranking
    from rec_eval import rank_metrics, target_ranks

    assert store.targets is not None
    targets = store.targets

    def validate(encoder: Encoder) -> dict[str, float]:
        batches = ranking.user_batches(
            encoder,
            store,
            batch_users=point.evaluate.batch_users,
            filter_seen=point.evaluate.filter_seen,
            title="validate",
        )
        ranks = [
            target_ranks(
                batch.queries,
                batch.items,
                targets[batch.start : batch.end],
                seen_offsets=batch.seen_offsets,
                seen_items=batch.seen_items,
            )
            for batch in batches
        ]
        return rank_metrics(torch.cat(ranks), [10])

    return validate


def summary(result: FitResult) -> dict[str, object]:
    """What ``dvc metrics`` shows of a training run."""
    return {
        "train_loss": round(result.train_loss, 6),
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        **{f"validation_{name}": round(value, 6) for name, value in result.metrics.items()},
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
