"""Reading of data sets through rs_datasets, which never works in a folder that holds other files.

When it fails, it deletes the folder of the data set with everything in it, and some of its classes rewrite the files
that they read. It therefore gets its own folder, in which the raw files are links.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from rec_data.errors import DataError
from rec_data.locks import locked
from rec_data.sources.http import OTHERWISE
from rec_data.sources.registry import RsDataset


def read(name: str, asked: RsDataset, *, mirror: Path | None, cache: Path, work: Path) -> pl.LazyFrame:
    """Read a data set from a mirror, or from the cache after downloading it if necessary.

    Processes that want one folder of the cache wait for each other. Nothing in a mirror is changed.

    A mirror and the cache of rs_datasets' downloads hold a folder per data set; ``work`` is an empty folder.

    Raises:
        DataError: rs_datasets cannot be used, or cannot download or read the data set, or the mirror lacks a file.
    """
    if find_spec("rs_datasets") is None:
        raise DataError(
            f"dataset {name!r} is read by rs_datasets, which is not installed; allowed: Python 3.11 and its extra "
            "(uv pip install 'rec-data[rs-datasets]')"
        )
    if mirror is not None:
        _link(find_raw(name, asked, mirror), mirror / asked.folder, work / asked.folder)
        return _load(name, asked, work)
    kept = cache / asked.folder
    with locked(kept):
        if _missing(asked, kept) is None:
            _link(_present(asked, kept), kept, work / asked.folder)
            return _load(name, asked, work)
        fresh = cache / f"{asked.folder}.part"  # on the same disk, so files can move
        shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed
        try:
            fresh.mkdir()
            loaded = _load(name, asked, fresh, advice=f"; {OTHERWISE}")
            downloaded = fresh / asked.folder
            for path in _present(asked, downloaded):
                target = kept / path.relative_to(downloaded)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
        finally:
            shutil.rmtree(fresh)
    return loaded


def find_raw(name: str, asked: RsDataset, mirror: Path) -> list[Path]:
    """Find the files of a mirror that a data set is read from.

    Raises:
        DataError: The mirror lacks a file.
    """
    missing = _missing(asked, mirror / asked.folder)
    if missing is not None:
        wanted = " or ".join(f"{asked.folder}/{file}" for file in missing)
        raise DataError(f"download.mirror {mirror} holds no file {wanted}, which dataset {name!r} is read from")
    return _present(asked, mirror / asked.folder)


def _missing(asked: RsDataset, folder: Path) -> tuple[str, ...] | None:
    """The first group of alternatives of which no file exists."""
    return next((group for group in asked.files if not any((folder / file).is_file() for file in group)), None)


def _present(asked: RsDataset, folder: Path) -> list[Path]:
    """The first existing file of each group."""
    found = ([folder / file for file in group if (folder / file).is_file()] for group in asked.files)
    return [paths[0] for paths in found if paths]


def _link(paths: list[Path], source: Path, target: Path) -> None:
    for path in paths:
        link = target / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())


def _load(name: str, asked: RsDataset, folder: Path, *, advice: str = "") -> pl.LazyFrame:
    import rs_datasets

    try:
        loaded = getattr(rs_datasets, asked.loader)(path=str(folder))
    except Exception as error:  # its downloader and its readers raise errors of many types
        reason = " ".join(str(error).replace(f"{folder}/", "").split())[:300]
        raise DataError(f"dataset {name!r}: rs_datasets cannot load it: {reason}{advice}") from error
    table = getattr(loaded, asked.table)
    for column in table.columns[table.dtypes == "category"]:
        table[column] = table[column].astype(table[column].cat.categories.dtype)
    return pl.from_pandas(table).lazy()
