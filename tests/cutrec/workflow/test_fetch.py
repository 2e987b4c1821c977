"""What the download stage says about the rows that it leaves out."""

from pathlib import Path

import polars as pl
import pytest

from cutrec.config_point import Config
from cutrec.workflow.fetch import fetch, read_remarks
from rec_data.config import Columns, Download, Events

ROWS = [(1, 2, 5, 4, "buy"), (1, 2, 5, 4, "buy"), (1, 3, 6, 1, "buy"), (1, 4, 7, 5, "see"), (2, 2, 8, 5, "buy")]
ALL = {"events": Events(column="kind", keep=("buy",)), "min_rating": 3, "duplicates": "drop"}


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({}, []),
        (
            ALL,
            ["3 of 5 rows are left out: 1 of other kinds of events, 1 duplicates, 1 with a rating that is too low"],
        ),
        (
            {"duplicates": "drop", "columns": Columns(timestamp=None)},
            ["-S download.duplicates=drop has no effect on rows without times, which may be repetitions"],
        ),
    ],
)
def test_rows_that_are_left_out_are_told_in_one_line(tmp_path: Path, settings: dict, lines: list[str]):
    names = ["user_id", "item_id", "timestamp", "stars", "kind"]
    pl.DataFrame(ROWS, schema=names, orient="row").write_parquet(tmp_path / "raw.parquet")
    columns = {"columns": Columns(rating="stars")} if "min_rating" in settings else {}
    config = Config(dataset="raw.parquet", download=Download(**(columns | settings)))
    assert read_remarks(config, fetch(config, tmp_path / "log.parquet", root=tmp_path)) == lines


@pytest.mark.parametrize("unknown", ["2099-12-31", None])
def test_times_after_today_are_told(tmp_path: Path, unknown: str | None):
    rows = ["user_id,item_id,timestamp", "1,2,2024-01-31 12:00:00.5", *([f"1,3,{unknown}"] * 2 if unknown else [])]
    (tmp_path / "raw.csv").write_text("\n".join(rows))
    config = Config(dataset="raw.csv")
    lines = read_remarks(config, fetch(config, tmp_path / "log.parquet", root=tmp_path))
    assert [line.partition(";")[0] for line in lines] == ["2 of 3 rows have times after today"] * bool(unknown)
