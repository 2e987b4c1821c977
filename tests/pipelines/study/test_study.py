"""The verb ``study``: what it runs, kills, notes and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cutrec.errors import StageError
from pipelines.study import __main__ as study
from pipelines.study import runs as study_trial
from pipelines.study import trials
from pipelines.study.trials import Trial

FAKE = """
import json, sys
from pipelines.study import runs as study_trial
trial = json.loads(sys.argv[1])
settings = json.loads(trial.pop("settings"))
if trial["contender"] == "bce 1": sys.exit(7)
row = {**trial, "settings": settings, "status": "ok", "validation_ndcg_at_10": 0.5}
study_trial.append(__import__("pathlib").Path(sys.argv[2]), row)
"""


def test_a_runner_runs_everything_once_and_notes_what_crashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few = trials.Search(
        "ml_1m", {}, {"cce": {"loss": "cce"}, "bce 1": {"loss": "bce"}}, ({"batch_size": 1}, {"batch_size": 2})
    )
    monkeypatch.setattr(trials, "SEARCHES", (few,))
    monkeypatch.setattr(trials, "TRADE_OFFS", ())
    rows, most = tmp_path / "rows.jsonl", []

    def start(self: study.Runner, trial: Trial) -> None:
        command = [sys.executable, "-c", FAKE, json.dumps(study.asdict(trial)), str(rows)]
        self.running[trial] = subprocess.Popen(command)
        most.append(len(self.running))

    monkeypatch.setattr(study.Runner, "_start", start)
    study.Runner(tmp_path, rows, 1.0, 2, ("search",), ("ml_1m",)).run()
    found = study_trial.read(rows)
    assert max(most) == 2
    assert sorted((row["contender"], row["status"]) for row in found) == [
        ("bce 1", "failed"),
        ("bce 1", "failed"),
        ("cce", "ok"),
        ("cce", "ok"),
    ]
    study.Runner(tmp_path, rows, 1.0, 2, ("search",), ("ml_1m",)).run()
    again = study_trial.read(rows)
    assert again[:4] == found
    assert [(row["contender"], row["status"]) for row in again[4:]] == [("bce 1", "failed")] * 2  # tried once more


def test_a_process_that_dies_after_its_row_has_succeeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few = trials.Search("ml_1m", {}, {"cce": {"loss": "cce"}}, ({"batch_size": 1},))
    monkeypatch.setattr(trials, "SEARCHES", (few,))
    monkeypatch.setattr(trials, "TRADE_OFFS", ())
    rows = tmp_path / "rows.jsonl"

    def start(self: study.Runner, trial: Trial) -> None:
        command = [sys.executable, "-c", FAKE + "sys.exit(9)", json.dumps(study.asdict(trial)), str(rows)]
        self.running[trial] = subprocess.Popen(command)

    monkeypatch.setattr(study.Runner, "_start", start)
    study.Runner(tmp_path, rows, 1.0, 2, ("search",), ("ml_1m",)).run()
    assert [row["status"] for row in study_trial.read(rows)] == ["ok"]


def test_times_are_taken_alone():
    runner = study.Runner(Path(), Path(), 1.0, 4, ("search",), ("ml_1m",))
    search, timed = Trial.of("search", "d", "c", {}, 0), Trial.of("time", "d", "c", {}, 0)
    assert runner._may_start(timed)
    runner.running = {search: None}  # type: ignore[dict-item]
    assert runner._may_start(Trial.of("search", "d", "c", {}, 1))
    assert not runner._may_start(timed)
    runner.running = {timed: None}  # type: ignore[dict-item]
    assert not runner._may_start(search)


def test_at_the_end_of_the_time_running_trials_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started = []

    def start(self: study.Runner, trial: Trial) -> None:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        self.running[trial] = started[-1]

    monkeypatch.setattr(study.Runner, "_start", start)
    study.Runner(tmp_path, tmp_path / "rows.jsonl", 0.005, 3, ("search",), ("ml_1m",)).run()
    assert len(started) == 3
    assert all(process.poll() is not None for process in started)
    assert study_trial.read(tmp_path / "rows.jsonl") == []


def test_an_error_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started = []

    def start(self: study.Runner, trial: Trial) -> None:
        if started:
            raise KeyboardInterrupt
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        self.running[trial] = started[-1]

    monkeypatch.setattr(study.Runner, "_start", start)
    with pytest.raises(KeyboardInterrupt):
        study.Runner(tmp_path, tmp_path / "rows.jsonl", 1.0, 3, ("search",), ("ml_1m",)).run()
    assert started[0].poll() is not None


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
def test_wrong_command_lines_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        study.main([*arguments, "--data", "d", "--rows", "r"])
    assert "error" in capsys.readouterr().err


def test_prepare_names_what_it_takes(tmp_path: Path):
    with pytest.raises(StageError, match=r"prepare: found 'log.parquet', allowed: NAME=LOG"):
        study.main(["prepare", "--data", str(tmp_path), "log.parquet"])


def test_rows_that_are_not_there_are_named(tmp_path: Path):
    with pytest.raises(StageError, match=r"--rows: found no .*no.jsonl, allowed: what `python -m pipelines.stu"):
        study.main(["summarise", "--rows", str(tmp_path / "no.jsonl"), "--out", str(tmp_path)])
