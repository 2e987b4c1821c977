"""What makes another run, whose checkpoints are not resumed from, and what does not."""

from pathlib import Path

import pytest

from cutrec.config import Config, Evaluate, Negatives, Split, Train
from cutrec.workflow.run_hash import run_hash


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A split and some code, for the hash of a run."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "data/split/sequences/train.arrow",
        "data/split/items.parquet",
        "packages/a/src/a/code.py",
        "pipelines/train.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    "other",
    [
        Config(loss="cce"),
        Config(seed=1),
        Config(train=Train(learning_rate=0.1)),
        Config(negatives=Negatives(sharing="none")),
        Config(evaluate=Evaluate(filter_seen=False)),
    ],
    ids=["loss", "seed", "learning rate", "sharing", "filter_seen"],
)
def test_another_setting_is_another_run(folder: Path, other: Config):
    assert run_hash(other) != run_hash(Config())


@pytest.mark.parametrize(
    "other",
    [Config(evaluate=Evaluate(k=(10,))), Config(split=Split(test_fraction=0.2)), Config(dataset="other")],
    ids=["k", "split", "dataset"],
)
def test_what_training_does_not_read_is_no_other_run(folder: Path, other: Config):
    assert run_hash(other) == run_hash(Config())


@pytest.mark.parametrize(
    "name", ["data/split/sequences/train.arrow", "data/split/items.parquet", "packages/a/src/a/code.py"]
)
def test_another_split_or_other_code_is_another_run(folder: Path, name: str):
    before = run_hash(Config())
    (folder / name).write_text("changed")
    assert run_hash(Config()) != before
