"""Simulated splits of twins: the sizes and lengths of a real split, the catalogue and popularity of the twin."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cutrec.config import from_mapping
from cutrec.errors import ConfigError
from cutrec.workflow.synthetic_split import synthetic_split
from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.sequences.store import SequenceStore
from rec_data.sources.synthetic import SHAPES, item_counts, write_synthetic_log
from rec_data.splits.split import split_log

POINT = from_mapping({"dataset": "twin:gowalla@0.02"})


def test_sizes_are_those_of_a_split_of_the_whole_twin(tmp_path: Path):
    write_synthetic_log(SHAPES["gowalla"].scaled(0.02), tmp_path / "log.parquet", seed=0)
    (tmp_path / "split").mkdir()
    summary = split_log(tmp_path / "log.parquet", tmp_path / "split", Split(strategy="temporal"))
    store = SequenceStore.open(tmp_path / "split" / "sequences" / "train.arrow")
    trained = int((store.lengths >= 2).sum())
    log = synthetic_split(POINT)
    assert abs(log.train_users - trained) <= 0.01 * trained
    assert abs(log.validation_users - trained * 0.05 / 0.95) <= 0.1 * log.validation_users + 2
    assert 0 <= log.num_items - summary["items"] <= 0.01 * log.num_items
    assert np.median(log.lengths) == pytest.approx(np.median(store.lengths[store.lengths >= 2].numpy()), rel=0.05)


def test_stores_have_the_twins_catalogue_and_popularity():
    log = synthetic_split(POINT)
    store = log.train_store(5000, 33, seed=1)
    assert len(store) == 5000
    assert int(store.lengths.min()) >= 2
    assert int(store.lengths.max()) == 33
    assert store.items.dtype == torch.int32
    shape = SHAPES["gowalla"].scaled(0.02)
    expected = item_counts(shape) / shape.interactions
    drawn = np.bincount(store.items.numpy(), minlength=log.num_items) / store.items.numel()
    assert len(drawn) == log.num_items
    assert drawn[:10].sum() == pytest.approx(expected[:10].sum(), rel=0.1)
    assert np.abs(drawn - expected).sum() < 0.5


def test_validation_has_a_target_and_no_empty_history():
    store = synthetic_split(POINT).validation_store(300, 16, seed=1)
    assert store.targets is not None
    assert len(store.targets) == len(store) == 300
    assert int(store.lengths.min()) >= 1
    assert int(store.lengths.max()) <= 16


def test_the_same_seed_gives_the_same_histories():
    log = synthetic_split(POINT)
    one, two, other = (log.train_store(50, 20, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.items, two.items)
    assert torch.equal(one.offsets, two.offsets)
    assert not torch.equal(one.offsets, other.offsets)


def test_the_published_sizes_scale_up_from_the_sample():
    log = synthetic_split(from_mapping({"dataset": "twin:beauty"}))
    assert log.num_items == 176_450
    assert 0.8 * 673_952 < log.train_users < 0.95 * 673_952
    assert len(log.item_counts) == 176_450
    assert int(log.pool.max()) < 176_450


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"dataset": "demo"}, "dataset: found 'demo', allowed: a twin"),
        ({"dataset": "twin:beauty", "split": {"strategy": "leave_one_out"}}, "split.strategy: found 'leave_one_out'"),
        ({"dataset": "twin:beauty", "split": {"validation": "time"}}, "split.validation: found 'time', allowed for"),
        ({"dataset": "twin:netflix"}, "no twin 'netflix'"),
    ],
)
def test_anything_else_is_named(values: dict, says: str):
    with pytest.raises((ConfigError, DataError), match=says):
        synthetic_split(from_mapping(values))
