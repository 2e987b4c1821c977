"""Checksums of the outputs of a stage, and errors that name the stage whose output is missing or damaged.

`NAME` in the folder of a stage lists its CSV, JSON and parquet files and its model. Sequence stores hold checksums of
their own. ``sha256sum --check SHA256SUMS`` reads the same file.
"""

import functools
import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cutrec.errors import StageError
from cutrec.paths import STAGES
from rec_data.errors import DataError

NAME = "SHA256SUMS"
SUFFIXES = (".csv", ".json", ".parquet", ".safetensors")
"""Of the files that are listed."""
Value = TypeVar("Value")


def write_checksums(folder: Path) -> None:
    """List the SHA-256 of the files of a folder and its subfolders that have one of `SUFFIXES`, in `NAME`."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    lines = [f"{file_hash(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / NAME).write_text("".join(lines), encoding="utf-8")


def verified(path: Path) -> Path:
    """Return the path of an output that is as its stage wrote it.

    A file that is not listed is not compared. If a stage's folder has no list, as those of earlier versions, one note
    says so.

    Raises:
        StageError: there is no such file, or it has another checksum than the listed one.
    """
    if not path.is_file():
        raise missing(path)
    known = listed_checksum(path)
    if known is not None and known != file_hash(path):
        raise StageError(
            f"{path} and {_list_of(path)} do not fit each other: one of them was damaged, edited or restored"
            + _cure(path, "makes both")
        )
    if _list_of(path) is None and (folder := _stage_folder(path)) is not None:
        _note_unlisted(folder)
    return path


def verify_folder(folder: Path) -> None:
    """Compare all listed files of a folder; does nothing if it has no list.

    Raises:
        StageError: a listed file is missing, or has another checksum.
    """
    if (folder / NAME).is_file():
        for name in _read_list(folder / NAME):
            verified(folder / name)


def listed_checksum(path: Path) -> str | None:
    """The SHA-256 that a file had when its stage wrote it; None if no list names it."""
    if (place := _list_of(path)) is None:
        return None
    return _read_list(place).get(path.relative_to(place.parent).as_posix())


def checksum(path: Path) -> str:
    """The SHA-256 of a file: the listed one, which `verified` compares, or else that of its content."""
    return listed_checksum(path) or file_hash(path)


def read_output(read: Callable[..., Value], path: Path, **options: Any) -> Value:
    """Read an output of a stage with a function of another package, whose errors then name the stage.

    Raises:
        StageError: there is no such file, or it is damaged or belongs to other files.
    """
    with stage_errors(path):
        return read(verified(path), **options)


@contextmanager
def stage_errors(path: Path) -> Iterator[None]:
    """Turn a `DataError` about an output of a stage, or about its folder, into a `StageError` that names the stage."""
    try:
        yield
    except DataError as error:
        raise StageError(f"{error}{_cure(path, 'makes it again')}") from error


def missing(path: Path) -> StageError:
    """The error for an output of a stage that is not there, which names the stage."""
    folder = _stage_folder(path)
    return StageError(f"{path}: no such file" + (f", the stage {folder.name} writes it (dvc repro)" if folder else ""))


def _cure(path: Path, what: str) -> str:
    folder = _stage_folder(path)
    return "" if folder is None else f"; `dvc repro -f {folder.name}` {what}"


def _stage_folder(path: Path) -> Path | None:
    return next((place for place in [path, *path.parents][:3] if place.name in STAGES), None)


def _read_list(place: Path) -> dict[str, str]:
    """The checksums by name."""
    lines = [line.partition("  ") for line in place.read_bytes().decode(errors="replace").splitlines()]
    if not all(name for _, _, name in lines):
        raise StageError(
            f"{place} is damaged: found a line without a name, allowed: CHECKSUM  NAME{_cure(place, 'makes it again')}"
        )
    return {name: digest for digest, _, name in lines}


def _list_of(path: Path) -> Path | None:
    """The list in the folder of a file or in the one above."""
    return next((place for folder in list(path.parents)[:2] if (place := folder / NAME).is_file()), None)


@functools.cache
def _note_unlisted(folder: Path) -> None:
    print(f"note: {folder} has no {NAME}, so its files are not checked for damage (dvc repro)", file=sys.stderr)


def file_hash(path: Path) -> str:
    """The SHA-256 of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
