"""The stage ``split`` tells the user what the metrics will depend on."""

import dataclasses
import errno
import os
import resource
from pathlib import Path

import polars as pl
import pytest

from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.outputs import read_json
from cutrec.workflow.split import split
from rec_data.config import Download, Split
from rec_data.describe import describe
from rec_data.errors import DataError


def write(path: Path, rows: list[tuple[int, int, int]]) -> Path:
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(path)
    return path


def test_a_log_of_dates_is_told_and_its_rows_may_be_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [(user, item, 86_400 * (20_000 + item // 3)) for user in range(5) for item in range(6)]
    log = write(tmp_path / "log.parquet", rows)
    leave_one_out = dataclasses.replace(Config(), split=Split(strategy="leave_one_out"))
    split(leave_one_out, log, tmp_path / "shuffled")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "note" in line]
    assert line == (
        "note: 30 of 30 interactions (100.0%) share user and time with another (the dates have no time of day): their "
        "order is random; if the rows are in order, set -S download.ties=row_order"
    )
    in_order = dataclasses.replace(leave_one_out, download=Download(ties="row_order"))
    split(in_order, log, tmp_path / "in_order")
    assert "they keep the order of rows (download.ties)" in capsys.readouterr().err
    histories = pl.read_parquet(tmp_path / "in_order" / "train.parquet")["history"].to_list()
    assert histories == [[0, 1, 2, 3]] * 5
    assert read_json(tmp_path / "shuffled" / "summary.json")["ties"] == "shuffle"


def test_a_log_without_anything_odd_is_split_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [(user, (user + step) % 20, 1_700_000_000 + 1000 * step + user) for user in range(100) for step in range(12)]
    split(Config(), write(tmp_path / "log.parquet", rows), tmp_path / "split")
    assert "note" not in capsys.readouterr().err


def test_a_temporal_split_takes_what_describe_calls_a_clock(tmp_path: Path):
    for name, start in (
        ("positions", 0),
        ("days", 19_700),
        ("hours", 472_222),
        ("minutes", 28_333_333),
        ("before 1990", 500_000_000),
    ):
        rows = [(user, (user + step) % 20, start + 9 * step) for user in range(100) for step in range(12)]
        log = write(tmp_path / f"{name}.parquet", rows)
        assert not describe(log)["clock"]
        with pytest.raises(
            StageError, match=r"which are positions and not Unix times after 1990.*download\.time_format"
        ):
            split(Config(), log, tmp_path / "split")


def test_a_full_disk_while_parts_are_written_leaves_nothing_and_a_rerun_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rec_data.splits.split.parts_of", lambda rows, bound: 3)
    rows = [(user, (user + step) % 20, 1_600_000_000 + 1_000 * step + user) for user in range(40) for step in range(30)]
    log, out = write(tmp_path / "log.parquet", rows), tmp_path / "split"
    (tmp_path / ".tmp-split" / ".work").mkdir(parents=True)  # of a split that was killed
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(DataError, match=r"^[^\n]*rows-1/user cannot be written: File too large \(in [^\n]*\)$"):
            split(Config(), log, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def no_space(*given: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("rec_data.splits.write.write_store", no_space)
        with pytest.raises(DataError, match=r"^[^\n]*split cannot be written: No space left on device \(in [^\n]*\)$"):
            split(Config(), log, out)
    assert [path.name for path in tmp_path.iterdir() if "lock" not in path.name] == ["log.parquet"]
    split(Config(), log, out)
    assert read_json(out / "summary.json")["parts"] == 3
    assert not list(out.glob(".*"))
