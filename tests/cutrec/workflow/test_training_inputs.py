"""The settings of training come from the keys that name them, of every loss and every point."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cutrec.config import loss_settings, model_settings, training_settings
from cutrec.config_point import Config
from cutrec.decide import decide
from cutrec.errors import StageError
from cutrec.workflow.training_inputs import make_batches, read_split, users_at_once, without_address
from rec_data.sequences.store import SequenceStore
from rec_data.sequences.subsets import StoreParts
from rec_models.config import Gbce, Losses, Negatives, Train
from rec_models.losses import LOSSES
from tests.cutrec.test_config import SHIPPED
from tests.split_parts import divide


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_takes_what_it_uses_of_one_set_of_params(loss: str):
    settings = loss_settings(dataclasses.replace(Config(), loss=loss))
    assert settings.loss == loss
    assert settings.num_negatives == {"ce": None, "cce": None, "sce": None, "bce": 1}.get(loss, 512)
    assert settings.sharing == (None if loss in ("ce", "cce", "sce") else "tile")
    assert settings.gbce_t == (0.75 if loss == "gbce" else None)
    assert settings.sce_buckets == (443 if loss == "sce" else None)


def test_settings_come_from_the_keys_that_name_them():
    point = Config(
        loss="gbce",
        num_negatives=7,
        negatives=Negatives(sampling="popularity", alpha=0.5, sharing="batch"),
        losses=Losses(gbce=Gbce(t=0.25)),
        train=Train(max_epochs=3, patience=2, learning_rate=0.01, weight_decay=0.1, precision="32-true"),
        seed=9,
        max_seq_len=12,
    )
    loss = loss_settings(point)
    assert (loss.num_negatives, loss.sampling, loss.alpha, loss.sharing, loss.gbce_t) == (
        7,
        "popularity",
        0.5,
        "batch",
        0.25,
    )
    loop = training_settings(point)
    assert (loop.max_epochs, loop.patience, loop.learning_rate, loop.weight_decay, loop.precision, loop.seed) == (
        3,
        2,
        0.01,
        0.1,
        "32-true",
        9,
    )
    model = model_settings(point)
    assert (model.model, model.hidden, model.max_seq_len) == ("sasrec", 64, 12)


def test_every_grid_point_makes_settings():
    from pipelines.paper.points import table_points

    for faithful in (False, True):
        for point in table_points(SHIPPED, paper_faithful=faithful):
            loss_settings(point.params)


@pytest.mark.parametrize(
    ("lengths", "users"),
    [([5] * 1000, 80), ([20] * 1000, 20), ([40] * 1000, 10), ([5] * 900 + [400] * 100, 10), ([3], 80)],
    ids=["short", "half", "full", "some long", "one user"],
)
def test_no_validation_batch_has_more_items_than_full_histories(lengths: list[int], users: int):
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    store = SequenceStore(torch.zeros(int(offsets[-1]), dtype=torch.int32), offsets, torch.arange(len(lengths)), None)
    assert users_at_once(store, 10, 40) == users


@pytest.mark.parametrize("parts", [2, 5])
def test_training_reads_the_same_of_a_split_in_parts(parts: int, split_once: Path, tmp_path: Path):
    whole = read_split(split_once / "data/split")
    found = read_split(divide(Path(shutil.copytree(split_once / "data/split", tmp_path / "split")), parts))
    assert isinstance(found.train, StoreParts)
    assert len(found.train) == len(whole.train)
    assert torch.equal(found.counts, whole.counts)
    assert decide(Config(), found.facts) == decide(Config(), whole.facts)
    for name in ("items", "offsets", "user_ids", "targets"):
        assert torch.equal(getattr(found.validation, name), getattr(whole.validation, name))


def test_a_damaged_part_is_named_with_the_cure(split_once: Path, tmp_path: Path):
    """Its head was read with the split, and all of it only when training opens it."""
    split = divide(Path(shutil.copytree(split_once / "data/split", tmp_path / "data/split")), 2)
    found = read_split(split)
    path = split / "sequences/train/part-00002-of-00002.arrow"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    batches = make_batches(Config(batch_size=8), found.train, len(found.counts))
    with pytest.raises(StageError, match=r"part-00002-of-00002\.arrow.*; `dvc repro -f split` makes it again$"):
        batches(0, 1)


def test_training_histories_may_lie_behind_an_address(
    split_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("REC_DATA_CACHE", str(tmp_path / "cache"))
    split, bucket = split_once / "data/split", tmp_path / "bucket"
    divide(Path(shutil.copytree(split, bucket)), 2)
    address = f"file://{bucket}/sequences"
    found, whole = read_split(split, address), read_split(split)
    assert isinstance(found.train, StoreParts)
    assert len(found.train) == len(whole.train)
    assert decide(Config(), found.facts) == decide(Config(), whole.facts)
    make_batches(Config(batch_size=8), found.train, len(found.counts))(1, 2)
    assert [path.name for path in (tmp_path / "cache").rglob("*.arrow")] == ["part-00002-of-00002.arrow"]
    point = Config(train=Train(sequences=address))
    assert without_address(point, found.train).train.sequences not in (None, address)  # the hash of the content
    other = divide(Path(shutil.copytree(split, tmp_path / "other")), 3, run="another")
    with pytest.raises(StageError, match=r"of another split than .*other, with the run run, allowed: another$"):
        read_split(other, address)
    with pytest.raises(StageError, match=r"train.sequences: .*bucket/train: found no part"):
        read_split(split, f"file://{bucket}")
    with pytest.raises(StageError, match=r"train.sequences: found .* with train.init_from, allowed: null$"):
        without_address(Config(train=Train(sequences=address, init_from="model")), found.train)
