"""The study's scheduler: what it runs, kills and notes."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from pipelines.study import runs, trials
from pipelines.study.scheduler import Scheduler
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


def test_everything_runs_once_and_notes_what_crashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few = trials.Search(
        "ml_1m", {}, {"cce": {"loss": "cce"}, "bce 1": {"loss": "bce"}}, ({"batch_size": 1}, {"batch_size": 2})
    )
    monkeypatch.setattr(trials, "SEARCHES", (few,))
    monkeypatch.setattr(trials, "TRADE_OFFS", ())
    rows, most = tmp_path / "rows.jsonl", []

    def start(self: Scheduler, trial: Trial) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", FAKE, json.dumps(asdict(trial)), str(rows)]
        most.append(len(self.running) + 1)
        return subprocess.Popen(command)

    monkeypatch.setattr(Scheduler, "_start", start)
    Scheduler(tmp_path, rows, 10.0, 2, ("search",), ("ml_1m",)).run()
    found = runs.read(rows)
    assert max(most) == 2
    assert sorted((row["contender"], row["status"]) for row in found) == [
        ("bce 1", "failed"),
        ("bce 1", "failed"),
        ("cce", "ok"),
        ("cce", "ok"),
    ]
    Scheduler(tmp_path, rows, 10.0, 2, ("search",), ("ml_1m",)).run()
    again = runs.read(rows)
    assert again[:4] == found
    assert [(row["contender"], row["status"]) for row in again[4:]] == [("bce 1", "failed")] * 2  # tried once more


def test_a_process_that_dies_after_its_row_has_succeeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few = trials.Search("ml_1m", {}, {"cce": {"loss": "cce"}}, ({"batch_size": 1},))
    monkeypatch.setattr(trials, "SEARCHES", (few,))
    monkeypatch.setattr(trials, "TRADE_OFFS", ())
    rows = tmp_path / "rows.jsonl"

    def start(self: Scheduler, trial: Trial) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", FAKE + "sys.exit(9)", json.dumps(asdict(trial)), str(rows)]
        return subprocess.Popen(command)

    monkeypatch.setattr(Scheduler, "_start", start)
    Scheduler(tmp_path, rows, 10.0, 2, ("search",), ("ml_1m",)).run()
    assert [row["status"] for row in runs.read(rows)] == ["ok"]


def test_times_are_taken_alone():
    scheduler = Scheduler(Path(), Path(), 1.0, 4, ("search",), ("ml_1m",))
    search, timed = Trial.of("search", "d", "c", {}, 0), Trial.of("time", "d", "c", {}, 0)
    assert scheduler._may_start(timed)
    scheduler.running = {search: None}  # type: ignore[dict-item]
    assert scheduler._may_start(Trial.of("search", "d", "c", {}, 1))
    assert not scheduler._may_start(timed)
    scheduler.running = {timed: None}  # type: ignore[dict-item]
    assert not scheduler._may_start(search)


def test_at_the_end_of_the_time_running_trials_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started = []

    def start(self: Scheduler, trial: Trial) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[-1]

    monkeypatch.setattr(Scheduler, "_start", start)
    Scheduler(tmp_path, tmp_path / "rows.jsonl", 0.005, 3, ("search",), ("ml_1m",)).run()
    assert len(started) == 3
    assert all(process.poll() is not None for process in started)
    assert runs.read(tmp_path / "rows.jsonl") == []


def test_an_error_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started = []

    def start(self: Scheduler, trial: Trial) -> subprocess.Popen[bytes]:
        if started:
            raise KeyboardInterrupt
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[-1]

    monkeypatch.setattr(Scheduler, "_start", start)
    with pytest.raises(KeyboardInterrupt):
        Scheduler(tmp_path, tmp_path / "rows.jsonl", 1.0, 3, ("search",), ("ml_1m",)).run()
    assert started[0].poll() is not None
