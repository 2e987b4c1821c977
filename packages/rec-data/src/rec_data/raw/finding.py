"""The user's own files: finding them by a path, a folder or a glob, in a fixed order."""

import difflib
import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path, PurePath
from urllib.request import url2pathname

from rec_data.errors import DataError

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".txt", ".inter")
COMPRESSION = (".gz", ".zst")

_MOST_LISTED = 10_000
"""Files of a folder that are looked at to name a glob."""

_ALLOWED = ", ".join((*PARQUET, *TEXT)) + "; text may end in .gz or .zst"


def looks_like_path(dataset: str) -> bool:
    """Whether ``dataset`` names files (a path or a glob) and not a source."""
    return any(mark in dataset for mark in "/\\*?[") or format_of(dataset) is not None


def is_address(dataset: str) -> bool:
    """Whether ``dataset`` is an address (``s3://bucket/log.parquet``) that is not one of a local file."""
    scheme, mark, _ = dataset.strip().partition("://")
    return bool(mark) and scheme.lower() != "file" and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) is not None


def find(dataset: str, *, root: Path, what: str = "dataset") -> list[Path]:
    """Find the files that a path, a glob or a ``file://`` address names, in ``natural_order``, as ``check`` keeps them.

    A folder stands for the files directly inside it (``parts_of``).
    Relative paths start from the folder ``root``. Messages call the files ``what``.

    Raises:
        DataError: No name, no such file, an address elsewhere, or what ``parts_of`` or ``check`` refuse.
    """
    if not dataset.strip():
        raise DataError(f"{what}: found {dataset!r}, allowed: a path, a folder or a glob")
    if is_address(dataset):
        raise DataError(f"{what} {dataset!r} is an address; allowed: a path, a folder or a glob (copy it here first)")
    local = re.match(r"\s*file://(localhost)?(?=/)", dataset, re.IGNORECASE)
    full = Path(url2pathname(dataset[local.end() :].strip())) if local else Path(dataset).expanduser()
    full = full if full.is_absolute() else root / full
    if any(mark in dataset for mark in "*?[") and not full.exists():
        found = glob.glob(str(full), recursive=True)  # noqa: PTH207 (takes absolute globs)
        paths = [Path(name) for name in sorted(found, key=natural_order)]
        if not paths:
            raise DataError(f"{what} {dataset!r}: no file matches {full}")
        if folders := [path for path in paths if path.is_dir()]:
            raise DataError(f"{what} {dataset!r} matches the folder {folders[0]}; allowed: files, or one folder")
    elif full.is_dir():
        with os.scandir(full) as entries:
            inside = {entry.name: entry.is_dir() for entry in entries}
        names = [name for name, is_folder in inside.items() if not is_folder]
        below = (path.relative_to(full).as_posix() for path in islice(full.rglob("*"), _MOST_LISTED) if path.is_file())
        paths = [full / name for name in parts_of(dataset, names, inside.keys() - set(names), below, what=what)]
    elif not full.exists():
        raise DataError(f"{what} {dataset!r}: no file {full}{_cure(full, root)}")
    else:
        paths = [full]
    return check(paths, dataset, what=what)


def _cure(full: Path, root: Path) -> str:
    """What to change in the path of a file that does not exist: braces, the first folder that is missing, the name."""
    if re.search(r"\{.*\}", str(full)):
        return "; braces are no glob: allowed are *, ?, [abc] and **"
    missing = next(part for part in (*reversed(full.parents), full) if not part.exists())
    if missing != full:
        start = f"; relative paths start at {root}" if missing.is_relative_to(root) else ""
        return f", because there is no folder {missing}{start}"
    close = difflib.get_close_matches(full.name, os.listdir(full.parent), n=1)  # noqa: PTH208
    return f" (did you mean {close[0]!r}?)" if close else ""


def natural_order(name: str) -> tuple[list[list[str | int]], str]:
    """A key that sorts paths folder by folder, and names with numbers by the numbers: 2.csv before 10.csv."""
    parts = [re.split("([0-9]+)", part) for part in PurePath(name).parts]
    return [[int(text) if at % 2 else text for at, text in enumerate(part)] for part in parts], name


def check(paths: Sequence[Path], dataset: str, *, what: str = "dataset") -> list[Path]:
    """Refuse a file with an unknown suffix and files of different formats; pass over files of 0 bytes with a note.

    Returns:
        The files that have bytes.

    Raises:
        DataError: Files have other formats, or no file has bytes.
    """
    for path in paths:
        check_suffix(path, what=what)
    kept = [path for path in paths if path.stat().st_size > 0]
    if not kept:
        raise DataError(
            f"{what} file {paths[0]} is empty: found 0 bytes, as of a copy that was cut off; copy it again, or name "
            "files with rows"
        )
    if empty := [path.name for path in paths if path not in kept]:
        _note(f"{what} {dataset!r}: files of 0 bytes are passed over: {len(empty):,} of {len(paths):,} ({empty[0]})")
    if len({format_of(path.name) for path in paths}) > 1:
        raise DataError(f"{what} {dataset!r} mixes parquet and text files; name one kind")
    return kept


