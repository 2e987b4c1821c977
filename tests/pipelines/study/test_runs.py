"""Runs of the study: what a row holds, and what a run that crashed leaves."""

from pathlib import Path

import pytest

from pipelines.study import __main__ as study
from pipelines.study import runs as study_trial
from pipelines.study.trials import Trial
from tests.small_log import small_log

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
    assert names == {"items.parquet", "users.parquet", "summary.json", "test.parquet", *stores}


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
    assert row["note"].startswith("StageError: ")


def test_rows_survive_a_line_that_was_cut_off(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    first, second = ({**dict.fromkeys(study_trial.IDENTITY, "x"), "seed": seed} for seed in (1, 2))
    study_trial.append(path, first)
    with path.open("a") as file:
        file.write('{"b": 2')
    study_trial.append(path, second)
    assert study_trial.read(path) == [first, second]
    assert study_trial.read(tmp_path / "none") == []


@pytest.mark.parametrize("text", ["hello\n", "5\n", '{"kind": "search"}\n', "PAR1"])
def test_another_file_is_refused(tmp_path: Path, text: str):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"rows.jsonl.*: found no row of the accuracy study"):
        study_trial.read(tmp_path / "rows.jsonl")
