"""Recommending with a model that has seen everything: ``cutrec recommend --refit``."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from cutrec import Recommender, config
from cutrec.checksums import write_checksums
from cutrec.cli import execute
from cutrec.config import loss_settings
from cutrec.errors import StageError
from cutrec.workflow import refit
from rec_models.config import Train
from rec_models.training.checkpoint import ModelCheckpoint
from tests.cutrec.commands.recommending import decided, run
from tests.old_model import write_old_model


@pytest.mark.filterwarnings("ignore::cutrec.UnknownUsersWarning")
def test_a_refit_sees_every_event_and_every_item(trained: Path):
    point = decided()
    log = pl.read_parquet("data/download/log.parquet")
    extra = pl.DataFrame({"user_id": [0] * 5, "item_id": [9] * 5, "timestamp": [1_800_000_000] * 5})
    pl.concat([log, extra]).write_parquet("data/download/log.parquet")  # an item that only the future has
    found = run("--refit", "--k", "2")
    assert found["user_id"].n_unique() == log["user_id"].n_unique()
    catalogue = pl.read_parquet("out/top.refit/items.parquet")
    assert sorted(catalogue["original_id"]) == sorted({*log["item_id"], 9})
    checkpoint = ModelCheckpoint.read(Path("out/top.refit/model.safetensors"))
    assert (checkpoint.num_items, checkpoint.epoch) == (len(catalogue), 1)
    assert checkpoint.loss == loss_settings(point)
    popular = Recommender.load("out/top.refit").recommend(histories={"new": []}, k=40, fallback="popularity")
    assert (
        popular["score"].to_list()
        == sorted(pl.concat([log, extra])["item_id"].value_counts()["count"], reverse=True)[:40]
    )
    again = run("--model", "out/top.refit/model.safetensors", "--k", "2")  # takes the catalogue that lies beside it
    assert again.drop("score").rows() == found.drop("score").rows()


def test_a_model_of_version_0_1_ranks_and_is_refitted(trained: Path, refitted_once: Path):
    before, model = run("--k", "3"), Path("data/train/model.safetensors")
    write_old_model(ModelCheckpoint.read(model), model.with_name("model.ckpt"))
    model.unlink()
    assert run("--k", "3").equals(before)
    assert run("--k", "3", "--model", "data/train/model.ckpt").equals(before)
    refitted = run("--k", "3", "--refit")
    assert {path.name for path in Path("out/top.refit").iterdir()} >= {"README.md", "SHA256SUMS", "metrics.json"}
    assert run("--k", "3", "--model", "out/top.refit").equals(refitted)
    assert run("--k", "3", "--model", str(refitted_once / "out/top.refit")).equals(refitted)


@pytest.mark.parametrize("option", ["--refit", "--keep-seen"])
def test_a_damaged_model_is_refused_even_if_only_its_settings_are_read(trained: Path, option: str):
    write_checksums(Path("data/train"))
    model = Path("data/train/model.safetensors")
    model.write_bytes(model.read_bytes().replace(b'"epoch":"1"', b'"epoch":"9"'))
    with pytest.raises(StageError, match=r"model\.safetensors and data/train/SHA256SUMS do not fit each other"):
        execute(["recommend", option])


@pytest.mark.parametrize("broken", ["writing the ids", "items.parquet", "model.safetensors"])
def test_a_refit_that_is_killed_never_pairs_a_model_with_other_ids(
    refitted_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
):
    monkeypatch.chdir(shutil.copytree(refitted_once, tmp_path / "checkout"))
    kept = {name: Path("out/top.refit", name).read_bytes() for name in ("items.parquet", "model.safetensors")}
    log = pl.read_parquet("data/download/log.parquet")
    extra = pl.DataFrame({"user_id": [0] * 5, "item_id": [9] * 5, "timestamp": [1_800_000_000] * 5})
    pl.concat([log, extra]).write_parquet("data/download/log.parquet")  # another catalogue
    move = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target) == Path("out/top.refit", broken):
            raise KeyboardInterrupt
        return move(self, target)

    def killed_at_once(*_: object) -> None:
        raise KeyboardInterrupt

    if broken == "writing the ids":
        monkeypatch.setattr("pyarrow.parquet.write_table", killed_at_once)
    else:
        monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(["recommend", "--refit", "--out", "out/top.parquet"])
    model = Path("out/top.refit/model.safetensors")
    if model.exists():
        assert {name: Path("out/top.refit", name).read_bytes() for name in kept} == kept


def test_a_refit_trains_as_long_as_the_best_epoch(trained: Path):
    checkpoint = dataclasses.replace(ModelCheckpoint.read(Path("data/train/model.safetensors")), epoch=7)
    loop = refit.loop_settings(checkpoint, torch.device("cpu"))
    assert dataclasses.replace(loop, max_epochs=20, accelerator="auto") == checkpoint.training
    assert (loop.max_epochs, loop.accelerator) == (7, "cpu")


def test_a_refit_at_another_point_is_refused(trained: Path):
    point = dataclasses.replace(decided(), train=Train(learning_rate=0.5))
    with pytest.raises(StageError, match=r"has train.learning_rate=0.5, the model was trained with 0.001"):
        refit.refuse_other_config(point, ModelCheckpoint.read(Path("data/train/model.safetensors")))


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ({"batch_size": 256}, "has batch_size=256, the model was trained with 128"),
        ({"train": Train(window=4)}, "has train.window=4, the model was trained with None"),
    ],
)
def test_a_refit_with_other_batches_is_refused(trained: Path, point: dict[str, Any], says: str):
    other = dataclasses.replace(decided(), **point)
    with pytest.raises(StageError, match=says):
        refit.refuse_other_config(other, ModelCheckpoint.read(Path("data/train/model.safetensors")))


def test_a_model_that_does_not_know_its_batches_is_refitted_with_a_warning(
    trained: Path, capsys: pytest.CaptureFixture[str]
):
    checkpoint = dataclasses.replace(ModelCheckpoint.read(Path("data/train/model.safetensors")), batching=None)
    refit.refuse_other_config(decided(), checkpoint)
    assert "warning: the model does not say what its batches held" in capsys.readouterr().err


def test_what_params_leaves_open_is_taken_from_the_model(trained: Path):
    checkpoint = ModelCheckpoint.read(Path("data/train/model.safetensors"))
    assert refit.as_trained(config.load(), checkpoint) == decided()
    old = dataclasses.replace(checkpoint, batching=None)
    assert refit.as_trained(config.load(), old).undecided == ("batch_size", "train.window")


def test_a_refit_after_another_split_is_refused(trained: Path):
    items = pl.read_parquet("data/split/items.parquet")
    items.with_columns(pl.col("original_id").reverse()).write_parquet("data/split/items.parquet")
    with pytest.raises(
        StageError, match=r"^data/split/items.parquet is not the catalogue that data/train/model.safetensors"
    ):
        execute(["recommend", "--refit"])
