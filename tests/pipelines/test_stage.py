"""Outputs appear whole or not at all; a person's mistake is one line and exit code 1."""

from pathlib import Path

import pytest

from pipelines import stage


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
