"""Who may use the folder of an interrupted training, and how long it is kept."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cutrec.workflow.checkpoints import COMPLETE, KEPT, KEPT_DAYS, run_folder
from rec_data.locks import is_locked, locked

NAME = "0123456789abcdef"
RUN = """
import sys, time
from pathlib import Path
from cutrec.workflow.checkpoints import run_folder
with run_folder(Path(sys.argv[1]), sys.argv[2]) as folder:
    print("found" if folder.exists() else "new", flush=True)
    folder.mkdir(exist_ok=True)
    (folder / "last.ckpt").write_text("state")
    input()
"""


def start(checkpoints: Path) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", RUN, str(checkpoints), NAME], text=True, **pipes)


def left_over(checkpoints: Path, name: str, days: float) -> Path:
    """An interrupted training whose last checkpoint is that old."""
    folder = checkpoints / name
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(bytes(1024))
    written = time.time() - days * 86_400
    os.utime(folder / "last.ckpt", (written, written))
    return folder


def test_a_run_keeps_its_checkpoints_until_it_is_complete_and_another_one_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def fail() -> None:
        with run_folder(tmp_path, NAME) as folder:
            folder.mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    for note in ("", "note: this training is complete, its model is taken (rm -r "):
        with run_folder(tmp_path, NAME) as folder:
            assert folder.is_dir()
        assert [path.name for path in tmp_path.glob("**/*")] == [NAME, COMPLETE]
        assert capsys.readouterr().err.startswith(note)
    with run_folder(tmp_path, "f" * 16):
        assert not folder.exists()
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_ends_meanwhile_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other = left_over(tmp_path, "f" * 16, days=1)

    def ends(path: Path) -> bool:
        if path == other:
            shutil.rmtree(other)
        return is_locked(path)

    monkeypatch.setattr("cutrec.workflow.checkpoints.is_locked", ends)
    with run_folder(tmp_path, NAME):
        pass
    assert list(tmp_path.iterdir()) == []


def test_processes_that_train_the_same_take_turns_and_hand_the_result_on(tmp_path: Path):
    first = start(tmp_path)
    assert first.stdout.readline() == "new\n"
    second = start(tmp_path)
    assert f"waiting for process {first.pid} on" in second.stderr.readline()
    third = start(tmp_path)
    assert "waiting for" in third.stderr.readline()
    first.communicate("\n")
    for process in (second, third):  # either may be the next
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in (second, third)] == ["found\n", "found\n"]
    assert (first.returncode, second.returncode, third.returncode) == (0, 0, 0)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_whoever_waits_resumes_what_a_killed_process_left(tmp_path: Path):
    first = start(tmp_path)
    first.stdout.readline()
    second = start(tmp_path)
    second.stderr.readline()
    first.kill()
    first.wait()
    assert second.stdout.readline() == "found\n"
    second.communicate("\n")
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_interrupted_trainings_expire_by_age_and_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    too_old = [left_over(tmp_path, f"{number:016x}", KEPT_DAYS + 1 + number) for number in range(2)]
    others = [left_over(tmp_path, f"{number:016x}-refit-3", number) for number in range(KEPT + 2)]
    foreign = left_over(tmp_path, "my-notes", 1000)
    (tmp_path / ".00000000000000aa.lock").write_text("of a killed process")
    with run_folder(tmp_path, NAME):
        assert not any(folder.exists() for folder in (*too_old, *others[KEPT:]))
        assert all(folder.exists() for folder in (*others[:KEPT], foreign))
        assert not (tmp_path / ".00000000000000aa.lock").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert f"holds {KEPT} interrupted trainings (0.00 GiB, the oldest of 20" in line
    assert line.endswith("4 expired ones were removed")


def test_what_a_process_works_on_does_not_expire(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = left_over(tmp_path, "00000000000000aa", 1000)
    own = left_over(tmp_path, NAME, 1000)
    with locked(folder), run_folder(tmp_path, NAME):
        assert folder.is_dir()
        assert own.is_dir()
        assert is_locked(folder)
    assert capsys.readouterr().err == ""
