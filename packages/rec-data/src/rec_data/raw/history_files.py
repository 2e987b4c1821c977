"""Files of histories to a log: the users that somebody wants recommendations for."""

from pathlib import Path
from typing import NamedTuple

import polars as pl

from rec_data.errors import DataError
from rec_data.raw import files
from rec_data.raw.ids import first_of
from rec_data.raw.normalise import write_log
from rec_data.schema import Columns


class HistoryLog(NamedTuple):
    """What a file of histories was like."""

    empty_users: int
    """Users whose list is empty: they are not in the log."""

    in_row_order: bool
    """Rows are events without times: those of a user are in the order of rows."""


def write_history_log(
    histories: str, out: Path, *, root: Path, columns: Columns, needs_times: bool = False
) -> HistoryLog:
    """Writes the log of a file of histories, ids and times checked as ``rec_data.sources.fetch.fetch_log`` does.

    A row is an event (user, item, and a time if there is one). In parquet it may be a user with a list of items
    instead, oldest first; text files hold no lists. Without times, events of a user are in the order of rows.

    Args:
        histories: A path or glob of parquet or CSV files.
        out: The parquet to write.
        root: Where relative paths start.
        columns: Names of the columns; the rating is not looked at.
        needs_times: Somebody asked for the column of times by its name: without it the file is refused.

    Raises:
        DataError: Whatever is wrong with the files, their columns or their values.
    """
    paths = files.find(histories, root=root, what="histories")
    origin = f"histories {histories!r}"
    with files.reading(origin):
        frame = files.scan(paths, columns.present)
        schema = frame.collect_schema()
    wanted = {"user": columns.user, "item": columns.item} | ({"timestamp": columns.timestamp} if needs_times else {})
    for key, name in wanted.items():
        if name not in schema:
            raise DataError(
                f"{origin} has no column {name!r} (for {key}); its columns are: {', '.join(schema.names())}"
            )
    lists, empty = isinstance(schema[columns.item], pl.List), 0
    if lists:
        if needs_times:
            raise DataError(f"{origin} holds lists, oldest item first; a column of times is of rows that are events")
        with files.reading(origin):
            _refuse_holes(frame, columns, origin)
            filled = pl.col(columns.item).list.len().fill_null(0) > 0
            empty = int(frame.select((~filled).sum()).collect().item())
            frame = frame.filter(filled).select(columns.user, columns.item).explode(columns.item)
        origin = f"{origin}, each item of a list as a row"
    timed = columns.timestamp in frame.collect_schema()
    if not timed:
        frame = frame.with_row_index(columns.timestamp)
    names = Columns(columns.user, columns.item, columns.timestamp)
    write_log(frame, out, columns=names, min_rating=None, origin=origin)
    return HistoryLog(empty, in_row_order=not (timed or lists))


def _refuse_holes(frame: pl.LazyFrame, columns: Columns, origin: str) -> None:
    """Refuses lists with empty values and lists of nobody, while a row of the file is still a row.

    Raises:
        DataError: How many there are, and the first of them.
    """
    lists = pl.col(columns.item).list
    holed = (lists.drop_nulls().list.len() < lists.len()).fill_null(value=False)
    if frame.select(holed.any()).collect().item():
        count, row, user = first_of(frame, holed, columns.user)
        found = (
            f"1 list with an empty value (row {row}"
            if count == 1
            else (f"{count} lists with empty values (first in row {row}")
        )
        raise DataError(f"{origin}: column {columns.item!r} has {found}, user {user!r}); allowed: none")
    nobody = pl.col(columns.user).is_null()
    if frame.select(nobody.any()).collect().item():
        count, row, _ = first_of(frame, nobody, columns.user)
        values = "1 empty value" if count == 1 else f"{count} empty values"
        raise DataError(f"{origin}: column {columns.user!r} has {values} (first in row {row}); allowed: none")
