"""The stage ``train`` around the training loop: metrics, notes, errors of several processes."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cutrec.config import read_yaml
from cutrec.config_point import Config
from cutrec.console import run_and_exit
from cutrec.errors import ConfigError, StageError
from cutrec.reporting.remarks import no_gain
from cutrec.workflow import train
from cutrec.workflow.checkpoints import COMPLETE
from cutrec.workflow.training_inputs import popularity_ndcg, unreachable_share
from rec_data.sequences.store import SequenceStore
from rec_eval.config import Evaluate
from rec_models.config import Train
from rec_models.errors import SettingsError, TrainingError
from rec_models.training.result import FitResult

Make = Callable[[dict[str, Any]], Path]

RESULT = FitResult(
    train_loss=2.5,
    best_epoch=1,
    epochs=2,
    metrics={"ndcg@5": 0.125, "ndcg@10": 0.25, "recall@10": 0.5},
    epoch_seconds=1.0,
    whole_epoch_seconds=1.5,
    peak_memory_gib=0.25,
    loop_peak_memory_gib=0.25,
    peak_memory_kind="peak of a test",
    waited_share=0.0,
    tokens_per_second=10.0,
    device="cpu",
    precision="32-true",
    history=[],
    is_first_rank=True,
)


@pytest.mark.parametrize(
    ("dataset", "shown"), [("demo", ["validation_ndcg@10", "validation_recall@10"]), ("twin:beauty@0.01", [])]
)
def test_a_twin_has_no_accuracy_in_its_metrics(dataset: str, shown: list[str]):
    found = train.summary(Config(dataset=dataset), RESULT, 0.25)
    assert [name for name in found if name.startswith("validation")] == shown
    assert (found["train_loss"], found["best_epoch"], found["whole_epoch_seconds"]) == (2.5, 1, 1.5)
    assert found["unread_share"] == 0.25


@pytest.mark.parametrize("filter_seen", [True, False])
def test_no_patience_is_advised_where_targets_cannot_be_reached(filter_seen: bool):
    store = SequenceStore(
        items=torch.tensor([0, 1, 2, 3, 4], dtype=torch.int32),
        offsets=torch.tensor([0, 2, 4, 5]),
        user_ids=torch.arange(3, dtype=torch.int32),
        targets=torch.tensor([0, 1, 4], dtype=torch.int32),
    )
    share = unreachable_share(Config(evaluate=Evaluate(filter_seen=filter_seen)), store)
    assert share == (pytest.approx(2 / 3) if filter_seen else 0)
    line = no_gain("validation", 0.0394, 0.0412, share).line
    said = "the validation NDCG@10 of the model, 0.0394, is not above that of the ranking by popularity, 0.0412: "
    assert line.startswith(said)
    assert ("patience" in line) == (not filter_seen)
    assert ("the note on the split" in line) == filter_seen
    assert "the note on the split" not in no_gain("validation", 0.0394, 0.0412, share, updated=True).line
    assert ("67% of the validation targets are in the history of their user" in line) == filter_seen


@pytest.mark.parametrize(("filter_seen", "ranks"), [(True, [1, 2, None]), (False, [2, 3, None])])
def test_popularity_is_measured_as_validation_measures(filter_seen: bool, ranks: list[int | None]):
    """Items 0 to 11 from the most popular one down; each user has seen item 0 or nothing before the target."""
    store = SequenceStore(
        items=torch.tensor([0, 0, 0, 3], dtype=torch.int32),
        offsets=torch.tensor([0, 1, 2, 4]),
        user_ids=torch.arange(3, dtype=torch.int32),
        targets=torch.tensor([1, 2, 11 if not filter_seen else 3], dtype=torch.int32),
    )
    expected = sum(1 / math.log2(rank + 1) for rank in ranks if rank is not None) / 3
    point = Config(evaluate=Evaluate(filter_seen=filter_seen))
    assert popularity_ndcg(point, store, torch.arange(12, 0, -1)) == pytest.approx(expected)


@pytest.mark.parametrize(("rank", "everywhere", "lines"), [("0", True, 1), ("1", True, 0), ("1", False, 1)])
def test_what_all_processes_find_is_printed_once(
    rank: str,
    everywhere: bool,
    lines: int,
    split_once: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def fail(**_: object) -> None:
        raise TrainingError("the loss is nan", on_every_rank=everywhere)

    monkeypatch.setattr(train, "fit", fail)
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(SystemExit) as caught:
        run_and_exit(
            lambda: train.train(Config(), split_once / "data/split", tmp_path / "train", checkpoints=tmp_path / "state")
        )
    assert caught.value.code == 1
    assert capsys.readouterr().err.count("the loss is nan") == lines
    assert not (tmp_path / "train").exists()


def test_settings_that_do_not_fit_the_machine_are_named_as_written(
    split_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(**_: object) -> None:
        raise SettingsError("table", "sharded", "replicated", devices=2)

    monkeypatch.setattr(train, "fit", fail)
    with pytest.raises(ConfigError, match=r"train\.table: found 'sharded' with train\.devices=2, allowed: replicated"):
        train.train(Config(), split_once / "data/split", tmp_path / "train", checkpoints=tmp_path / "state")


def test_a_complete_training_writes_its_outputs(
    split_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fit(*, out: Path, checkpoint_dir: Path, **_: object) -> FitResult:
        checkpoint_dir.mkdir(parents=True)
        (out / "model.safetensors").write_text("weights")
        return dataclasses.replace(RESULT, metrics={"ndcg@10": 0.0})

    monkeypatch.setattr(train, "fit", fit)
    split = split_once / "data/split"
    train.train(Config(undecided=("loss",)), split, tmp_path / "train", checkpoints=tmp_path / "state")
    assert {path.name for path in (tmp_path / "train").iterdir()} == {
        "model.safetensors", "items.parquet", "metrics.json", "settings.yaml", "README.md", "SHA256SUMS",
    }  # fmt: skip
    assert (tmp_path / "train/items.parquet").read_bytes() == (split / "items.parquet").read_bytes()
    assert [path.name for path in (tmp_path / "state").glob("*/*")] == [COMPLETE]
    assert read_yaml(tmp_path / "train/settings.yaml")["decided"]["loss"]["value"] == "cce"
    said = capsys.readouterr().err
    assert "loss: cce, because the exact softmax over" in said
    assert "note: the validation NDCG@10 of the model, 0.0000, is not above that of the ranking by" in said


def test_a_training_that_is_not_confirmed_keeps_its_checkpoints_and_writes_nothing(
    split_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fit(*, out: Path, checkpoint_dir: Path, **_: object) -> FitResult:
        checkpoint_dir.mkdir(parents=True)
        (checkpoint_dir / "last.ckpt").write_text("state")
        (out / "model.safetensors").write_text("weights")
        return RESULT

    def refuse() -> None:
        raise StageError("params.yaml")

    monkeypatch.setattr(train, "fit", fit)
    with pytest.raises(StageError, match=r"params\.yaml"):
        train.train(
            Config(), split_once / "data/split", tmp_path / "train", checkpoints=tmp_path / "state", confirm=refuse
        )
    assert [path.name for path in (tmp_path / "state").glob("*/*")] == ["last.ckpt"]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(train, "find_spec", lambda _: None)
    says = (
        r"^train.tracker: found wandb, which is not installed here, allowed: none, or uv pip install 'cutrec\[wandb\]'$"
    )
    with pytest.raises(StageError, match=says):
        train.train(Config(train=Train(tracker="wandb")), tmp_path / "split", tmp_path / "out", checkpoints=tmp_path)
