"""Plans of points: sizes of published logs, of windows and of a split, and predictions as a table."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cutrec.config import from_mapping
from cutrec.decide import Facts
from cutrec.errors import ConfigError
from cutrec.workflow.plan import plan, sizes_from, sizes_of
from rec_models.planning import Calibration
from tests.split_parts import divide


def test_an_epoch_counts_optimizer_steps():
    one, three = (
        plan(from_mapping({"dataset": "beauty", "train": {"accumulate": n, "cuda_graphs": False}}), Calibration())
        for n in (1, 3)
    )
    assert one.sizes == three.sizes
    assert one.epoch_seconds == pytest.approx(one.sizes.steps * one.seconds.step)
    assert three.epoch_seconds == pytest.approx(-(-one.sizes.steps // 3) * three.seconds.step)


def test_a_published_log_and_its_synthetic_twin_have_the_same_sizes():
    assert sizes_of(from_mapping({"dataset": "beauty"})) == sizes_of(from_mapping({"dataset": "twin:beauty"}))


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_windows_that_slide_are_counted_as_training_cuts_them(model: str):
    from rec_data.sequences.batches import TrainingBatches
    from rec_data.sequences.store import SequenceStore

    lengths = np.random.default_rng(0).integers(2, 60, 400)
    point = from_mapping({"model": model, "batch_size": 16, "max_seq_len": 10, "train": {"window": 4}})
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    store = SequenceStore(torch.zeros(int(offsets[-1]), dtype=torch.int32), offsets, torch.arange(400), None)
    task = "masked_item" if model == "bert4rec" else "next_item"
    batches = TrainingBatches(store, num_items=5, task=task, batch_size=16, max_seq_len=10, window=4)
    real = [int(batch.offsets[-1]) for batch in batches.epoch(0)]
    sizes = sizes_from(point, Facts(5, lengths, 400))
    assert sizes.steps == len(batches)
    assert sizes.tokens == pytest.approx(np.mean(real), rel=0.02)
    assert sizes_from(point, Facts(5, lengths, 4000)).steps == pytest.approx(10 * len(batches), abs=10)


def test_a_log_is_planned_once_it_is_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"dataset: found 'demo', allowed: movielens_20m, beauty, .*; any other once"):
        sizes_of(from_mapping({}))
    from rec_data.config import Split
    from rec_data.splits.split import split_log
    from tests.small_log import small_log

    small_log().write_parquet(tmp_path / "log.parquet")
    (tmp_path / "data/split").mkdir(parents=True)
    summary = split_log(tmp_path / "log.parquet", tmp_path / "data/split", Split(strategy="leave_one_out"))
    (tmp_path / "data/split/summary.json").write_text("{}")
    (tmp_path / "data/download").mkdir()
    (tmp_path / "data/download/summary.json").write_text('{"dataset": "demo"}')
    sizes = sizes_of(from_mapping({"batch_size": 32, "max_seq_len": 4}))
    assert sizes.items == summary["items"]
    assert 2 <= sizes.mean_length <= 4
    assert sizes.steps == 5
    divide(tmp_path / "data/split", 3)
    assert sizes_of(from_mapping({"batch_size": 32, "max_seq_len": 4})) == sizes
    logs = "movielens_20m, beauty, zvuk, megamarket, 30music, gowalla, completejourney"
    known = f"{logs}, twin:NAME or twin:NAME@SCALE of one of them"
    with pytest.raises(ConfigError, match=f"dataset: found 'nope', allowed: {known}, demo, whose split is in data/sp"):
        sizes_of(from_mapping({"dataset": "nope"}))
