"""The command study: what it refuses before anything runs."""

from pathlib import Path

import pytest

from cutrec.errors import StageError, UsageError
from pipelines.study import __main__ as study


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--data", "none"], r"--data: found no split of ml_1m in none, allowed: what `prepare` made"),
        (["trial", "--data", "d", '{"a": 1}'], r"trial: found '{\"a\": 1}', allowed: JSON of a trial"),
        (["trial", "--data", "d", "x"], r"trial: found 'x', allowed: JSON of a trial"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path: Path, arguments: list[str], says: str):
    with pytest.raises(StageError, match=says):
        study.main([*arguments, "--rows", str(tmp_path / "rows.jsonl")])
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--kinds", "all"],
        ["run", "--datasets", "ml_1m,ml_2m"],
        ["run", "--jobs", "0"],
        ["run", "--minutes", "nan"],
        ["walk"],
    ],
)
def test_wrong_command_lines_are_refused(arguments: list[str]):
    with pytest.raises(UsageError, match=r"found|choice"):
        study.main([*arguments, "--data", "d", "--rows", "r"])


def test_prepare_names_what_it_takes(tmp_path: Path):
    with pytest.raises(StageError, match=r"prepare: found 'log.parquet', allowed: NAME=LOG"):
        study.main(["prepare", "--data", str(tmp_path), "log.parquet"])


def test_rows_that_are_not_there_are_named(tmp_path: Path):
    with pytest.raises(StageError, match=r"--rows: found no .*no.jsonl, allowed: what `python -m pipelines.stu"):
        study.main(["summarise", "--rows", str(tmp_path / "no.jsonl"), "--out", str(tmp_path)])
