"""Whatever is wrong with a log or a setting: one line that says what and where, exit code 1, no half-written output."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from cutrec.config import load
from cutrec.console import run_and_exit
from pipelines import download, evaluate, report, source, split, train
from tests.small_log import small_log

Make = Callable[[dict[str, Any]], Path]


def run_until_it_fails(capsys: pytest.CaptureFixture[str]) -> str:
    """Run the stages that read the log, as DVC would; return the line that the failing one printed."""
    for module in (source, download, split):
        with pytest.raises(SystemExit) as caught:
            run_and_exit(lambda stage=module: stage.main(load()))
        name = module.__name__.split(".")[-1]
        left = [path for path in Path("data").rglob("*") if path.is_file()] if Path("data").exists() else []
        if caught.value.code == 1:
            error = capsys.readouterr().err.strip().splitlines()[-1]
            assert not [path for path in left if path.is_relative_to(Path("data") / name)], "half-written output"
            assert not list(Path("data").glob(".tmp-*")), "a temporary folder was left behind"
            return error
        assert caught.value.code == 0
    raise AssertionError("nothing failed")


def broken(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], None]:
    return lambda path: change(small_log()).write_parquet(path)


LOGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no such file": (lambda path: None, "log.parquet"),
    "an empty file": (lambda path: path.write_bytes(b""), "log.parquet"),
    "no rows": (broken(lambda log: log.head(0)), "no rows"),
    "not a parquet": (lambda path: path.write_text("user_id,item_id\n1,2\n"), "log.parquet"),
    "a missing column": (broken(lambda log: log.drop("item_id")), "item_id"),
    "null users": (broken(lambda log: log.with_columns(user_id=pl.lit(None, dtype=pl.Int64))), "user_id"),
    "one null item": (
        broken(lambda log: log.with_columns(item_id=pl.when(pl.arange(pl.len()) == 3).then(None).otherwise("item_id"))),
        "item_id",
    ),
    "null times": (broken(lambda log: log.with_columns(timestamp=pl.lit(None, dtype=pl.Int64))), "timestamp"),
    "times that are no times": (broken(lambda log: log.with_columns(timestamp=pl.lit("yesterday"))), "timestamp"),
    "positions instead of times": (
        broken(lambda log: log.with_columns(timestamp=pl.int_range(pl.len()).over("user_id"))),
        "split.strategy: found temporal with times around",
    ),
    "one user": (broken(lambda log: log.with_columns(user_id=pl.lit(7))), "user"),
    "one item": (broken(lambda log: log.with_columns(item_id=pl.lit(7))), "item"),
    "nothing left after filtering": (
        broken(lambda log: log.unique("item_id", keep="first").head(30)),
        "min_item_count",
    ),
}


@pytest.mark.parametrize(("write", "says"), LOGS.values(), ids=LOGS)
def test_a_log_that_cannot_be_used(
    write: Callable[[Path], None], says: str, workplace: Make, capsys: pytest.CaptureFixture[str]
):
    folder = workplace({"dataset": "log.parquet"})
    write(folder / "log.parquet")
    error = run_until_it_fails(capsys)
    assert error.startswith("error: ")
    assert says in error


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown data set": ({"dataset": "movielens_19m"}, "movielens_20m"),
    "an unknown twin": ({"dataset": "twin:beuty"}, "beauty"),
    "an unknown loss": ({"loss": "cross_entropy"}, "loss: found 'cross_entropy', allowed: ce"),
    "an unknown model": ({"model": "gru"}, "model: found 'gru', allowed: sasrec | bert4rec"),
    "an unknown key": ({"batchsize": 12}, "batchsize: unknown key (did you mean batch_size?)"),
    "a wrong type": ({"max_seq_len": "long"}, "max_seq_len: found 'long', allowed: a whole number"),
    "a contradiction": ({"backbone.heads": 3}, "backbone.hidden: found 64 with backbone.heads=3"),
    "ratings wanted of a log without": ({"dataset": "log.parquet", "download.min_rating": 4.0}, "no rating column"),
    "ratings wanted of the demo": ({"download.min_rating": 4.0}, "no ratings"),
    "a column that the log does not have": (
        {"dataset": "log.parquet", "download.columns.user": "visitor"},
        "visitor",
    ),
}


@pytest.mark.parametrize(("overrides", "says"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_cannot_be_used(
    overrides: dict[str, Any], says: str, workplace: Make, capsys: pytest.CaptureFixture[str]
):
    folder = workplace(overrides)
    small_log().write_parquet(folder / "log.parquet")
    assert says in run_until_it_fails(capsys)


def test_positions_are_enough_for_leave_one_out(workplace: Make, capsys: pytest.CaptureFixture[str]):
    folder = workplace({"dataset": "log.parquet", "split.strategy": "leave_one_out"})
    small_log().with_columns(timestamp=pl.int_range(pl.len()).over("user_id")).write_parquet(folder / "log.parquet")
    with pytest.raises(AssertionError, match="nothing failed"):
        run_until_it_fails(capsys)


def test_a_good_log_passes(workplace: Make, capsys: pytest.CaptureFixture[str]):
    folder = workplace({"dataset": "log.parquet"})
    small_log().write_parquet(folder / "log.parquet")
    with pytest.raises(AssertionError, match="nothing failed"):
        run_until_it_fails(capsys)
    assert {path.name for path in (folder / "data" / "split").iterdir()} == {
        "SHA256SUMS",
        "items.parquet",
        "sequences",
        "summary.json",
        "test.parquet",
        "train.parquet",
        "users.parquet",
        "validation.parquet",
    }


MISSING = {
    split: ["download/log.parquet"],
    train: ["split/items.parquet", "split/sequences/train.arrow", "split/sequences/validation.arrow"],
    evaluate: ["train/model.safetensors"],
    report: ["evaluate/metrics.json"],
}


@pytest.mark.parametrize("module", MISSING, ids=lambda module: module.__name__)
def test_an_input_that_is_missing_is_named_with_the_stage_that_writes_it(
    module: ModuleType, workplace: Make, capsys: pytest.CaptureFixture[str]
):
    workplace({"dataset": "demo"})
    for name in MISSING[module]:
        with pytest.raises(SystemExit):
            run_and_exit(lambda: module.main(load()))
        stage = name.partition("/")[0]
        expected = f"error: data/{name}: no such file, the stage {stage} writes it (dvc repro)\n"
        assert capsys.readouterr().err.splitlines(keepends=True)[-1] == expected  # a note may precede it, once
        (Path("data") / name).parent.mkdir(parents=True, exist_ok=True)
        (Path("data") / name).touch()
