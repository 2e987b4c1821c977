"""A folder after download, split and train of a small log, without training: the weights are random."""

import dataclasses
import shutil
from pathlib import Path

import torch

from cutrec import config
from cutrec.config import batch_settings, loss_settings, model_settings, training_settings
from cutrec.paths import LOG, MODEL, SPLIT
from rec_data.ids import read_ids
from rec_data.splits.split import split_log
from rec_models.encoders import build_encoder
from rec_models.training.checkpoint import ModelCheckpoint
from tests.small_log import small_log, write_params

SETTINGS = {"dataset": "log.parquet", "max_seq_len": 8, "backbone.hidden": 8, "loss": "cce"}


def write_trained(folder: Path) -> Path:
    """Write params.yaml, the log, its split and a model into an empty folder, and return it."""
    for place in (LOG.parent, SPLIT):
        (folder / place).mkdir(parents=True)
    write_params(folder, SETTINGS)
    small_log().write_parquet(folder / LOG)
    split_log(folder / LOG, folder / SPLIT)
    write_model(folder)
    return folder


def write_model(folder: Path, *, seed: int = 0) -> None:
    """Write a model of the catalogue of the split."""
    point = dataclasses.replace(config.load(folder / "params.yaml"), undecided=())
    items = read_ids(folder / SPLIT / "items.parquet")
    torch.manual_seed(seed)
    encoder = build_encoder(model_settings(point), len(items.names))
    torch.nn.init.normal_(encoder.item_table)
    (folder / MODEL.parent).mkdir(exist_ok=True)
    ModelCheckpoint(
        model=encoder.settings,
        loss=loss_settings(point),
        training=training_settings(point),
        num_items=len(items.names),
        epoch=1,
        metrics={"ndcg@10": 0.1},
        weights=encoder.state_dict(),
        batching=batch_settings(point),
        catalogue=items.hash,
    ).save(folder / MODEL)
    shutil.copyfile(items.path, folder / MODEL.parent / "items.parquet")
