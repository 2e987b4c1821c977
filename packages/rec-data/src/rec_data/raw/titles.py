"""Titles of items, from the user's own table of items."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from rec_data.errors import DataError
from rec_data.raw import files, finding

ID, TITLE = "id", "title"


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
    paths = finding.find(source, root=root, what=what)
    try:
        with files.reading(f"{what} {source!r}"):
            table = files.scan(paths, [ID, item, TITLE])
            names = table.collect_schema().names()
            key = ID if ID in names else item
            files.require_columns(names, {ID: key, TITLE: TITLE}, f"{what} {source!r}")
            kept = table.select(pl.col(key).cast(pl.String).alias(ID), pl.col(TITLE).cast(pl.String).str.strip_chars())
            rows = kept.filter(pl.col(ID).is_in(ids.implode()), pl.col(TITLE) != "").unique(maintain_order=True)
            found = rows.collect(engine="streaming")
    except DataError as error:
        # The settings that cure a log's file have no effect on this one.
        reason = str(error).partition(", allowed:")[0].partition("; allowed:")[0].partition(" (-S ")[0]
        cure = f"a CSV file in UTF-8 with a header, or a parquet file, with the columns {ID} (or {item}) and {TITLE}"
        raise DataError(f"{reason}, allowed: {cure}") from None
    titles: dict[str, str] = {}
    for name, title in found.iter_rows():
        titles.setdefault(name, title)
    repeated = found[ID].filter(found[ID].is_duplicated()).n_unique()
    return Titles(titles, missing=len(ids) - len(titles), repeated=repeated)
