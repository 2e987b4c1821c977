"""``cutrec backtest``: windows of a small log, resumed steps, one model rolled forward, one line per mistake."""

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cutrec.cli import execute
from cutrec.config_point import Config
from cutrec.errors import ConfigError, StageError, UsageError
from cutrec.outputs import write_json
from cutrec.workflow import backtest as workflow
from rec_data.errors import DataError
from rec_data.splits import bounded
from tests.docs.pages import ROOT, commands
from tests.small_log import small_log

TINY = {
    "loss": "cce", "batch_size": 64, "max_seq_len": 16, "backbone.hidden": 16, "backbone.blocks": 1,
    "train.max_epochs": 1, "train.patience": 1, "split.test_fraction": 0.15, "split.validation_users": 0.2,
    "split.min_item_count": 1, "split.min_user_count": 2,
}  # fmt: skip


PAGES = commands(ROOT / "docs/evaluation.md", "sh") + commands(ROOT / "docs/retrain-daily.md", "bash", "sh")
BACKTESTS = [command for command in dict.fromkeys(PAGES) if "cutrec backtest" in command]


@pytest.fixture
def place(workplace: Callable[[dict[str, Any]], Path]) -> Path:
    """A checkout with a small log of users who return in every window."""
    folder = workplace(TINY)
    log = folder / "data/download/log.parquet"
    log.parent.mkdir(parents=True)
    rows = small_log(60).with_columns(pl.col("timestamp") - pl.col("timestamp").min().over("user_id") + 1_700_000_000)
    rows.write_parquet(log)
    write_json(folder / "data/download/summary.json", {"dataset": "demo"})
    return folder


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def test_windows_follow_each_other_and_are_not_computed_again(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    execute(["backtest", "--windows", "2"])
    out = place / "data/backtest"
    first, second = (json.loads((out / f"{window}/split/summary.json").read_text()) for window in (1, 2))
    assert first["test_until"] == second["test_from"]
    times = sorted(pl.read_parquet(place / "data/download/log.parquet")["timestamp"])
    assert second["test_from"] == times[int(len(times) * (1 - 0.15))]
    rows = read(out / "windows.csv")
    assert {(row["window"], row["trained"], row["ranking"]) for row in rows} == {
        (window, "per window", ranking) for window in "12" for ranking in ("model", "popularity")
    }
    metrics = json.loads((out / "2/evaluate/metrics.json").read_text())
    (ndcg,) = (
        row
        for row in rows
        if [row[key] for key in ("window", "ranking", "metric", "k")] == ["2", "model", "ndcg", "10"]
    )
    assert float(ndcg["value"]) == pytest.approx(metrics["ndcg@10"], abs=1e-6)
    assert "| mean" in capsys.readouterr().out

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    before = (out / "windows.csv").read_text()
    with monkeypatch.context() as patch:
        for step in ("split", "train", "evaluate"):
            patch.setattr(workflow, step, never)
        execute(["backtest", "--windows", "2"])
        assert (out / "windows.csv").read_text() == before

    (out / "2/evaluate/.complete").unlink()  # as a kill during the last step would leave it
    with monkeypatch.context() as patch:
        patch.setattr(workflow, "train", never)
        patch.setattr(workflow, "split", never)
        execute(["backtest", "--windows", "2"])
        execute(["backtest", "--windows", "2", "--rolled"])
    rows = read(out / "windows.csv")
    assert {row["trained"] for row in rows} == {"per window", "once", "per window - once"}
    assert "training again for each window changes NDCG@10" in capsys.readouterr().out
    assert not (out / "2/rolled/train").exists()
    windows = {
        row["trained"]: row["value"]
        for row in rows
        if [row[key] for key in ("window", "ranking", "metric", "k")] == ["1", "model", "ndcg", "10"]
    }
    assert windows["once"] == windows["per window"]
    assert (out / "backtest.html").is_file()

    execute(["backtest", "--windows", "2", "--updated"])
    said = capsys.readouterr().out
    assert "an update for each window keeps" in said
    rows = read(out / "windows.csv")
    assert {row["trained"] for row in rows} >= {"per window", "once", "updated", "per window - updated"}
    assert {(row["window"], row["trained"]) for row in read(out / "training.csv")} == {
        ("1", "per window"), ("2", "per window"), ("2", "updated"),
    }  # fmt: skip
    learned = json.loads((out / "2/updated/learn/summary.json").read_text())
    assert (learned["new_from"], learned["test_until"]) == (first["test_from"], second["test_from"])
    ids = [
        pl.read_parquet(out / place / "items.parquet")["original_id"].to_list()
        for place in ("1/train", "2/updated/train")
    ]
    assert ids[1][: len(ids[0])] == ids[0]
    monkeypatch.setattr(workflow, "train", never)
    with pytest.raises(AssertionError):  # other settings are trained again
        execute(["backtest", "--windows", "2", "-S", "train.learning_rate=0.01"])


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["--windows", "1"], UsageError, "--windows: found 1, allowed: 2 to"),
        (
            ["--windows", "7"],
            DataError,
            "--windows: found 7 with split.test_fraction 0.15, .* -S split.test_fraction=0.071",
        ),
        (
            ["--days", "9999"],
            DataError,
            "--windows: found 4 of --days 9999, and no interaction lies before the first one, allowed",
        ),
        (["-S", "dataset=other"], ConfigError, "found 'dataset=other', allowed: model=... or "),
        (
            ["-S", "split.strategy=leave_one_out"],
            StageError,
            "split.strategy: found leave_one_out, allowed for a backtest",
        ),
        (["-S", "split.test_from=2024-01-01"], StageError, "split.test_from: found 2024-01-01, .*: null"),
        (
            ["-S", "split.test_until=2001-01-01"],
            DataError,
            r"split.test_until: found 978307200 \(2001-01-01 00:00:00\), which leaves no interaction; allowed: a ",
        ),
    ],
)
def test_mistakes_are_one_line(place: Path, arguments: list[str], error: type[Exception], says: str):
    with pytest.raises(error, match=f"^{says}"):
        execute(["backtest", *arguments])
    assert not (place / "data/backtest/1").exists()