@cache
def _note(text: str) -> None:
    """Print a note once, however often the files are looked for."""
    sys.stderr.write(f"note: {text}\n")


def check_suffix(path: Path, *, what: str = "dataset") -> None:
    """Refuse a file with an unknown suffix.

    Raises:
        DataError: The suffix is unknown.
    """
    if format_of(path.name) is None:
        raise DataError(f"{what} file {path}: unknown suffix; allowed: {_ALLOWED}")


def parts_of(
    dataset: str,
    files: Iterable[str],
    folders: Iterable[str],
    below: Iterable[str],
    *,
    what: str = "dataset",
    recursive: bool = True,
) -> list[str]:
    """Choose the files directly inside the folder ``dataset`` that hold its data; a note names others in sub-folders.

    Names that begin with a dot or an underscore, such as ``_SUCCESS``, are passed over, as Spark does.

    Args:
        dataset: The folder, for messages.
        files: The names of the files directly inside it.
        folders: The names of the folders directly inside it.
        below: Paths of files at any depth, relative to the folder, without which the choice is the same.
        what: What messages call the files.
        recursive: Whether a glob may hold ``**``.

    Returns:
        Their names, in ``natural_order``.

    Raises:
        DataError: The files have several formats, or are all in sub-folders; the message names a glob.
    """
    if logs := {"_delta_log", ".hoodie"} & set(folders):
        raise DataError(
            f"{what} {dataset!r} is a table with a log of its changes ({logs.pop()}), whose files also hold deleted "
            "rows; allowed: an export of the table"
        )
    inside = sorted((name for name in files if not name.startswith((".", "_"))), key=natural_order)
    found = {_ending(name): name for name in reversed(inside)}
    folder = dataset.rstrip("/")
    if len(found) == 1 and None not in found:
        others = sorted((name for name in folders if not name.startswith((".", "_"))), key=natural_order)
        if others and recursive:
            _note_unread(folder, [path for path in below if _ending(path) in found], what=what)
        elif others:  # object storage, where a walk through all of them can take long
            _note(f"{what} {folder!r}: sub-folders are not read: {len(others):,} ({others[0]})")
        return inside
    if common := _most_common_ending(inside):
        shown = ", ".join(sorted(found.values()))
        raise DataError(
            f"{what} {dataset!r} is a folder with files of several formats ({shown}); allowed: one format, or a glob "
            f"such as {folder}/*{common}"
        )
    deeper = [path for path in below if not path.rpartition("/")[2].startswith((".", "_"))]
    if common := _most_common_ending(deeper):
        example = next(path for path in deeper if _ending(path) == common)
        raise DataError(
            f"{what} {dataset!r} is a folder whose files are in sub-folders; allowed: a glob such as "
            f"{_glob(folder, example, recursive=recursive)} (columns in the names of folders, such as day=2024-01-31, "
            "are not read)"
        )
    raise DataError(f"{what} {dataset!r} is a folder without files that can be read; allowed: {_ALLOWED}")


def _note_unread(folder: str, below: Iterable[str], *, what: str) -> None:
    """Note that a folder of files has more of them in its sub-folders."""
    deeper = [path for path in below if "/" in path and not re.search(r"(^|/)[._]", path)]
    if deeper:
        first = min(deeper, key=natural_order)
        reads = f"{_glob(folder, first, recursive=True)} reads all files"
        _note(f"{what} {folder!r}: files in sub-folders are not read: {len(deeper):,} ({first}); {reads}")


def _glob(folder: str, path: str, *, recursive: bool) -> str:
    """A glob of files like one at a path in a folder; a recursive one also takes those at other depths."""
    return f"{folder}/{'**/' if recursive else '*/' * path.count('/')}*{_ending(path)}"


def format_of(name: str) -> str | None:
    """The format that the suffix of a file stands for: parquet, text or None."""
    ending = _ending(name)
    return None if ending is None else "parquet" if ending in PARQUET else "text"


def _most_common_ending(names: Iterable[str]) -> str | None:
    """The suffix that most of the files have, of those that can be read."""
    endings = Counter(ending for name in names if (ending := _ending(name)))
    return endings.most_common(1)[0][0] if endings else None


def _ending(name: str) -> str | None:
    """The suffix of a file that can be read, in small letters, with that of its compression."""
    lowered = name.lower()
    packed = next((suffix for suffix in COMPRESSION if lowered.endswith(suffix)), "")
    kinds = TEXT if packed else (*PARQUET, *TEXT)
    found = next((suffix for suffix in kinds if lowered.removesuffix(packed).endswith(suffix)), None)
    return None if found is None else found + packed
