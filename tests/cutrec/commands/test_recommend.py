"""Recommending for all users of a log or some of them, with the model at hand."""

import dataclasses
import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cutrec.checksums import write_checksums
from cutrec.cli import execute
from cutrec.errors import StageError
from cutrec.workflow import recommend
from rec_models.training.checkpoint import ModelCheckpoint
from tests.cutrec.commands.recommending import expected, run


def test_every_user_of_the_log_gets_the_best_items_after_their_whole_history(trained: Path):
    log = pl.read_parquet("data/download/log.parquet").sort("timestamp")
    histories = {user: log.filter(user_id=user)["item_id"].to_list() for user in log["user_id"].unique().sort()}
    found = run("--k", "3", "--batch-users", "64")
    assert found.columns == ["user_id", "item_id", "rank", "score"]
    assert sorted(found.drop("score").rows()) == sorted(expected(histories, 3))
    assert (found.group_by("user_id").agg(pl.col("score").is_sorted(descending=True).all())["score"]).all()


def test_the_suffix_decides_what_is_written(trained: Path):
    items = pl.read_parquet("data/train/items.parquet")
    named = items.with_columns(pl.format('{} "b", c', "original_id").alias("original_id"))
    named.write_parquet("data/train/items.parquet")
    model = Path("data/train/model.safetensors")
    dataclasses.replace(ModelCheckpoint.read(model), catalogue=None).save(model)
    rows = pl.DataFrame({"user_id": ["a,b", "c"], "item_id": named["original_id"][:2]})
    rows.write_parquet("h.parquet")
    expected = run("--histories", "h.parquet", "--k", "4", "--batch-users", "1")
    execute(["recommend", "--histories", "h.parquet", "--k", "4", "--batch-users", "1", "--out", "out/top.csv"])
    found = pl.read_csv("out/top.csv", schema=expected.schema)
    assert found.drop("score").rows() == expected.drop("score").rows()
    assert found["score"].to_list() == pytest.approx(expected["score"].to_list())


def test_lists_of_some_users_of_the_log_are_printed(trained: Path, capsys: pytest.CaptureFixture[str]):
    everybody = run("--k", "3")
    Path("data/recommend").mkdir(exist_ok=True)
    one, other = everybody["user_id"].unique(maintain_order=True)[3:5]
    capsys.readouterr()
    execute(["recommend", "--k", "3", "--user", str(one), "--user", str(other), "--user", "nobody"])
    printed = capsys.readouterr()
    found = pl.read_csv(printed.out.encode(), schema=everybody.schema)
    wanted = everybody.filter(pl.col("user_id").is_in([one, other]))
    assert found.drop("score").sort("user_id", "rank").rows() == wanted.drop("score").sort("user_id", "rank").rows()
    assert "users that data/download/log.parquet does not hold: 'nobody'" in printed.err
    assert not list(Path("data/recommend").iterdir())
    execute(["recommend", "--k", "3", "--out", "-"])
    found = pl.read_csv(capsys.readouterr().out.encode(), schema=everybody.schema)
    assert found.drop("score").equals(everybody.drop("score"))
    assert run("--k", "3", "--user", str(one))["user_id"].unique().to_list() == [one]  # with --out
    with pytest.raises(StageError, match="nobody has an item"):
        execute(["recommend", "--user", "nobody"])


def test_seen_items_come_back_on_request(trained: Path):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    pl.DataFrame({"user_id": [1], "item_id": [names[:5]]}).write_parquet("h.parquet")
    found = run("--histories", "h.parquet", "--k", str(len(names)), "--keep-seen")
    assert sorted(found["item_id"]) == names
    assert len(run("--histories", "h.parquet", "--k", str(len(names)))) == len(names) - 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--k", "0"], "--k: found 0, allowed: 1 to 1,000,000; --help"),
        (["--k", "two"], "--k: found two, allowed: 1 to 1,000,000; --help"),
        (["--batch-users", "-1"], "--batch-users: found -1, allowed: 1 to 1,000,000"),
        (["--k", "1" + 5000 * "0"], "allowed: 1 to 1,000,000; --help"),
        (["--batch-users", "100000000000000000000"], "--batch-users: found 100000000000000000000, allowed: 1 to 1,0"),
        (["--k", "41"], "--k: found 41, allowed: 1 to 40, the size of the catalogue"),
        (["--model", "none.ckpt"], "--model: found no none.ckpt, allowed: what the train stage wrote (dvc repro)"),
        (["--histories", "none.csv"], "histories 'none.csv': no file"),
        (["--histories", ""], "histories: found '', allowed: a path, a folder or a glob"),
        (["--kk", "3"], "unrecognized arguments: --kk 3; --help lists the options"),
        (["--device", "tpu"], "device"),
        (["--user-column", "visitor"], "--user-column: it names a column of --histories, which is not given"),
        (
            ["--out", "data/split/top.parquet"],
            "found data/split, allowed: outside of data/split, which the pipeline writes",
        ),
        (["-S", "download.ties=row_order"], "-S: it changes how --histories are read, which are not given"),
        (
            ["--histories", "h.csv", "-S", "loss=ce"],
            "found 'loss=ce', allowed: download.KEY=... of params.yaml",
        ),
        (["--out", "lists.xlsx"], "--out: found lists.xlsx, allowed: a file whose name ends in .parquet or .csv"),
        (
            ["--refit", "--out", "data/split/../train/top.parquet"],
            "allowed: outside of data/train, which the pipeline writes",
        ),
    ],
)
def test_mistakes_get_one_line(trained: Path, arguments: list[str], says: str):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        execute(["recommend", *arguments])
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(trained: Path):
    with pytest.raises(StageError, match="--device: found cuda, but torch finds no GPU here, allowed: cpu"):
        execute(["recommend", "--device", "cuda"])


