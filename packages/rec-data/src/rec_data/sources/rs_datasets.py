"""Reading a set through rs_datasets, which never works where other files are.

Where it fails it deletes the folder of the set with all that is in it, and some of its classes rewrite what they read.
So it gets a folder of its own, in which the raw files are links.
"""

import sys
import tempfile
from pathlib import Path

import polars as pl

from rec_data.errors import DataError
from rec_data.schema import Columns
from rec_data.sources.http import locked
from rec_data.sources.registry import RS_SETS, RsSet


def read_mirrored(name: str, *, mirror: Path, work: Path) -> tuple[pl.LazyFrame, Columns]:
    """Reads a set from files that are here; neither downloads nor changes anything.

    Args:
        name: A key of ``RS_SETS``.
        mirror: A folder with the set's own folder in it.
        work: An empty folder.

    Returns:
        The interactions and their column names.

    Raises:
        DataError: rs_datasets cannot be used or cannot read the set, or a raw file is missing.
    """
    _need_python(name)
    _link(find_raw(name, mirror), mirror / RS_SETS[name].folder, work / RS_SETS[name].folder)
    return _load(name, work)


def read_cached(name: str, *, cache: Path, work: Path) -> tuple[pl.LazyFrame, Columns]:
    """Reads a set, after downloading it if it is not there. Processes that want one folder wait for each other.

    Args:
        name: A key of ``RS_SETS``.
        cache: Where downloads of rs_datasets are kept, a folder per set; made if it is not there.
        work: An empty folder.

    Returns:
        The interactions and their column names.

    Raises:
        DataError: rs_datasets cannot be used, or can neither download nor read the set.
    """
    _need_python(name)
    asked = RS_SETS[name]
    kept = cache / asked.folder
    with locked(kept):
        if _missing(asked, kept) is None:
            _link(_present(asked, kept), kept, work / asked.folder)
            return _load(name, work)
        with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as fresh:  # beside its final place: a rename
            loaded = _load(name, Path(fresh))
            brought = Path(fresh) / asked.folder
            for path in _present(asked, brought):
                target = kept / path.relative_to(brought)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    return loaded


def find_raw(name: str, mirror: Path) -> list[Path]:
    """The files of a mirror that a set is read from.

    Args:
        name: A key of ``RS_SETS``.
        mirror: A folder with the set's own folder in it.

    Raises:
        DataError: The mirror is no folder, or lacks one of them.
    """
    asked = RS_SETS[name]
    if not mirror.is_dir():
        raise DataError(f"download.mirror {mirror} is no folder")
    missing = _missing(asked, mirror / asked.folder)
    if missing is not None:
        wanted = " or ".join(f"{asked.folder}/{file}" for file in missing)
        raise DataError(f"download.mirror {mirror} holds no file {wanted}, which dataset {name!r} is read from")
    return _present(asked, mirror / asked.folder)


def _need_python(name: str) -> None:
    if sys.version_info >= (3, 12):
        raise DataError(f"dataset {name!r} is read by rs_datasets, which needs Python 3.11")


def _missing(asked: RsSet, folder: Path) -> tuple[str, ...] | None:
    """The first group of which no file is there."""
    return next((group for group in asked.files if not any((folder / file).is_file() for file in group)), None)


def _present(asked: RsSet, folder: Path) -> list[Path]:
    """Of each group the first file that is there."""
    found = ([folder / file for file in group if (folder / file).is_file()] for group in asked.files)
    return [paths[0] for paths in found if paths]


def _link(paths: list[Path], source: Path, target: Path) -> None:
    for path in paths:
        link = target / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())


def _load(name: str, folder: Path) -> tuple[pl.LazyFrame, Columns]:
    import rs_datasets

    asked = RS_SETS[name]
    arguments = {} if asked.category is None else {"category": asked.category}
    try:
        loaded = getattr(rs_datasets, asked.loader)(path=str(folder), **arguments)
    except Exception as error:  # whatever its downloader and its readers raise
        reason = " ".join(str(error).replace(f"{folder}/", "").split())[:300]
        raise DataError(f"dataset {name!r}: rs_datasets cannot load it: {reason}") from error
    table = getattr(loaded, asked.table)
    for column in table.columns[table.dtypes == "category"]:
        table[column] = table[column].astype(table[column].cat.categories.dtype)
    return pl.from_pandas(table).lazy(), asked.columns
