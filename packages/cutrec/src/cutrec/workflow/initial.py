"""The weights that training starts from, if ``train.init_from`` names a trained model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from cutrec.checksums import checksum, read_output, verified
from cutrec.config import read_yaml
from cutrec.config_point import AUTO_KEYS, Config, settled
from cutrec.decide import Decision, Facts
from cutrec.decide_update import SHAPES, decide_update
from cutrec.errors import StageError
from cutrec.paths import SETTINGS, live_checkout, model_file
from cutrec.workflow.ranking import refuse_other_catalogue
from cutrec.workflow.training_inputs import make_batches
from rec_data.arrays import Mask
from rec_data.ids import Ids, read_ids
from rec_data.sequences.store import SequenceStore
from rec_models.config import ModelSettings
from rec_models.encoders import Encoder, build_encoder
from rec_models.errors import CheckpointError
from rec_models.training.checkpoint import ModelCheckpoint

KEY = "train.init_from"
NEAR = 3
"""Neighbours on each side, in the histories, whose mean is the first vector of a new item."""
RARE = 0.1
"""The share of the known items, those with the fewest events, that count as rare."""


class Start(NamedTuple):
    """A trained model and the ids of its items."""

    path: Path
    checkpoint: ModelCheckpoint
    catalogue: Ids


def start_model(config: Config) -> Path | None:
    """The file of the model that ``train.init_from`` names; a relative path starts from the checkout."""
    folder = config.train.init_from
    return None if folder is None else model_file(live_checkout() / folder)


def read_start(config: Config, path: Path) -> Start:
    """Read the model that ``train.init_from`` names.

    Raises:
        StageError: there is no model, it is damaged, or its items are others.
    """
    key = f"train.init_from: found {config.train.init_from}"
    if not path.is_file():
        raise StageError(f"{key}, where there is no model, allowed: a folder that training wrote, or null")
    try:
        checkpoint = ModelCheckpoint.read(verified(path))
        catalogue = read_output(read_ids, path.parent / "items.parquet")
    except CheckpointError as error:
        raise StageError(f"{key}: {error}") from error
    refuse_other_catalogue(path, checkpoint, catalogue)
    return Start(path, checkpoint, catalogue)


def trained_values(checkpoint: ModelCheckpoint) -> dict[str, Any]:
    """The settings that a model was trained with, by the last part of their keys; old models do not record all."""
    found: dict[str, Any] = {}
    for settings in (checkpoint.model, checkpoint.loss, checkpoint.training, checkpoint.batching):
        found |= {} if settings is None else vars(settings)
    if found["num_negatives"] is None:
        del found["num_negatives"]  # of a loss that has no use for it
    return found


def is_updated(model: Path) -> bool:
    """Whether a model began with the weights of another one, as its settings say."""
    settings = model.with_name(SETTINGS.name)
    return settings.is_file() and KEY in read_yaml(settings)["decided"]


def decide_further(
    config: Config, start: Start, facts: Facts, histories: SequenceStore, new: Mask | None
) -> tuple[Config, list[Decision]]:
    """`cutrec.decide_update.decide_update` for a model; `new` is that of `cutrec.workflow.training_inputs.SplitData`.

    What was decided says that the weights are a model's, so that nobody trains for as few epochs from random ones.
    """
    values = trained_values(start.checkpoint)
    trained = {key: values[name] for key in (*AUTO_KEYS, *SHAPES) if (name := key.rpartition(".")[2]) in values}
    share = None
    if new is not None:
        point = settled(config, {key: trained[key] for key in config.undecided if key in trained})
        batches = make_batches(replace(point, batch_size=1), histories, facts.items, new)(0, 1)
        share = len(batches) / len(batches.examples)
    config, decisions = decide_update(config, facts, trained, share)
    content = checksum(start.path)  # which does not depend on where the model was
    config = replace(config, train=replace(config.train, init_from=content))
    return config, [*decisions, Decision(KEY, content, "the SHA-256 of the model whose weights are the first ones")]


def first_weights(start: Start, names: pa.Array, histories: SequenceStore) -> Callable[[ModelSettings, int], Encoder]:
    """What builds the network: the weights of a model, and a row of the item table for each item by its original id.

    An item that the model does not know gets the mean of the vectors of its neighbours in the training histories. The
    length of a vector decides how high its item is ranked, and a mean is short: it is scaled half way, by the geometric
    mean, to the usual length for rare items. Without neighbours that the model knows, it is the mean of all vectors.

    Args:
        start: the model.
        names: ``[V]`` original ids by dense id.
        histories: the training histories.
    """
    known = start.catalogue.names
    if pa.types.is_integer(known.type) != pa.types.is_integer(names.type):
        raise StageError(
            f"train.init_from: found item ids of the type {known.type} in {start.catalogue.path}, allowed: "
            f"{names.type}, as in the log"
        )
    source = pc.fill_null(pc.index_in(names, value_set=known.cast(names.type)), -1).to_numpy(zero_copy_only=False)
    trained = start.checkpoint.weights["item_table"].float()  # [V', D]
    table = trained[torch.from_numpy(source.clip(0)).long()]  # [V, D]
    is_new = source < 0
    if is_new.any():
        table[torch.from_numpy(is_new)] = _new_rows(table, is_new, histories)

    def build(settings: ModelSettings, num_items: int) -> Encoder:
        encoder = build_encoder(settings, num_items)
        encoder.load_state_dict({**start.checkpoint.weights, "item_table": table})
        return encoder

    return build


def _new_rows(table: Tensor, is_new: np.ndarray, histories: SequenceStore) -> Tensor:
    """``[n, D]`` rows of the n new items of a table [V, D], whose other rows are trained."""
    items, offsets = histories.items.numpy(), histories.offsets.numpy()
    places = np.flatnonzero(is_new[items])
    user = np.searchsorted(offsets, places, side="right") - 1
    number = np.cumsum(is_new) - 1  # of a new item among the new ones
    total, count = torch.zeros(int(is_new.sum()), table.shape[1]), torch.zeros(int(is_new.sum()), 1)
    for distance in (step for step in range(-NEAR, NEAR + 1) if step):
        near = places + distance
        usable = (near >= offsets[user]) & (near < offsets[user + 1])
        usable[usable] = ~is_new[items[near[usable]]]
        which = torch.from_numpy(number[items[places[usable]]])
        total.index_add_(0, which, table[torch.from_numpy(items[near[usable]]).long()])
        count.index_add_(0, which, torch.ones(len(which), 1))
    trained, events = table[torch.from_numpy(~is_new)], np.bincount(items, minlength=len(is_new))[~is_new]
    mean = torch.where(count > 0, total / count.clamp_min(1), trained.mean(0))  # [n, D]
    rare = torch.from_numpy(np.argsort(events, kind="stable")[: max(1, int(RARE * len(events)))])
    usual = trained[rare].norm(dim=1).mean()
    rows: Tensor = mean * (usual / mean.norm(dim=1, keepdim=True).clamp_min(1e-12)).sqrt()
    return rows
