"""Folders of outputs that are complete or absent, and JSON and CSV files."""

import csv
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cutrec.checksums import verified
from cutrec.errors import StageError
from rec_data.errors import refuse_if_full
from rec_data.locks import locked


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary directory whose entries move to ``final`` when the block ends, and are deleted if it fails.

    The directory is ``.tmp-<name>`` beside ``final``, on the same file system, so that each entry moves by one rename.
    Entries of ``final`` that the block did not write stay. Processes that write the same folder wait for each other, so
    what is in the temporary directory at the start was left by one that was killed, and is removed.

    Raises:
        DataError: There is no space left, whichever library reports that, or a lock cannot be created beside it.
    """
    with locked(final):
        temporary = final.parent / f".tmp-{final.name}"
        if temporary.exists():
            shutil.rmtree(temporary)
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

    Raises:
        StageError: another process replaced one of them during the block.
    """
    before = {path: identity(path) for path in paths}
    yield
    for path, found in before.items():
        if identity(path) != found:
            raise StageError(f"{path}: found that another process wrote it while it was read; run this again")


def identity(path: Path) -> list[tuple[Path, int, int, int]]:
    """What changes when another process replaces a file, or a file of a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [(file, file.stat()) for file in files if file.is_file()]
    return [(file, state.st_ino, state.st_size, state.st_mtime_ns) for file, state in found]


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
