"""Outputs appear whole or not at all; a person's mistake is one line and exit code 1."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from cutrec.workflow import outputs as stage


def test_output_moves_every_entry_when_the_block_ends(tmp_path: Path):
    final = tmp_path / "data" / "split"
    with stage.output(final) as out:
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
    with stage.output(final) as out:
        (out / "folder").mkdir()
        (out / "folder" / "fresh.txt").write_text("new")
    assert [entry.name for entry in (final / "folder").iterdir()] == ["fresh.txt"]
    assert (final / ".gitignore").exists()


def test_output_of_a_failed_block_vanishes(tmp_path: Path):
    final = tmp_path / "split"

    def half() -> None:
        with stage.output(final) as out:
            (out / "a.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list(tmp_path.iterdir()) == []


def test_output_removes_what_a_killed_run_left(tmp_path: Path):
    leftover = tmp_path / ".tmp-split-dead"
    leftover.mkdir()
    (leftover / "a.txt").write_text("half")
    with stage.output(tmp_path / "split") as out:
        (out / "b.txt").write_text("whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["split"]


def test_a_persons_mistake_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]):
    def main() -> None:
        raise stage.StageError("split.strategy:\n  found a,\n  allowed: b")

    with pytest.raises(SystemExit) as caught:
        stage.run(main)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: split.strategy: found a, allowed: b\n"


def test_a_reader_that_has_had_enough_is_no_error():
    program = "from pipelines import stage; stage.run(lambda: print('x' * 10_000_000))"
    ran = subprocess.run(
        f"'{sys.executable}' -c \"{program}\" | head -c 1", shell=True, capture_output=True, check=False
    )
    assert (ran.stdout, ran.stderr) == (b"x", b"")


def test_a_defect_keeps_its_traceback():
    def main() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        stage.run(main)


def test_checkout_of_a_queued_copy_is_the_live_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copy = tmp_path / "repo" / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert stage.checkout() == (tmp_path / "repo").resolve()


def test_checkout_elsewhere_is_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert stage.checkout() == tmp_path.resolve()


def test_room_is_made_before_the_work_and_a_bad_place_is_one_line(tmp_path: Path):
    stage.room_for_file("--out", tmp_path / "new" / "folder" / "a.csv")
    assert (tmp_path / "new" / "folder").is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(stage.StageError, match=r"--out: found .*file.*, allowed: a folder, or a place where one"):
            stage.room_for_folder("--out", path)
    with pytest.raises(stage.StageError, match=r"--page: found .*new, a folder, allowed: a file"):
        stage.room_for_file("--page", tmp_path / "new")
    with pytest.raises(stage.StageError, match=r"--page: found .*file, allowed: a folder"):
        stage.room_for_file("--page", tmp_path / "file" / "x.md")


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("compare", ["a", "b", "--out", "file/x.csv"]),
        ("describe", ["--out", "file"]),
        ("measure", ["--out", "file/x.csv"]),
        ("plan", ["--check", "a.csv", "--page", "file/x.md"]),
        ("recommend", ["--out", "file/x.parquet"]),
        ("study", ["run", "--data", ".", "--rows", "file/x.jsonl"]),
        ("tables", ["--no-dvc", "--out", "file"]),
    ],
)
def test_no_verb_works_first_and_finds_no_place_for_the_outcome_then(verb: str, arguments: list[str], workplace):
    (workplace({}) / "file").write_text("")
    with pytest.raises(stage.StageError, match=r"^--(out|page|rows): found file"):
        importlib.import_module(f"pipelines.{verb}").main(arguments)
