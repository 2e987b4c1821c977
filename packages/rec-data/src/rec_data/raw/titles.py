"""Titles and groups of items, from the user's own table of items."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from rec_data.arrays import Int64s
from rec_data.errors import DataError
from rec_data.raw import files, finding

ID, TITLE, GROUP = "id", "title", "group"


class Titles(NamedTuple):
    """The titles of some items."""

    by_id: dict[str, str]
    """By the id as text, so that 7 in a log is "7" in a CSV file."""
    missing: int = 0
    """Items without a title."""
    repeated: int = 0
    """Items with several titles, of which the first is taken."""


def read_titles(source: str, wanted: Iterable[object], *, root: Path, what: str, item: str) -> Titles:
    """Read the titles of the wanted ids from a parquet or CSV file with the columns ``id`` and ``title``.

    Args:
        source: A path, folder or glob.
        wanted: The ids; with none of them, the file is only checked.
        root: The folder that relative paths start from.
        what: What messages call the file: the setting that names it.
        item: The log's name for ids of items, by which the table may call them too.

    Raises:
        DataError: The file or its columns are wrong.
    """
    ids = pl.Series([str(one) for one in wanted], dtype=pl.String).unique()
    found = _texts(source, ids, TITLE, root=root, what=what, item=item)
    assert found is not None
    titles: dict[str, str] = {}
    for name, title in found.iter_rows():
        titles.setdefault(name, title)
    repeated = found[ID].filter(found[ID].is_duplicated()).n_unique()
    return Titles(titles, missing=len(ids) - len(titles), repeated=repeated)


def read_groups(source: str, ids: Iterable[object], *, root: Path, what: str, item: str) -> Int64s | None:
    """Read the groups of items from the column ``group`` of the same file.

    The arguments are those of `read_titles`, with distinct ids.

    Returns:
        ``[n]`` the number of each id's group, -1 for an item without one; the first of several groups counts. None if
        the file has no such column.

    Raises:
        DataError: The file or its columns are wrong.
    """
    wanted = pl.Series(ID, [str(one) for one in ids], dtype=pl.String)
    found = _texts(source, wanted, GROUP, root=root, what=what, item=item)
    if found is None:
        return None
    first = found.unique(ID, keep="first", maintain_order=True)
    groups = wanted.to_frame().join(first, on=ID, how="left", maintain_order="left")[GROUP]
    numbers: Int64s = (groups.rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()
    return numbers


def _texts(source: str, ids: pl.Series, column: str, *, root: Path, what: str, item: str) -> pl.DataFrame | None:
    """The ids and a text column of the table, without blank texts; None if it lacks the column of groups."""
    paths = finding.find(source, root=root, what=what)
    try:
        with files.reading(f"{what} {source!r}"):
            table = files.scan(paths, [ID, item, TITLE, GROUP])
            names = table.collect_schema().names()
            key = ID if ID in names else item
            files.require_columns(names, {ID: key, TITLE: TITLE}, f"{what} {source!r}")
            if column not in names:
                return None
            kept = table.select(pl.col(key).cast(pl.String).alias(ID), pl.col(column).cast(pl.String).str.strip_chars())
            rows = kept.filter(pl.col(ID).is_in(ids.implode()), pl.col(column) != "").unique(maintain_order=True)
            return rows.collect(engine="streaming")
    except DataError as error:
        # The settings that cure a log's file have no effect on this one.
        reason = str(error).partition(", allowed:")[0].partition("; allowed:")[0].partition(" (-S ")[0]
        cure = f"a CSV file in UTF-8 with a header, or a parquet file, with the columns {ID} (or {item}) and {TITLE}"
        raise DataError(f"{reason}, allowed: {cure}") from None
