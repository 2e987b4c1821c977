"""`cutrec tune` on a tiny split: the defaults first, stopped in time, resumed, and never ended by one bad trial."""

import itertools
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cutrec.config import from_mapping
from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.nested import nest
from cutrec.workflow import tune as module
from cutrec.workflow.tune import tune
from cutrec.workflow.tune_result import Tuning, gains, preset_of, ranks_file
from rec_eval import rank_metrics
from rec_models.errors import TrainingError

AUTO = ("max_seq_len", "batch_size", "backbone.dropout", "backbone.scale_embeddings", "train.learning_rate")
STATED = {"loss": "cce", "backbone.hidden": 16, "train.max_epochs": 2, "train.patience": 2}


@pytest.fixture
def split(split_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(split_once / "data" / "split", tmp_path / "split"))


def point(**stated: Any) -> Config:
    given = {key.replace("__", "."): value for key, value in stated.items()}
    return from_mapping(nest(dict.fromkeys(AUTO, "auto") | STATED | given))


def outcome(found: Tuning) -> list[tuple[object, ...]]:
    """All but the times."""
    return [(trial.number, trial.settings, trial.ndcg, trial.epochs, trial.state) for trial in found.tried]


def test_a_search_begins_with_the_defaults_and_keeps_what_is_stated(split: Path, tmp_path: Path, capsys):
    found = tune(point(backbone__dropout=0.25, train__tracker="mlflow"), split, tmp_path, trials=3)
    default = found.default
    assert default is not None
    assert default.settings == found.space.settings(found.space.first)
    assert found.space.at(default.settings) == found.space.point
    assert sorted(trial.number for trial in found.tried) == [1, 2, 3]
    assert found.best.ndcg == max(trial.ndcg for trial in found.tried) >= default.ndcg
    assert not any({"backbone.dropout", "loss", "backbone.hidden"} & set(trial.settings) for trial in found.tried)
    preset = preset_of(found.space, found.best.settings)
    assert preset.items() >= (found.best.settings | STATED | {"backbone.dropout": 0.25}).items()
    assert not {"num_negatives", "backbone.mask_prob", "seed", "train.tracker"} & set(preset)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in said if line.startswith("trial")] == ["trial 1", "trial 2", "trial 3"]
    assert "trial 1 (the defaults): validation ndcg@10" in said[-3]

    ranks = np.load(ranks_file(found.folder, found.best.number))
    assert gains(ranks).mean() == pytest.approx(found.best.ndcg)
    assert gains(ranks).mean() == pytest.approx(rank_metrics(torch.from_numpy(ranks), [10])["ndcg@10"])
    assert (found.gain is None) == (found.best.number == 1)
    assert outcome(tune(point(backbone__dropout=0.25), split, tmp_path, trials=3)) == outcome(found)  # all are there
    assert not list(found.folder.glob("trial-*/"))  # no checkpoints are left


def test_a_search_that_is_stopped_in_the_middle_of_a_trial_goes_on_there(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = tune(point(), split, tmp_path / "whole", trials=3)

    ticks = itertools.count()  # a second passes with every look at the clock: before each trial and after each batch
    fake = SimpleNamespace(monotonic=lambda: float(next(ticks)), perf_counter=time.perf_counter)
    with monkeypatch.context() as patch:
        patch.setattr(module, "time", fake)
        first = tune(point(), split, tmp_path / "cut", trials=3, minutes=12 / 60)
    assert {(trial.number, trial.epochs, trial.state) for trial in first.tried} == {
        (1, 2, "complete"),
        (2, 1, "unfinished"),
    }
    assert (first.left, whole.left) == (2, 0)
    assert outcome(tune(point(), split, tmp_path / "cut", trials=3)) == outcome(whole)
    with pytest.raises(
        StageError, match=r"^no trial was validated: --minutes: 1e-06 was too short for the first epoch"
    ):
        tune(point(), split, tmp_path / "none", minutes=1e-6)


def test_a_trial_without_memory_fails_alone(split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fit = module.fit

    def without_memory(**options: Any) -> object:
        if options["training"].learning_rate == 0.0005:  # the decided default
            raise TrainingError("out of memory; lower batch_size")
        return fit(**options)

    monkeypatch.setattr(module, "fit", without_memory)
    found = tune(point(), split, tmp_path, trials=4)
    assert found.default is None
    assert found.not_tried[1] == "out of memory; lower batch_size"
    assert 1 <= len(found.tried) <= 3


def test_what_the_planner_finds_too_large_is_not_trained(split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "fit", lambda **_: pytest.fail("trained"))
    with pytest.raises(StageError, match=r"^no trial was validated: needs [0-9.]+ GiB of 0\.5, as predicted$"):
        tune(point(), split, tmp_path, memory_gib=0.5)


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"dataset": "twin:beauty"}, "^dataset: found 'twin:beauty', allowed: a log"),
        ({"train__devices": 2}, "^train.devices: found 2, allowed: 1; --jobs"),
        (
            {"max_seq_len": 8, "batch_size": 32, "backbone__dropout": 0.15, "backbone__scale_embeddings": True,
             "backbone__blocks": 4, "train__learning_rate": 0.01},
            "^params.yaml: found a value for every key that is searched",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(split: Path, tmp_path: Path, stated: dict[str, Any], says: str):
    with pytest.raises(StageError, match=says):
        tune(point(**stated), split, tmp_path)


@pytest.mark.slow
def test_two_processes_share_a_search(split: Path, tmp_path: Path):
    """The same trials as one process finds, because all of them are still drawn at random."""
    alone, together = (tune(point(), split, tmp_path / str(jobs), trials=4, jobs=jobs) for jobs in (1, 2))
    assert outcome(together) == outcome(alone)
