"""Folders of outputs that are complete or absent, and JSON and CSV files."""

import csv
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cutrec.checksums import verified
from cutrec.errors import StageError
from rec_data.errors import refuse_if_full
from rec_data.locks import locked

_FRESH, _OLD = ".new", ".old"
"""What `replaced_folder` keeps in its temporary folder. Names of outputs do not begin with a dot."""


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary directory whose entries move to ``final`` when the block ends, and are deleted if it fails.

    The directory is ``.tmp-<name>`` beside ``final``, on the same file system, so that each entry moves by one rename.
    Entries of ``final`` that the block did not write stay: the caller may choose a folder that holds other things.
    Processes that write the same folder wait for each other, so what is in the temporary directory at the start was
    left by one that was killed, and is removed.

    Raises:
        DataError: There is no space left, whichever library reports that, or a lock cannot be created beside it.
    """
    with locked(final):
        recover(final)
        temporary = temporary_folder(final)
        temporary.mkdir()
        try:
            yield temporary
            final.mkdir(exist_ok=True)
            for entry in sorted(temporary.iterdir()):
                target = final / entry.name
                if target.is_dir() and not target.is_symlink():
                    shutil.rmtree(target)
                entry.replace(target)
        except Exception as error:
            refuse_if_full(final, error)
            raise
        finally:
            shutil.rmtree(temporary)


@contextmanager
def replaced_folder(folder: Path, *, without: Iterable[str] = (), keep: bool = True) -> Iterator[Path]:
    """Yield a new folder that takes the place of ``folder`` as a whole when the block ends without an error.

    It begins with what ``folder`` holds, as hard links where the file system has them, except the files of the names
    in ``without``, which the block writes; with nothing if not ``keep``.

    Two renames put it in place, so that there is never a mixture of old and new files as `atomic_folder` may leave
    after a kill. A kill between them leaves no ``folder``; `recover` then brings the old one back.
    """
    with locked(folder):
        recover(folder)
        temporary, folder = temporary_folder(folder), folder.resolve()  # a link to another disk stays
        fresh, old = temporary / _FRESH, temporary / _OLD
        try:
            fresh.mkdir(parents=True)
            if keep:
                ignore = shutil.ignore_patterns(*without)
                shutil.copytree(folder, fresh, symlinks=True, ignore=ignore, copy_function=_link, dirs_exist_ok=True)
            yield fresh
            folder.rename(old)
            fresh.rename(folder)
        except Exception as error:
            refuse_if_full(folder, error)
            raise
        finally:
            recover(folder)


def recover(folder: Path) -> None:
    """Bring back what `replaced_folder` was about to replace when it was killed, and remove what killed writers left.

    The caller holds the lock of the folder.
    """
    temporary, folder = temporary_folder(folder), folder.resolve()
    if not folder.exists() and (temporary / _OLD).exists():
        (temporary / _OLD).rename(folder)
    if temporary.exists():
        shutil.rmtree(temporary)


def temporary_folder(final: Path) -> Path:
    """Where `atomic_folder` and `replaced_folder` write, on the file system of the folder even if that is a link."""
    final = final.resolve()
    return final.parent / f".tmp-{final.name}"


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def atomic_file(final: Path) -> Iterator[Path]:
    """Yield ``<name>.part`` beside ``final``, which gets the final name when the block ends and is deleted if it fails.

    Processes that write the same file wait for each other.
    """
    with locked(final):
        part = final.with_name(f"{final.name}.part")
        try:
            yield part
            part.replace(final)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def unchanged(*paths: Path) -> Iterator[None]:
    """Read files and folders of files that belong together.

    What is made of them is put in place after the check: ``with atomic_folder(out) as folder, unchanged(split)``.

    Raises:
        StageError: another process replaced one of them during the block, which may have failed because of that.
    """
    before = {path: identity(path) for path in paths}
    try:
        yield
    except Exception as error:
        _refuse_changed(before, error)
        raise
    _refuse_changed(before)


def _refuse_changed(before: Mapping[Path, object], cause: Exception | None = None) -> None:
    for path, found in before.items():
        if identity(path) != found:
            raise StageError(
                f"{path}: found that another process wrote it while it was read; run this again"
            ) from cause


def identity(path: Path) -> list[tuple[Path, int, int, int]]:
    """What changes when another process replaces a file, or a file of a folder."""
    files = sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names) or [path]
    found = []
    for file in files:
        with suppress(FileNotFoundError):  # another process has just replaced it
            state = file.stat()
            if stat.S_ISREG(state.st_mode):
                found.append((file, state.st_ino, state.st_size, state.st_mtime_ns))
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        StageError: there is no such file, or it is damaged.
        OSError: it cannot be read.
    """
    text = verified(path).read_bytes()
    try:
        values: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise StageError(f"{path}: found no valid JSON ({error}), allowed: the file that its stage wrote") from error
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write an object as indented JSON with a trailing newline; keys keep their order."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write rows as CSV with a header line."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
