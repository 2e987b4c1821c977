"""Reading a set through rs_datasets."""

import sys
from pathlib import Path

import polars as pl

from rec_data.columns import Columns
from rec_data.errors import DataError
from rec_data.sources import RS_SETS


def read_rs_set(name: str, *, folder: Path, only_here: bool) -> tuple[pl.LazyFrame, Columns]:
    """Reads a set, after downloading it if it is not there.

    Args:
        name: A key of ``RS_SETS``.
        folder: rs_datasets' data folder.
        only_here: Refuse to download.

    Returns:
        The interactions and their column names.

    Raises:
        DataError: rs_datasets cannot be used, or the set is not here.
    """
    asked = RS_SETS[name]
    if sys.version_info >= (3, 12):
        raise DataError(f"dataset {name!r} is read by rs_datasets, which needs Python 3.11")
    if only_here and not (folder / asked.folder).is_dir():
        raise DataError(f"download.mirror {folder} holds no folder {asked.folder}, which dataset {name!r} is read from")
    import rs_datasets

    arguments = {} if asked.category is None else {"category": asked.category}
    try:
        loaded = getattr(rs_datasets, asked.loader)(path=str(folder), **arguments)
    except Exception as error:  # whatever its downloader and its readers raise
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"dataset {name!r}: rs_datasets cannot load it: {reason}") from error
    table = getattr(loaded, asked.table)
    for column in table.columns[table.dtypes == "category"]:
        table[column] = table[column].astype(table[column].cat.categories.dtype)
    return pl.from_pandas(table).lazy(), asked.columns
