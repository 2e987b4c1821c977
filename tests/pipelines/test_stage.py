"""A stage refuses parameters that changed since its run began, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cutrec.config import load
from cutrec.errors import ConfigError, StageError
from pipelines import download, source, split, stage, train
from tests.e2e.conftest import copy_repository
from tests.small_log import ROOT, small_log, write_params

Make = Callable[[dict[str, Any]], Path]


@pytest.fixture
def project(workplace: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where DVC, which is this process, runs a stage."""
    folder = workplace({"loss": "cce_neg"})
    (folder / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    monkeypatch.setenv("DVC_STAGE", "train")
    monkeypatch.setattr(stage, "_dvc", lambda: psutil.Process())
    monkeypatch.setattr(stage, "PATIENCE", 0.0)
    return folder


def test_parameters_that_changed_since_the_run_began_are_refused(project: Path):
    stage.begin(load())
    assert stage.load_of_run() == load()
    write_params(project, {"loss": "cce", "evaluate.batch_users": 13})
    with pytest.raises(StageError) as caught:
        stage.load_of_run()
    text = str(caught.value)
    assert "found loss=cce (was cce_neg), evaluate.batch_users=13 (was 1024), allowed: what this run began with" in text
    stage.begin(load())
    assert stage.load_of_run().loss == "cce"


def test_what_leaves_the_parameters_alone_is_no_change(project: Path):
    stage.begin(load())
    write_params(project, {"loss": "cce_neg", "presets.toys_cce.batch_size": 7, "grid.settings.seed": 3})
    stage.load_of_run()


def test_a_stage_by_hand_and_one_of_another_command_belong_to_no_run(project: Path, monkeypatch: pytest.MonkeyPatch):
    stage.begin(load())
    write_params(project, {"loss": "cce"})
    other = psutil.Process(1)
    monkeypatch.setattr(stage, "_dvc", lambda: other)
    assert stage.load_of_run().loss == "cce"
    monkeypatch.setattr(stage, "_dvc", lambda: None)
    assert stage.load_of_run().loss == "cce"
    monkeypatch.delenv("DVC_STAGE")
    stage.refuse_edit("train", load())


@pytest.mark.parametrize("days", [0, 2])
@pytest.mark.parametrize("kind", ["ended", "reused", "running", "damaged"])
def test_only_old_records_of_ended_runs_are_removed(project: Path, kind: str, days: int):
    """A fresh one may be of a DVC in another container, whose processes have other numbers."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time() - (100 if kind == "reused" else 0)
    if kind == "ended":
        process.communicate()
    (project / "data").mkdir()
    record = project / "data" / stage.RECORD.format(process.pid)
    record.write_text("" if kind == "damaged" else json.dumps({"started": started, "parameters": {}}))
    written = time.time() - days * 86_400
    os.utime(record, (written, written))
    stage.begin(load())
    assert record.exists() == (days == 0 or kind == "running")
    assert (project / "data" / stage.RECORD.format(os.getpid())).exists()
    if kind != "ended":
        process.communicate()


def test_the_last_stage_removes_the_record_of_its_run(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["stage"])
    record = project / "data" / stage.RECORD.format(os.getpid())
    for name in ("source", "train", "report"):
        with pytest.raises(SystemExit) as ended:
            stage.run(name, "A stage.", lambda _: None)
        assert ended.value.code == 0
        assert record.exists() == (name != "report")


@pytest.mark.parametrize(
    ("name", "change", "refused"),
    [
        ("train", {"train.max_epochs": 3}, True),
        ("train", {"evaluate.filter_seen": False}, True),
        ("train", {"evaluate.batch_users": 3}, False),
        ("evaluate", {"evaluate.batch_users": 3}, True),
        ("evaluate", {"train.max_epochs": 3}, False),
        ("download", {"download.min_rating": 3.0}, True),
        ("split", {"split.strategy": "leave_one_out"}, True),
        ("report", {"seed": 1}, True),
    ],
)
def test_a_stage_does_not_end_if_what_it_read_has_changed(project: Path, name: str, change: dict, refused: bool):
    """DVC would record the new values as those that the stage ran with."""
    settings = load()
    write_params(project, {"loss": "cce_neg", **change})
    if refused:
        with pytest.raises(StageError, match=r"^params.yaml: found .* allowed: what this stage began with; "):
            stage.refuse_edit(name, settings)
    else:
        stage.refuse_edit(name, settings)


def test_a_file_that_is_put_back_in_time_is_unchanged(project: Path, monkeypatch: pytest.MonkeyPatch):
    """``dvc exp run --queue`` empties the file, writes its own parameters and restores it, within about a second."""
    stage.begin(load())
    before = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text("")
    with pytest.raises(ConfigError):
        stage.load_of_run()
    monkeypatch.setattr(stage, "PATIENCE", 30.0)

    def restore() -> None:
        time.sleep(0.3)
        write_params(project, {"loss": "cce"})
        time.sleep(0.3)
        (project / "params.yaml").write_text(before)

    thread = threading.Thread(target=restore)
    thread.start()
    assert stage.load_of_run().loss == "cce_neg"
    thread.join()


def test_a_stage_that_fails_says_how_to_bring_back_the_committed_parameters(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    subprocess.run(
        "git init -q && git add -A && git -c user.name=t -c user.email=t@t commit -qm x", shell=True, check=True
    )

    def fail(_: object) -> None:
        raise StageError("found a, allowed: b")

    def printed() -> list[str]:
        with pytest.raises(SystemExit) as ended:
            stage.run("source", "A stage.", fail)
        assert ended.value.code == 1
        return capsys.readouterr().err.splitlines()

    monkeypatch.setattr(sys, "argv", ["stage"])
    assert printed() == ["error: found a, allowed: b"]
    write_params(project, {"loss": "cce", "seed": 1})
    error, note = printed()
    assert (
        note
        == "note: params.yaml is not as committed (loss, seed): `uv run cutrec reset` brings back the committed one"
    )
    copy = project / ".dvc/tmp/exps/copy"  # of a queued experiment, which leaves the checkout as it is
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".dvc"))
    monkeypatch.chdir(copy)
    assert printed() == [error]


def test_the_process_of_dvc_is_the_first_one_above_that_is_no_stage():
    code = "import pipelines.stage as s; print(s._dvc() and s._dvc().pid)"
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    inside = {**environment, "DVC_STAGE": "train"}
    for shell in ([], ["sh", "-c", '"$@"; true', "sh"]):  # a shell that stays, and none
        command = [*shell, sys.executable, "-c", code]
        found = subprocess.run(command, env=inside, capture_output=True, text=True, check=True)
        assert found.stdout == f"{os.getpid()}\n"
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == "None\n"


@pytest.mark.slow
def test_a_run_refuses_parameters_that_a_second_run_wrote(tmp_path: Path):
    """DVC refuses the second one after it has changed params.yaml; the first one then keeps what it trained."""
    copy_repository(tmp_path)
    (tmp_path / "dvc.lock").unlink(missing_ok=True)
    # Training goes on for much longer than the second run needs to start.
    small = {"max_seq_len": 8, "backbone.hidden": 16, "train.max_epochs": 100, "train.patience": 100}
    write_params(tmp_path, {"dataset": "log.parquet", **small})
    small_log().write_parquet(tmp_path / "log.parquet")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "SHELL": "/bin/sh", "OMP_NUM_THREADS": "1"}

    def start(command: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(["sh", "-c", command], cwd=tmp_path, env=environment, text=True, **pipes)

    identity = "git config user.name test && git config user.email test@localhost"
    assert start(f"git init -q && {identity} && git add -A && git commit -qm start").wait() == 0
    first = start("dvc exp run -n first -S evaluate.batch_users=11")
    while not list(tmp_path.glob(".checkpoints/*/last.ckpt")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.1)
    second = start("dvc exp run -n second -S loss=cce -S evaluate.batch_users=13")
    printed, _ = second.communicate()
    assert second.returncode != 0
    assert "is busy" in printed
    printed, _ = first.communicate()
    assert first.returncode != 0
    (error,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: params.yaml: found loss=cce (was auto), allowed: what this stage began with; ")
    assert not (tmp_path / "data/train/model.safetensors").exists()

    assert list(tmp_path.glob(".checkpoints/*/last.ckpt"))

    again = start("git show HEAD:params.yaml > params.yaml && dvc exp run -n first train -S evaluate.batch_users=11")
    printed, _ = again.communicate()
    assert again.returncode == 0, printed
    assert list(tmp_path.glob(".checkpoints/*/complete"))


def test_a_complete_training_whose_outputs_are_lost_is_not_repeated(project: Path, capsys: pytest.CaptureFixture[str]):
    """DVC deletes the outputs of a stage that it did not record, such as one with an edit after its last check."""
    small_log().write_parquet(project / "log.parquet")
    small = {"dataset": "log.parquet", "max_seq_len": 8, "backbone.hidden": 8, "train.max_epochs": 3}
    write_params(project, small)
    for step in (source, download, split, train):
        step.main(load())
    model, history = (project / "data/train" / name for name in ("model.safetensors", "history.csv"))
    first = model.read_bytes(), history.read_text()
    shutil.rmtree(project / "data/train")
    write_params(project, small)
    capsys.readouterr()
    train.main(load())
    assert (model.read_bytes(), history.read_text()) == first
    printed = capsys.readouterr().err
    assert "note: this training is complete, its model is taken" in printed
    assert "epoch 1" not in printed
