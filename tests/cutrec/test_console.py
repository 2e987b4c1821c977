"""A mistake of the user is one line and an exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

from cutrec.console import is_first_process, prepare_output_file, prepare_output_folder, run_and_exit
from cutrec.errors import StageError, UsageError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StageError("split.strategy:\n  found a,\n  allowed: b"), 1, "error: split.strategy: found a, allowed: b\n"),
        (UsageError("--k: found 0"), 2, "error: --k: found 0\n"),
        (FileNotFoundError(2, "No such file", "a.csv"), 1, "error: [Errno 2] No such file: 'a.csv'\n"),
        (MemoryError(), 1, "error: out of memory\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (None, 0, ""),
    ],
    ids=["input", "command line", "file", "memory", "ctrl-c", "success"],
)
def test_exit_codes(error: BaseException | None, code: int, line: str, capsys: pytest.CaptureFixture[str]):
    def main() -> None:
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as caught:
        run_and_exit(main)
    assert caught.value.code == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "1"}, True),  # a cluster's number of the machine, without torchrun
        ({"TORCHELASTIC_RUN_ID": "none", "RANK": "2", "LOCAL_RANK": "0"}, False),  # the first of the second machine
        ({"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "LOCAL_RANK": "0"}, True),
    ],
)
def test_one_process_of_a_training_is_the_first(
    variables: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == first


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def main() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        run_and_exit(main)

    def mistake() -> None:
        raise StageError("a mistake")

    monkeypatch.setenv("CUTREC_TRACEBACK", "1")
    with pytest.raises(StageError):
        run_and_exit(mistake)


def test_a_reader_that_closes_the_pipe_is_no_error():
    program = "from cutrec.console import run_and_exit; run_and_exit(lambda: print('x' * 10_000_000))"
    ran = subprocess.run(
        f"'{sys.executable}' -c \"{program}\" | head -c 1", shell=True, capture_output=True, check=False
    )
    assert (ran.stdout, ran.stderr) == (b"x", b"")


def test_a_bad_place_for_an_output_is_one_line(tmp_path: Path):
    prepare_output_file("--out", tmp_path / "new" / "folder" / "a.csv")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            StageError, match=r"file.* cannot be written to \((File exists|Not a directory)\), allowed: .* --out$"
        ):
            prepare_output_folder("--out", path)
    with pytest.raises(StageError, match=r"--page: found .*new, a folder, allowed: a file"):
        prepare_output_file("--page", tmp_path / "new")
    with pytest.raises(
        StageError, match=r"file cannot be written to \(File exists\), allowed: another folder, by --page"
    ):
        prepare_output_file("--page", tmp_path / "file" / "x.md")
