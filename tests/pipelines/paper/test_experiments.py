"""What git tells of an experiment's code: edited or not, or unknown."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from cutrec.environment import revision
from pipelines.paper import experiments
from pipelines.paper.experiments import Experiment, parse


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit of code, settings, a lock, metrics and results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUTREC_REVISION", raising=False)
    for name in ("pipelines/train.py", "params.yaml", "dvc.lock", "data/train/metrics.json", "results/tables.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old\n")
    git("init", "-q")
    commit()
    return tmp_path


def git(*command: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(["git", *identity, *command], check=True, capture_output=True, text=True).stdout.strip()


def commit() -> str:
    git("add", ".")
    git("commit", "-qm", "some")
    return git("rev-parse", "HEAD")


def experiment(baseline: str, commit: str, state: str = "finished") -> Experiment:
    return Experiment(name="one", state=state, baseline=baseline, params={}, commit=commit)


@pytest.mark.parametrize(
    ("name", "edited"),
    [
        ("pipelines/train.py", True),
        ("pipelines/new.py", True),
        ("params.yaml", False),
        ("dvc.lock", False),
        ("data/train/metrics.json", False),
        ("results/tables.md", False),
    ],
)
def test_code_that_differs_from_the_baseline_is_edited(checkout: Path, name: str, edited: bool):
    baseline = git("rev-parse", "HEAD")
    (checkout / name).write_text("new\n")
    git("add", ".")
    assert str(revision()).endswith("+") == edited  # a run in the tree itself says the same
    assert experiments.is_edited(experiment(baseline, commit())) == edited


def test_where_git_has_no_such_commit_nothing_is_said(checkout: Path):
    baseline = git("rev-parse", "HEAD")
    assert not experiments.is_edited(experiment(baseline, "0" * 40))
    assert not experiments.is_edited(experiment(baseline, ""))


def test_the_commit_of_an_experiment_is_read():
    data: dict[str, Any] = {"params": {}, "metrics": {}}
    shown = [{"rev": "c0ffee", "experiments": [{"name": "one", "revs": [{"rev": "abcdef", "data": data}]}]}]
    assert [found.commit for found in parse(shown)] == ["abcdef"]
