"""``cutrec update``: item ids stay, nothing is half written, no news change nothing, and mistakes are one line."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from cutrec import Recommender
from cutrec.cli import execute
from cutrec.errors import ConfigError, StageError
from cutrec.paths import MODEL, model_file
from cutrec.workflow import update as workflow
from cutrec.workflow.initial import is_updated
from rec_data.errors import DataError
from rec_models.training.checkpoint import ModelCheckpoint
from tests.docs.pages import ROOT, commands
from tests.small_log import small_log

SETTINGS = {
    "loss": "cce", "batch_size": 64, "max_seq_len": 16, "backbone": {"hidden": 16, "blocks": 1},
    "train": {"max_epochs": 3}, "split": {"validation_users": 0.1, "min_item_count": 2, "min_user_count": 2},
}  # fmt: skip
DAY = 1_700_000_000 + 150 * 86_400
"""The first moment of the new days."""
NEW = 9999
"""An item that only the new days have."""


def before_and_after() -> tuple[pl.DataFrame, pl.DataFrame]:
    """The log of the model, and new days with an item that is new."""
    rows = small_log(150)
    item = pl.when((pl.col("item_id") == 1003) & (pl.col("timestamp") >= DAY)).then(NEW).otherwise(pl.col("item_id"))
    rows = rows.with_columns(item.alias("item_id"))
    return rows.filter(pl.col("timestamp") < DAY), rows.filter(pl.col("timestamp") >= DAY)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    Recommender.fit(before_and_after()[0], out=folder, **SETTINGS)
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and a file of new days."""
    shutil.copytree(trained, tmp_path / "model")
    before_and_after()[1].write_csv(tmp_path / "days.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[int]:
    return pl.read_parquet(folder / "train" / "items.parquet")["original_id"].to_list()


def test_the_commands_of_the_page_run_one_day_after_the_other(place: Path):
    shutil.move(place / "model", place / "data")
    days = before_and_after()[1].sort("timestamp")
    days.head(300).write_parquet("new_days.parquet")
    days.tail(-300).write_parquet("next_day.parquet")
    for command in commands(ROOT / "docs/retrain-daily.md", "bash"):
        if "cutrec update" in command:
            execute(shlex.split(command)[3:])
    assert len(pl.read_parquet("data/update/download/log.parquet")) == sum(map(len, before_and_after()))
    assert Recommender.load("data/update").recommend(users=[3], k=2, frame="pyarrow").num_rows == 2


def test_ids_stay_and_the_next_day_is_the_same_command(place: Path, capsys: pytest.CaptureFixture[str]):
    old = names(place / "model")
    shutil.copytree(place / "model", place / "first")
    command = ["update", "--model", "model", "--log", "days.csv", "--out", "model"]
    execute(command)
    assert "1 new items; " in capsys.readouterr().out
    assert names(place / "model") == [*old, NEW]
    model = Recommender.load("model")
    assert [is_updated(model_file(place / name)) for name in ("model", "first")] == [True, False]  # for --refit
    assert NEW in model.similar_items(NEW, k=3, frame="pyarrow")[model._form.item].to_pylist()
    assert len(pl.read_parquet("model/download/log.parquet")) == sum(map(len, before_and_after()))
    with (place / "days.csv").open("a") as days:
        days.write(f"3,1000,{DAY - 1}\n")  # arrived late
    before = contents(place / "model")
    execute(command)  # all events are known now
    said = capsys.readouterr()
    assert re.search(r"are not after 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC, the latest", said.err)
    assert "they are skipped; the log lacks 1 of them, which training again would use" in said.err
    assert "no new events" in said.out
    assert contents(place / "model") == before


def test_without_new_events_the_model_is_copied_bit_for_bit(place: Path):
    before_and_after()[0].write_csv(place / "days.csv")
    execute(["update", "--model", "model/train/model.safetensors", "--log", "days.csv", "--out", "other"])
    one, other = contents(place / "model/train"), contents(place / "other/train")
    assert one == other
    assert (place / "other/download/log.parquet").read_bytes() == (place / "model/download/log.parquet").read_bytes()


def test_from_python_the_days_are_a_frame_and_the_old_model_stays(place: Path):
    model, (old, days) = Recommender.load("model"), before_and_after()
    before = contents(place / "model")
    same = model.update(old, out="same")
    assert contents(place / "same/train") == contents(place / "model/train")
    newer = same.update(days, out="newer", train={"max_epochs": 1})
    assert newer.metrics["epochs"] == 1
    assert names(place / "newer") == [*names(place / "model"), NEW]
    assert newer.recommend(users=[3], k=2, frame="polars").height == 2
    assert contents(place / "model") == before


def test_the_first_weights_are_those_of_the_model_by_item(place: Path):
    """With a learning rate that changes nothing, known items keep their vectors; a new one is near its neighbours."""
    old = ModelCheckpoint.read(place / "model/train" / MODEL.name).weights["item_table"]
    execute(["update", "--model", "model", "--log", "days.csv", "--out", "other", "-S", "train.learning_rate=1e-30"])
    table = ModelCheckpoint.read(place / "other/train" / MODEL.name).weights["item_table"]
    torch.testing.assert_close(table[: len(old)], old)
    vectors = torch.nn.functional.normalize(table, dim=1)
    successor, others = names(place / "other").index(1004), vectors[-1] @ vectors[:-1].T
    assert others[successor] > others.median()


def test_a_killed_update_leaves_the_model_and_a_rerun_works(place: Path, monkeypatch: pytest.MonkeyPatch):
    before, command = contents(place / "model"), ["update", "--model", "model", "--log", "days.csv", "--out", "model"]

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(workflow, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            execute(command)
    assert contents(place / "model") == before
    execute(command)
    assert names(place / "model")[-1] == NEW


def test_a_model_that_is_replaced_meanwhile_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch):
    split_update: Callable[..., dict] = workflow.split_update

    def replaced(*arguments: object, **options: object) -> dict:
        (place / "model/train/metrics.json").write_text("{}")
        return split_update(*arguments, **options)

    monkeypatch.setattr(workflow, "split_update", replaced)
    with pytest.raises(StageError, match=r"another process wrote it while it was read; run this again$"):
        execute(["update", "--model", "model", "--log", "days.csv", "--out", "other"])
    assert not any((place / "other").iterdir())


def test_a_second_update_of_the_same_folder_does_not_lose_the_days_of_the_first(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second has read the log when it waits for the first to end."""
    replaced, command = workflow.replaced_folder, ["update", "--model", "model", "--log", "days.csv", "--out", "model"]

    def waiting(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(workflow, "replaced_folder", replaced)
        execute(command)
        return replaced(*arguments, **options)

    monkeypatch.setattr(workflow, "replaced_folder", waiting)
    (place / "one.csv").write_text(f"user_id,item_id,timestamp\n1,1000,{DAY + 10**8}\n2,1001,{DAY + 10**8}")
    with pytest.raises(StageError, match=r"another process wrote it while it was read; run this again$"):
        execute([*command, "--log", "one.csv"])
    assert len(pl.read_parquet("model/download/log.parquet")) == sum(map(len, before_and_after()))


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        ("user,item,timestamp\n1,1000,1712960000", DataError, "dataset 'days.csv' lacks|dataset 'days.csv' has no"),
        (f"user_id,item_id,timestamp\n1,5555,{DAY + 1}", DataError, "found no event from .* fewer than 2 events"),
        (f"user_id,item_id,timestamp\nx1,1000,{DAY + 1}", DataError, "user_id: found 'x1' in the new events"),
    ],
    ids=["other columns", "unknown items only", "other ids"],
)
def test_events_that_cannot_be_used_are_one_line(place: Path, rows: str, error: type[Exception], says: str):
    (place / "days.csv").write_text(rows)
    before = contents(place / "model")
    with pytest.raises(error, match=says):
        execute(["update", "--model", "model", "--log", "days.csv", "--out", "model"])
    assert contents(place / "model") == before


def test_other_mistakes_are_one_line(place: Path):
    command = ["update", "--model", "model", "--log", "days.csv"]
    with pytest.raises(ConfigError, match=r"^backbone.hidden: found 32 with train.init_from=.*, allowed: 16"):
        execute([*command, "--out", "other", "-S", "backbone.hidden=32"])
    with pytest.raises(StageError, match=r"^--log: found 'nosuch', which is no file or folder, allowed: a path of"):
        execute(["update", "--model", "model", "--log", "nosuch"])
    (place / "full").mkdir()
    (place / "full/thesis.tex").touch()
    with pytest.raises(StageError, match=r"^--model: found the file full/thesis.tex, allowed: a folder that"):
        execute(["update", "--model", "full/thesis.tex", "--log", "days.csv"])
    with pytest.raises(StageError, match=r"^--out: found full with other files, allowed: a new folder"):
        execute([*command, "--out", "full"])
    with pytest.raises(StageError, match=r"^--model: found no full/model.safetensors, allowed: a folder that"):
        execute(["update", "--model", "full", "--log", "days.csv"])
    damaged = place / "damaged/train"
    shutil.copytree(place / "model", damaged.parent)
    (damaged / MODEL.name).write_bytes(b"of another format")
    (damaged / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=r"^train.init_from: found .*/damaged/train: .*: damaged, or no "):
        execute(["update", "--model", "damaged", "--log", "days.csv", "--out", "other"])
    shutil.rmtree(place / "model/download")
    with pytest.raises(StageError, match=r"^--model: found no log beside model/train, allowed: data/train of a check"):
        execute([*command, "--out", "other"])
