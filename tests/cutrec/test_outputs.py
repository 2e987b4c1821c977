"""Output folders are complete or absent."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cutrec.errors import StageError
from cutrec.outputs import atomic_file, atomic_folder, unchanged
from rec_data.errors import DataError


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
    (final / ".gitignore").write_text("/model.safetensors\n")
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


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_full_disk_names_the_folder(tmp_path: Path, kind: type[Exception]):
    reason = os.strerror(errno.ENOSPC)

    def fill(*name: str) -> None:
        with atomic_folder(tmp_path / "split"):
            raise OSError(errno.ENOSPC, reason, *name) if kind is OSError else kind(f"IO error: {reason} (os error 28)")

    if kind is OSError:
        with pytest.raises(
            DataError, match=r"^/other/last\.ckpt cannot be written: No space left on device \(in /other\)"
        ):
            fill("/other/last.ckpt")
    with pytest.raises(
        DataError, match=rf"^{tmp_path}/split cannot be written: No space left on device \(in {tmp_path}\)"
    ):
        fill()


WRITE = """
import sys
from pathlib import Path
from cutrec.outputs import atomic_folder
final, name = Path(sys.argv[1]), sys.argv[2]
for _ in range(15):
    with atomic_folder(final) as out:
        for entry in range(8):
            (out / str(entry)).mkdir()
            (out / str(entry) / "text").write_text(name)
"""


def texts(folder: Path) -> set[str]:
    found = [(folder / str(entry) / "text").read_text() for entry in range(8)]
    return set(found)


def write_at_once(final: Path, *names: str) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen([sys.executable, "-c", WRITE, str(final), name]) for name in names]


def test_a_folder_that_processes_write_at_once_is_of_one_of_them(tmp_path: Path):
    """Of names of which one begins with the other, too."""
    writers = write_at_once(tmp_path / "a", "one", "two") + write_at_once(tmp_path / "a-b", "three", "four")
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    assert texts(tmp_path / "a") in ({"one"}, {"two"})
    assert texts(tmp_path / "a-b") in ({"three"}, {"four"})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "a-b"]


def test_a_killed_process_leaves_nothing_after_the_next_one(tmp_path: Path):
    random = np.random.default_rng(0)
    for delay in random.uniform(0.05, 0.4, 4):
        killed, other = write_at_once(tmp_path / "a", "killed", "other")
        time.sleep(delay)
        killed.kill()
        killed.wait()
        (last,) = write_at_once(tmp_path / "a", "last")
        assert (other.wait(), last.wait()) == (0, 0)
        assert texts(tmp_path / "a") in ({"other"}, {"last"})
        assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_file_is_whole_or_absent(tmp_path: Path):
    final = tmp_path / "lists.parquet"

    def half() -> None:
        with atomic_file(final) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list(tmp_path.iterdir()) == []
    with atomic_file(final) as part:
        part.write_text("whole")
        assert not final.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["lists.parquet"]


def test_what_is_replaced_while_it_is_read_is_refused(tmp_path: Path):
    for name in ("a", "b"):
        with atomic_folder(tmp_path / name) as out:
            (out / "text").write_text("same")
    with unchanged(tmp_path / "a", tmp_path / "b" / "text", tmp_path / "absent"):
        pass

    def replace(fail: bool) -> None:
        with atomic_folder(tmp_path / "made") as made, unchanged(tmp_path / "b"):
            (made / "text").write_text("of both")
            with atomic_folder(tmp_path / "b") as out:
                (out / "text").write_text("same")
            if fail:
                raise IndexError("of rows that are gone")

    for fail in (False, True):
        with pytest.raises(StageError, match=r"b: found that another process wrote it"):
            replace(fail)
    assert not (tmp_path / "made").exists()
