"""Where relative paths of the user belong."""

from pathlib import Path

import pytest

from cutrec.config import read_yaml
from cutrec.paths import STAGES, checkpoint_folder, live_checkout
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