@pytest.mark.parametrize("kind", ["rolled", "updated"])
def test_a_model_for_all_windows_needs_one_part_and_is_refused_before_it_trains(
    place: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    for size in ("ROWS_IN_MEMORY", "ROWS_PER_PART"):
        monkeypatch.setattr(bounded, size, 300)
    with pytest.raises(DataError, match=rf"^split.memory: found auto, which makes \d parts, with --{kind}, "):
        execute(["backtest", f"--{kind}"])
    assert not (place / "data/backtest/1").exists()


@pytest.mark.parametrize("command", BACKTESTS)
def test_the_commands_of_the_page_are_accepted(place: Path, command: str, monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {}

    def stop(config: Config, log: Path, out: Path, **kind: Any) -> None:
        asked.update(kind, out=out, filter_seen=config.evaluate.filter_seen)
        raise StageError("accepted")

    monkeypatch.setattr(workflow, "backtest", stop)
    with pytest.raises(StageError, match=r"^accepted$"):
        execute(shlex.split(command)[3:])
    assert asked["later"] == next((kind for kind in ("rolled", "updated") if f"--{kind}" in command), "retrained")
    assert f"--windows {asked['windows']}" in command
    assert asked["filter_seen"] == ("filter_seen=false" not in command)


def test_the_log_is_that_of_the_current_point(place: Path):
    write_json(place / "data/download/summary.json", {"dataset": "other"})
    with pytest.raises(
        StageError, match=r"^data/download/log.parquet: found the log of other, dataset is demo, allowed"
    ):
        execute(["backtest"])
    (place / "data/download/log.parquet").unlink()
    with pytest.raises(StageError, match=r"^data/download/log.parquet: found no log, allowed: .*`dvc repro download`"):
        execute(["backtest"])
