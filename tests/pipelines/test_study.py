"""Runs of the study: what a row holds, what a killed or crashed one leaves, and the tables made of rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import params, stage, study
from pipelines.accuracy import plan as study_plan
from pipelines.accuracy import runs as study_trial
from pipelines.accuracy import summary as study_summary
from pipelines.accuracy.plan import SEARCHES, TRADE_OFFS, Trial
from pipelines.accuracy.summary import Spread, published, spread, summarise
from pipelines.params import read_yaml
from pipelines.records import results
from tests.pipelines.conftest import small_log

SETTINGS = {"loss": "cce", "max_seq_len": 8, "batch_size": 64, "backbone.hidden": 8, "train.max_epochs": 2}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    small_log(users=60).write_parquet("log.parquet")
    study.main(["prepare", "--data", "splits", "tiny=log.parquet"])
    return Path("splits")


def test_a_split_that_travels_holds_what_training_and_testing_need(data: Path):
    names = {path.relative_to(data / "tiny").as_posix() for path in (data / "tiny").rglob("*.*")}
    stores = {f"sequences/{part}.arrow" for part in ("train", "validation", "test")}
    assert names == {"items.parquet", "users.parquet", "summary.json", *stores}


def test_a_search_never_looks_at_the_test(data: Path):
    (data / "tiny" / "sequences" / "test.arrow").unlink()
    row = study_trial.run(Trial.of("search", "tiny", "cce", SETTINGS, 0), data)
    assert row["status"] == "ok"
    assert (row["epochs"], row["precision"]) == (2, "32-true")
    assert 0 <= row["validation_ndcg_at_10"] <= 1
    assert not {name for name in row if name.endswith("_at_10")} - {"validation_ndcg_at_10"}


def test_a_final_run_measures_the_test_and_a_timed_one_the_steps(data: Path):
    row = study_trial.run(Trial.of("final", "tiny", "cce", SETTINGS, 1), data)
    assert row["test_users"] == 60
    assert 0 < row["recall_at_10"] <= 1
    assert 0 < row["coverage_at_10"] <= 1
    timed = study_trial.run(Trial.of("time", "tiny", "cce", {**SETTINGS, "batch_size": 2}, 0), data)
    assert timed["step_ms"] > 0
    assert "ndcg_at_10" not in timed


def test_what_fails_is_a_row_with_the_reason(data: Path):
    row = study_trial.run(Trial.of("search", "none", "cce", SETTINGS, 0), data)
    assert (row["status"], row["kind"]) == ("failed", "search")
    assert "FileNotFoundError" in row["note"]


def test_rows_survive_a_line_that_was_cut_off(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    study_trial.append(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"b": 2')
    study_trial.append(path, {"c": 3})
    assert study_trial.read(path) == [{"a": 1}, {"c": 3}]
    assert study_trial.read(tmp_path / "none") == []


FAKE = """
import json, sys
from pipelines.accuracy import runs as study_trial
trial = json.loads(sys.argv[1])
settings = json.loads(trial.pop("settings"))
if trial["contender"] == "bce 1": sys.exit(7)
row = {**trial, "settings": settings, "status": "ok", "validation_ndcg_at_10": 0.5}
study_trial.append(__import__("pathlib").Path(sys.argv[2]), row)
"""


def test_a_runner_runs_everything_once_and_notes_what_crashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few = study_plan.Search(
        "ml_1m", {}, {"cce": {"loss": "cce"}, "bce 1": {"loss": "bce"}}, ({"batch_size": 1}, {"batch_size": 2})
    )
    monkeypatch.setattr(study_plan, "SEARCHES", (few,))
    monkeypatch.setattr(study_plan, "TRADE_OFFS", ())
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
    assert study_trial.read(rows) == found


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


@pytest.mark.parametrize("arguments", [["run", "--kinds", "all"], ["run", "--datasets", "ml_1m,ml_2m"], ["walk"]])
def test_wrong_command_lines_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        study.main([*arguments, "--data", "d", "--rows", "r"])
    assert "error" in capsys.readouterr().err


def test_prepare_names_what_it_takes(tmp_path: Path):
    with pytest.raises(stage.StageError, match=r"prepare: found 'log.parquet', allowed: NAME=LOG"):
        study.main(["prepare", "--data", str(tmp_path), "log.parquet"])


def test_a_spread_is_mean_and_sample_deviation():
    assert spread([]) is None
    assert spread([0.5]) == Spread(0.5, 0.0, 1)
    assert spread([1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3)
    assert str(Spread(0.18, 0.001, 3)) == "0.1800 +- 0.0010"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (("ml_1m", "sasrec", "cce", 512), 0.1821),  # the better of two
        (("ml_1m", "sasrec", "cce_neg", 3000), 0.1857),
        (("ml_1m", "sasrec", "cce_neg", 512), None),
        (("ml_1m", "sasrec", "bce", 512), 0.1341),
        (("ml_1m", "sasrec", "gbce", 256), 0.1726),
        (("ml_1m", "bert4rec", "cce", 512), 0.1618),
        (("toys", "sasrec", "cce_neg", 2048), 0.0374),
        (("beauty", "sasrec", "cce", 512), None),
    ],
)
def test_published_numbers_are_found_by_data_set_and_loss(asked: tuple[str, str, str, int], found: float | None):
    known = published(*asked)
    assert (known and known[0]) == found


def rows_of_a_study() -> list[dict[str, object]]:
    """ML-1M searched: the first candidate wins; cce has its three seeds, and a part of the trade-off is there."""
    search = SEARCHES[0]
    rows: list[dict[str, object]] = []

    def add(trial: Trial, **values: object) -> None:
        named = {"kind": trial.kind, "dataset": trial.dataset, "contender": trial.contender, "seed": trial.seed}
        machine = {"device": "cpu: test", "status": "ok", "precision": "32-true", "peak_memory_gib": 0.5}
        rows.append({**named, "settings": json.loads(trial.settings), **machine, **values})

    for contender in search.contenders:
        for place, settings in enumerate(search.settings(contender)):
            trial = Trial.of("search", "ml_1m", contender, settings, 0)
            add(trial, validation_ndcg_at_10=0.2 - place / 100)
    best = search.settings("cce")[0]
    found = {"recall_at_10": 0.3, "coverage_at_10": 0.5, "validation_ndcg_at_10": 0.2}
    for seed, ndcg in zip((1, 2, 3), (0.18, 0.19, 0.2), strict=True):
        add(Trial.of("final", "ml_1m", "cce", best, seed), ndcg_at_10=ndcg, **found)
    for name, point in list(TRADE_OFFS[0].points.items())[:4]:
        add(Trial.of("time", "ml_1m", name, best | point, 0), step_ms=2.0 + len(name))
        if name != "cce":
            add(Trial.of("final", "ml_1m", name, best | point, 1), ndcg_at_10=0.17, **found)
    return rows


def test_tables_results_presets_and_a_picture_come_of_rows(tmp_path: Path):
    paths = {path.name: path for path in summarise(rows_of_a_study(), tmp_path)}
    assert set(paths) == {
        *(f"{table}.{kind}" for table in ("accuracy", "trade_off") for kind in ("md", "csv")),
        "results.csv",
        "presets.yaml",
        "trade_off.png",
    }
    accuracy = paths["accuracy.md"].read_text().splitlines()
    assert len(accuracy) == 2 + len(SEARCHES[0].contenders)
    assert "0.1900 +- 0.0100" in accuracy[2]
    assert "0.1821 | antklen/sasrec-bert4rec-recsys23 README | yes |" in accuracy[2]
    assert paths["trade_off.md"].read_text().count("0.1700 (one seed)") == 3
    assert [row.ndcg_at_10 for row in results.read(paths["results.csv"])] == [0.18, 0.19, 0.2]
    presets = read_yaml(paths["presets.yaml"])
    assert set(presets) == {f"ml_1m_{name}".replace(" ", "_") for name in SEARCHES[0].contenders}
    for name in presets:
        point = params.from_mapping({"preset": name, "presets": presets})
        assert point.max_seq_len == 200
    assert paths["trade_off.png"].read_bytes().startswith(b"\x89PNG")


def test_without_rows_the_tables_say_so(tmp_path: Path):
    paths = summarise([], tmp_path)
    assert (tmp_path / "accuracy.md").read_text() == "Nothing has been run yet.\n"
    assert study_summary.accuracy_table([]) == []
    assert all(path.exists() for path in paths)


def test_a_search_with_fewer_trials_than_planned_says_how_many(tmp_path: Path):
    rows = [row for row in rows_of_a_study() if row["kind"] == "search" and row["contender"] in ("cce", "bce 1")]
    summarise(rows[:1] + [row for row in rows if row["contender"] == "bce 1"], tmp_path)
    accuracy = (tmp_path / "accuracy.md").read_text()
    assert "| ml_1m | bce 1 |" in accuracy
    assert accuracy.endswith("|\n\nNot complete: ml_1m cce, 1 of 6 trials.\n")
    assert "Not begun: ml_1m waits for the search of cce, 1 of 6 trials.\n" in (tmp_path / "trade_off.md").read_text()
    summarise(rows, tmp_path)
    assert "Not begun: ml_1m, none of 13 points.\n" in (tmp_path / "trade_off.md").read_text()


def test_rows_that_are_not_there_are_named(tmp_path: Path):
    with pytest.raises(stage.StageError, match=r"--rows: found no .*no.jsonl, allowed: what `python -m pipelines.stu"):
        study.main(["summarise", "--rows", str(tmp_path / "no.jsonl"), "--out", str(tmp_path)])
