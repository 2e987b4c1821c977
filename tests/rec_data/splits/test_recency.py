"""Days from the last interaction of a history to its target, from the files of a split."""

from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest

from rec_data.arrays import Int64s
from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.splits.forget import forget_users
from rec_data.splits.recency import days_since_last
from rec_data.splits.split import split_log

DAY = 86_400
START = 1_600_000_000


def write_log(path: Path, gaps: list[float], ticks: int = 1, start: int = START) -> Path:
    """Users of four events, the first three a day apart, the last one this many days later."""
    rows = [
        (f"u{user}", f"i{place % 2}", int((start + DAY * (place if place < 3 else 2 + gap)) * ticks))
        for user, gap in enumerate(gaps)
        for place in range(4)
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    frame.write_parquet(path)
    return path


def days_of(split: Path) -> Int64s | None:
    return days_since_last(split / "test.parquet", split / "summary.json")


@pytest.mark.parametrize("ticks", [1, 1000, 10**6], ids=["s", "ms", "us"])
def test_days_of_every_unit(tmp_path: Path, ticks: int):
    (tmp_path / "split").mkdir()
    log = write_log(tmp_path / "log.parquet", [0.5, 1, 7.9, 30], ticks)
    split_log(log, tmp_path / "split", Split(strategy="leave_one_out"))
    days = days_of(tmp_path / "split")
    assert days is not None
    assert days.tolist() == [0, 1, 7, 30]
    exported = pl.read_parquet(tmp_path / "split" / "test.parquet")
    assert ((exported["target_time"] - exported["timestamps"].list.last()) // (DAY * ticks)).to_list() == days.tolist()


@pytest.mark.parametrize("target", ["first", "successive"])
def test_targets_that_are_not_the_last_event_have_their_own_time(
    tmp_path: Path, target: Literal["first", "successive"]
):
    (tmp_path / "split").mkdir()
    log = write_log(tmp_path / "log.parquet", [10.0 + user for user in range(10)])
    settings = Split(
        strategy="temporal", test_from=START + DAY * 3 // 2, target=target, min_item_count=None, min_user_count=None,
        validation_users=0.2,
    )  # fmt: skip
    split_log(log, tmp_path / "split", settings)
    days = days_of(tmp_path / "split")
    assert days is not None
    users = pl.read_parquet(tmp_path / "split" / "users.parquet")["original_id"].str.slice(1).cast(int)
    tested = users.gather(pl.read_parquet(tmp_path / "split" / "test.parquet")["user_id"]).to_list()
    if target == "first":
        assert days.tolist() == [1] * len(tested)  # the third event follows the second after a day
    else:
        assert days.tolist() == [day for user in dict.fromkeys(tested) for day in (1, 10 + user)]


def test_a_log_of_positions_has_no_days(tmp_path: Path):
    (tmp_path / "split").mkdir()
    rows = [(user, item, item) for user in range(3) for item in range(4)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    frame.write_parquet(tmp_path / "log.parquet")
    split_log(tmp_path / "log.parquet", tmp_path / "split", Split(strategy="leave_one_out"))
    assert days_of(tmp_path / "split") is None


def test_forgotten_users_leave_the_days_of_the_others(tmp_path: Path):
    for name in ("split", "less"):
        (tmp_path / name).mkdir()
    log = write_log(tmp_path / "log.parquet", [0.0, 1.0, 5.0, 30.0])
    split_log(log, tmp_path / "split", Split(strategy="leave_one_out"))
    forget_users(tmp_path / "split", tmp_path / "less", pl.Series(["u1"]).to_arrow())
    days = days_of(tmp_path / "less")
    assert days is not None
    assert days.tolist() == [0, 5, 30]


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"test\.parquet cannot be read"):
        days_of(tmp_path)
    (tmp_path / "summary.json").write_text('{"clock": true, "timestamp_unit": "s"}')
    np.save(tmp_path / "test.parquet.npy", np.zeros(1))
    (tmp_path / "test.parquet.npy").rename(tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet cannot be read"):
        days_of(tmp_path)
