"""Folders of outputs that are complete or absent, and JSON and CSV files."""

import csv
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cutrec.checksums import verified
from cutrec.errors import StageError
from rec_data.errors import refuse_if_full


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary directory whose entries move to ``final`` when the block ends, and are deleted if it fails.

    The directory is created beside ``final``, on the same file system, so that each entry moves by one rename. Entries
    of ``final`` that the block did not write stay. Leftovers of a killed run are removed at the start.

    Raises:
        DataError: There is no space for the folder, in words of whatever library noticed it.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".tmp-{final.name}-"
    for leftover in final.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
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


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        StageError: the file is damaged.
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
