"""What makes another run, whose checkpoints are not resumed from, and what does not."""

from pathlib import Path

import numpy as np
import pytest

from cutrec.config_point import Config, Report, settled
from cutrec.errors import StageError
from cutrec.workflow.run_hash import run_hash, training_code
from rec_data.config import Split
from rec_data.sequences.store import write_store
from rec_eval.config import Evaluate
from rec_models.config import Negatives, Train

NAMES = ("split/sequences/train.arrow", "split/items.parquet", "code.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A split and some code, for the hash of a run."""
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, [1, 2])
    return tmp_path


def write(path: Path, items: list[int]) -> None:
    if path.suffix == ".arrow":
        ids = np.array(items, np.int32)
        write_store(path, items=ids, offsets=np.array([0, len(ids)]), user_ids=np.zeros(1, np.int32))
    else:
        path.write_text(repr(items))


def hashed(folder: Path, config: Config | None = None) -> str:
    return run_hash(config or Config(), folder / "split", {"code": folder / "code.py"})


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
    assert hashed(folder, other) != hashed(folder)


@pytest.mark.parametrize(
    "other",
    [
        Config(evaluate=Evaluate(k=(10,))),
        Config(split=Split(test_fraction=0.2)),
        Config(dataset="other"),
        Config(report=Report(item_names="a.csv")),
        Config(train=Train(tracker="mlflow")),
    ],
    ids=["k", "split", "dataset", "item_names", "tracker"],
)
def test_what_training_does_not_read_is_no_other_run(folder: Path, other: Config):
    assert hashed(folder, other) == hashed(folder)


def test_processes_with_the_same_batch_together_are_one_run(folder: Path):
    halves = Config(batch_size=64, train=Train(devices=2, table="sharded"))
    assert hashed(folder, halves) == hashed(folder, Config(batch_size=128))
    assert hashed(folder, Config(batch_size=128, train=Train(devices=2))) != hashed(folder, Config(batch_size=128))


def test_a_decided_value_and_the_same_in_params_are_one_run(folder: Path):
    decided = settled(Config(undecided=("loss",)), {"loss": "cce"})
    assert hashed(folder, decided) == hashed(folder, Config(loss="cce"))


@pytest.mark.parametrize("name", NAMES)
def test_another_split_or_other_code_is_another_run(folder: Path, name: str):
    before = hashed(folder)
    write(folder / name, [2, 1])
    assert hashed(folder) != before


def test_training_reads_the_kernels_and_no_reporting(folder: Path):
    assert (
        run_hash(Config(), folder / "split") == run_hash(Config(), folder / "split", training_code()) != hashed(folder)
    )
    code = training_code()
    for name in (
        "cutrec/workflow/ranking",
        "rec_models/config.py",
        "cce_kernels/full_api.py",
        "rec_eval/",
        "rec_data/",
    ):
        assert any(module.startswith(name) for module in code), name
    assert not [name for name in code if name.startswith(("cutrec/reporting", "cutrec/commands"))]
    assert all(path.is_file() for path in code.values())


def test_a_part_of_the_split_that_changed_is_another_run(folder: Path):
    whole = hashed(folder)
    sequences = folder / "split" / "sequences"
    (sequences / "train").mkdir()
    (sequences / "train.arrow").rename(sequences / "train" / "part-00001-of-00001.arrow")
    parts = hashed(folder)
    write(sequences / "train" / "part-00001-of-00001.arrow", [3])
    assert len({whole, parts, hashed(folder)}) == 3
    write(sequences / "test.arrow", [1])
    assert len({whole, parts, hashed(folder)}) == 3
    (sequences / "train" / "part-00001-of-00001.arrow").write_text("other")
    with pytest.raises(StageError, match=r"part-00001-of-00001.arrow is not a sequence store"):
        hashed(folder)
