"""Output folders are complete or absent."""

from pathlib import Path

import pytest

from cutrec.outputs import atomic_folder


def test_every_entry_moves_when_the_block_ends(tmp_path: Path):
    final = tmp_path / "data" / "split"
    with atomic_folder(final) as out:
        (out / "a.txt").write_text("new")
        (out / "folder").mkdir()
        (out / "folder" / "b.txt").write_text("new")
        assert not final.exists()
    assert (final / "a.txt").read_text() == "new"
    assert (final / "folder" / "b.txt").read_text() == "new"
    assert [entry.name for entry in final.parent.iterdir()] == ["split"]


def test_written_entries_are_replaced_and_others_stay(tmp_path: Path):
    final = tmp_path / "train"
    (final / "folder").mkdir(parents=True)
    (final / "folder" / "stale.txt").write_text("old")
    (final / ".gitignore").write_text("/model.ckpt\n")
    with atomic_folder(final) as out:
        (out / "folder").mkdir()
        (out / "folder" / "fresh.txt").write_text("new")
    assert [entry.name for entry in (final / "folder").iterdir()] == ["fresh.txt"]
    assert (final / ".gitignore").exists()


def test_nothing_is_left_of_a_failed_block(tmp_path: Path):
    def half() -> None:
        with atomic_folder(tmp_path / "split") as out:
            (out / "a.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path):
    leftover = tmp_path / ".tmp-split"
    leftover.mkdir()
    (leftover / "a.txt").write_text("half")
    with atomic_folder(tmp_path / "split") as out:
        (out / "b.txt").write_text("whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["split"]