def test_a_catalogue_of_another_size_is_refused(trained: Path):
    pl.DataFrame({"original_id": [1, 2]}).write_parquet("data/train/items.parquet")
    with pytest.raises(StageError, match=r"ranks 40 items, but data/train/items.parquet holds 2"):
        execute(["recommend"])


def test_a_catalogue_of_equal_length_with_other_ids_is_refused(trained: Path):
    items = pl.read_parquet("data/train/items.parquet")
    items.with_columns(pl.col("original_id").reverse()).write_parquet("data/train/items.parquet")
    says = r"^data/train/items.parquet is not the catalogue that data/train/model.safetensors was trained with"
    with pytest.raises(StageError, match=says):
        execute(["recommend"])


def test_the_same_ids_written_by_another_tool_are_the_same_catalogue(trained: Path):
    before = run("--k", "3")
    ids = pl.read_parquet("data/train/items.parquet")["original_id"].cast(pl.Int16)
    pq.write_table(pa.table({"original_id": ids.to_arrow()}), "data/train/items.parquet", compression="gzip")
    assert run("--k", "3").rows() == before.rows()


def test_a_model_that_does_not_know_its_catalogue_works_with_a_note(trained: Path, capsys: pytest.CaptureFixture[str]):
    before = run("--k", "3")
    model = Path("data/train/model.safetensors")
    dataclasses.replace(ModelCheckpoint.read(model), catalogue=None).save(model)
    capsys.readouterr()
    assert run("--k", "3").equals(before)
    assert (
        "note: data/train/model.safetensors is of an earlier version, which did not record" in capsys.readouterr().err
    )


def test_another_log_than_that_of_training_gets_one_note(trained: Path, capsys: pytest.CaptureFixture[str]):
    log, model = Path("data/download/log.parquet"), Path("data/train/model.safetensors")
    digest = hashlib.sha256(log.read_bytes()).hexdigest()
    dataclasses.replace(ModelCheckpoint.read(model), log=digest).save(model)
    run("--k", "3")
    run("--refit", "--k", "2")
    refitted = ("--model", "out/top.refit/model.safetensors", "--k", "2")
    run(*refitted)
    assert "another log" not in capsys.readouterr().err
    other = pl.read_parquet(log).with_columns(pl.col("user_id") + 1000)  # the same items, as another data set may have
    other.write_parquet(log)
    for path, arguments in ((str(model), ("--k", "3")), (refitted[1], refitted)):
        run(*arguments)
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "another log" in line]
        assert line.startswith(f"note: {log} is another log than {path} was trained with: lists are right only if ")


def test_the_log_beside_the_model_is_ranked_from(trained: Path, capsys: pytest.CaptureFixture[str]):
    """As `Recommender.load` does: that of an update has the events of the new days."""
    last = pl.read_parquet("data/download/log.parquet").sort("timestamp", maintain_order=True).tail(200)
    longer = last.with_columns(pl.col("user_id") + 1000, pl.col("timestamp") + 86_400)
    before = run("--k", "3")
    shutil.copytree("data/train", "data/update/train")
    Path("data/update/download").mkdir()
    longer.write_parquet("data/update/download/log.parquet")
    model = Path("data/update/train/model.safetensors")
    digest = hashlib.sha256(Path("data/update/download/log.parquet").read_bytes()).hexdigest()
    dataclasses.replace(ModelCheckpoint.read(model), log=digest).save(model)
    write_checksums(model.parent)
    for folder in ("data/update", "data/update/train", model):
        found = run("--k", "3", "--model", str(folder))
        assert set(found["user_id"]) == set(longer["user_id"])
    execute(["recommend", "--k", "3", "--model", "data/update", "--part", "1/1", "--out", "out/lists"])
    parts = pl.read_parquet("out/lists/*.parquet")
    assert parts.sort("user_id", "rank").drop("score").equals(found.sort("user_id", "rank").drop("score"))
    assert "another log" not in capsys.readouterr().err
    shutil.rmtree("data/update/download")
    assert run("--k", "3", "--model", "data/update").drop("score").equals(before.drop("score"))
    assert "note: data/download/log.parquet is another log than data/update/train/" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["read_histories", "ranked_batches"])
def test_a_log_that_is_replaced_before_the_lists_are_written_is_refused(
    step: str, trained: Path, monkeypatch: pytest.MonkeyPatch
):
    """The users of the old log may have been forgotten."""
    go_on = getattr(recommend, step)

    def replace(*arguments: Any, **options: Any) -> Any:
        shutil.copyfile("data/download/log.parquet", "copy")
        Path("copy").replace("data/download/log.parquet")
        return go_on(*arguments, **options)

    monkeypatch.setattr(recommend, step, replace)
    Path("out/top.parquet").unlink(missing_ok=True)
    with pytest.raises(StageError, match=r"log.parquet: found that another process wrote it"):
        run("--k", "3")
    assert not list(Path("out").glob("top.parquet*"))


def test_ids_are_those_of_the_model_even_if_the_split_was_made_anew(trained: Path):
    before = run("--k", "3")
    items = pl.read_parquet("data/split/items.parquet")
    items.with_columns(pl.col("original_id").reverse()).write_parquet("data/split/items.parquet")
    assert run("--k", "3").equals(before)


def test_a_model_without_its_catalogue_is_refused(trained: Path):
    Path("data/train/items.parquet").unlink()
    with pytest.raises(StageError, match=r"--model: found no data/train/items.parquet, which says what items"):
        execute(["recommend"])


def test_before_the_pipeline_has_run_the_missing_file_is_named(workplace):
    workplace({})
    with pytest.raises(StageError, match=r"--model: found no data/train, allowed: what the train stage"):
        execute(["recommend"])
