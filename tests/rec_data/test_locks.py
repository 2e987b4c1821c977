"""One process at a time works on a path, whoever is killed meanwhile."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from rec_data.errors import DataError
from rec_data.locks import is_locked, locked

COUNT = """
import sys, time
from pathlib import Path
from rec_data.locks import locked
path = Path(sys.argv[1])
for _ in range(25):
    with locked(path):
        before = int(path.read_text())
        time.sleep(0.001)
        path.write_text(str(before + 1))
"""
HOLD = """
import sys
from pathlib import Path
from rec_data.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def start(code: str, path: Path) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code, str(path)], text=True, **pipes)


def test_no_two_processes_are_in_the_block_and_nothing_is_left(tmp_path: Path):
    path = tmp_path / "counter"
    path.write_text("0")
    for process in [start(COUNT, path) for _ in range(4)]:
        assert process.wait() == 0, process.stderr.read()
    assert path.read_text() == "100"
    assert [entry.name for entry in tmp_path.iterdir()] == ["counter"]


def test_a_lock_that_is_released_before_its_holder_is_read_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "counter"
    first = start(HOLD, path)
    assert first.stdout.readline() == "held\n"
    read = Path.read_text

    def late(file: Path, **options: str) -> str:
        first.communicate("\n")
        return read(file, **options)

    monkeypatch.setattr(Path, "read_text", late)
    with locked(path):
        pass
    assert capsys.readouterr().err.startswith("note: waiting for another process, which works on ")


def test_who_waits_says_for_whom_and_goes_on_when_that_process_is_killed(tmp_path: Path):
    path = tmp_path / "new" / "folder"
    first = start(HOLD, path)
    assert first.stdout.readline() == "held\n"
    assert is_locked(path)
    second = start(HOLD, path)
    assert second.stderr.readline().startswith(f"note: waiting for process {first.pid} on ")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.stdout.readline() == "held\n"
    second.communicate("\n")
    assert second.returncode == 0
    assert not is_locked(path)
    assert list(path.parent.iterdir()) == []


def test_the_file_of_a_killed_process_is_no_lock_and_is_removed(tmp_path: Path):
    path = tmp_path / "folder"
    process = start(HOLD, path)
    process.stdout.readline()
    process.kill()
    process.wait()
    assert len(list(tmp_path.iterdir())) == 1
    assert not is_locked(path)
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_releases_the_lock(tmp_path: Path):
    try:
        with locked(tmp_path / "x"):
            assert f"process {os.getpid()}" in (tmp_path / ".x.lock").read_text()
            raise KeyError
    except KeyError:
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_only_the_name_of_the_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with locked(tmp_path / "x"):
        assert is_locked(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_hold_the_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with (
        pytest.raises(DataError, match=rf"{tmp_path}.* cannot be written: {os.strerror(code)}"),
        locked(tmp_path / "x"),
    ):
        pass
