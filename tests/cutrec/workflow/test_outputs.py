"""Outputs appear whole or not at all; a person's mistake is one line and exit code 1."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from cutrec.console import prepare_output_file, prepare_output_folder, run_and_exit
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder
from cutrec.paths import live_checkout


def test_output_moves_every_entry_when_the_block_ends(tmp_path: Path):
    final = tmp_path / "data" / "split"
    with atomic_folder(final) as out:
        (out / "a.txt").write_text("new")
        (out / "folder").mkdir()
        (out / "folder" / "b.txt").write_text("new")
        assert not final.exists()
    assert (final / "a.txt").read_text() == "new"
    assert (final / "folder" / "b.txt").read_text() == "new"
    assert [entry.name for entry in final.parent.iterdir()] == ["split"]


def test_output_replaces_what_it_wrote_and_keeps_the_rest(tmp_path: Path):
    final = tmp_path / "train"
    (final / "folder").mkdir(parents=True)
    (final / "folder" / "stale.txt").write_text("old")
    (final / ".gitignore").write_text("/model.ckpt\n")
    with atomic_folder(final) as out:
        (out / "folder").mkdir()
        (out / "folder" / "fresh.txt").write_text("new")
    assert [entry.name for entry in (final / "folder").iterdir()] == ["fresh.txt"]
    assert (final / ".gitignore").exists()


def test_output_of_a_failed_block_vanishes(tmp_path: Path):
    final = tmp_path / "split"

    def half() -> None:
        with atomic_folder(final) as out:
            (out / "a.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list(tmp_path.iterdir()) == []


def test_output_removes_what_a_killed_run_left(tmp_path: Path):
    leftover = tmp_path / ".tmp-split-dead"
    leftover.mkdir()
    (leftover / "a.txt").write_text("half")
    with atomic_folder(tmp_path / "split") as out:
        (out / "b.txt").write_text("whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["split"]


def test_a_persons_mistake_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]):
    def main() -> None:
        raise StageError("split.strategy:\n  found a,\n  allowed: b")

    with pytest.raises(SystemExit) as caught:
        run_and_exit(main)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: split.strategy: found a, allowed: b\n"


def test_a_reader_that_has_had_enough_is_no_error():
    program = "from pipelines import stage; run_and_exit(lambda: print('x' * 10_000_000))"
    ran = subprocess.run(
        f"'{sys.executable}' -c \"{program}\" | head -c 1", shell=True, capture_output=True, check=False
    )
    assert (ran.stdout, ran.stderr) == (b"x", b"")


def test_a_defect_keeps_its_traceback():
    def main() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        run_and_exit(main)


def test_checkout_of_a_queued_copy_is_the_live_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copy = tmp_path / "repo" / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert live_checkout() == (tmp_path / "repo").resolve()


def test_checkout_elsewhere_is_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert live_checkout() == tmp_path.resolve()


def test_room_is_made_before_the_work_and_a_bad_place_is_one_line(tmp_path: Path):
    prepare_output_file("--out", tmp_path / "new" / "folder" / "a.csv")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StageError, match=r"--out: found .*file.*, allowed: a folder, or a place where one"):
            prepare_output_folder("--out", path)
    with pytest.raises(StageError, match=r"--page: found .*new, a folder, allowed: a file"):
        prepare_output_file("--page", tmp_path / "new")
    with pytest.raises(StageError, match=r"--page: found .*file, allowed: a folder"):
        prepare_output_file("--page", tmp_path / "file" / "x.md")


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("compare", ["a", "b", "--out", "file/x.csv"]),
        ("describe", ["--out", "file"]),
        ("measure", ["--out", "file/x.csv"]),
        ("plan", ["--authors", "file"]),
        ("plan", ["--check", "a.csv", "--page", "file/x.md"]),
        ("recommend", ["--out", "file/x.parquet"]),
        ("study", ["run", "--data", ".", "--rows", "file/x.jsonl"]),
        ("tables", ["--no-dvc", "--out", "file"]),
    ],
)
def test_no_verb_works_first_and_finds_no_place_for_the_outcome_then(verb: str, arguments: list[str], workplace):
    (workplace({}) / "file").write_text("")
    with pytest.raises(StageError, match=r"^--(out|page|authors|rows): found file"):
        importlib.import_module(f"pipelines.{verb}").main(arguments)
