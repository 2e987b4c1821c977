"""Where relative paths of the user belong."""

from pathlib import Path

import pytest

from cutrec.config import read_yaml
from cutrec.paths import STAGES, checkpoint_folder, live_checkout, model_file
from tests.small_log import ROOT


def test_a_queued_experiment_belongs_to_the_checkout_that_it_was_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy = tmp_path / "repo" / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert live_checkout() == (tmp_path / "repo").resolve()
    assert checkpoint_folder() == (tmp_path / "repo" / ".checkpoints").resolve()
    monkeypatch.chdir(tmp_path)
    assert live_checkout() == tmp_path.resolve()


def test_the_folders_of_the_stages_are_those_of_the_pipeline():
    assert set(STAGES) == set(read_yaml(ROOT / "dvc.yaml")["stages"])


def test_a_model_is_found_by_its_folder_and_an_old_one_if_there_is_no_other(tmp_path: Path):
    assert model_file(tmp_path) == tmp_path / "model.safetensors"
    (tmp_path / "train").mkdir()
    for name in ("train/model.ckpt", "train/model.safetensors", "model.ckpt", "model.safetensors"):
        (tmp_path / name).touch()
        assert model_file(tmp_path) == tmp_path / name
    assert model_file(tmp_path / "train/model.ckpt") == tmp_path / "train/model.ckpt"
