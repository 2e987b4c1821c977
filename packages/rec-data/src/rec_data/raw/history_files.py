"""Files of histories to a log: the users that somebody wants recommendations for."""

from pathlib import Path
from typing import NamedTuple

import polars as pl

from rec_data.config import Columns, Download
from rec_data.errors import DataError
from rec_data.raw import files, finding
from rec_data.raw.events import keep_events
from rec_data.raw.normalise import drop_duplicates, write_log
from rec_data.raw.rows import PLACE, find_nulls, find_rows
from rec_data.schema import TIMESTAMP


class HistoryLog(NamedTuple):
    """Facts about a file of histories."""

    empty_users: int
    """Users whose list is empty; they are not in the log."""
    in_row_order: bool
    """Whether rows are events without times, so that the events of a user are in row order."""
    other_events: int
    """Rows of kinds of events that are not kept."""


def write_history_log(
    histories: str,
    out: Path,
    *,
    root: Path,
    columns: Columns,
    needs_times: bool = False,
    settings: Download | None = None,
) -> HistoryLog:
    """Write the log of a file of histories, with the checks of ``rec_data.sources.fetch.fetch_log``.

    A row is an event (user, item, and optionally a time). In parquet files, a row may instead be a user with a list of
    items, oldest first; text files hold no lists. Without times, the events of a user are in row order.

    Args:
        histories: A path, folder or glob of parquet or CSV files.
        out: The parquet file to write.
        root: The folder that relative paths start from.
        columns: The column names; the rating is ignored.
        needs_times: Whether the user named the column of times, so that a file without it is refused.
        settings: How text files, times and missing ids are written, as in the log, and how duplicates, and kinds of
            events if the file has their column, are treated; None means the defaults.

    Raises:
        DataError: The files, their columns or their values are wrong.
    """
    settings = settings or Download()
    paths = finding.find(histories, root=root, what="histories")
    origin = f"histories {histories!r}"
    with files.reading(origin):
        wanted = [name for name in (*columns.by_key.values(), settings.events.column) if name is not None]
        frame = files.scan(paths, wanted, settings.format)
        schema = frame.collect_schema()
    user, item, time = str(columns.user), str(columns.item), columns.by_key.get(TIMESTAMP)
    timed = time in schema
    columns = Columns(user, item, time if timed or needs_times else None)
    flags = {key: f"--{key.removesuffix('_id')}-column " for key in columns.by_key}
    files.require_columns(schema, columns.by_key, origin, flags=flags)
    dropped = None
    if settings.events.column in schema:
        with files.reading(origin):
            frame, dropped = keep_events(frame, settings.events, origin, all_occur=False)
    kind = schema[item]
    lists, empty = isinstance(kind, pl.List | pl.Array), 0
    if lists:
        if needs_times:
            raise DataError(
                f"{origin} holds lists, oldest item first; a column of times is only allowed if rows are events"
            )
        with files.reading(origin):
            if isinstance(kind, pl.Array):
                frame = frame.with_columns(pl.col(item).cast(pl.List(kind.inner)))
            _refuse_nulls_in_lists(frame, user, item, origin)
            filled = pl.col(item).list.len().fill_null(0) > 0
            users, empty = frame.select(pl.len(), (~filled).sum().alias("empty")).collect().row(0)
            if users == empty:
                raise DataError(f"{origin}: all lists are empty ({users}); allowed: at least one with items")
            frame = frame.filter(filled).select(user, item, PLACE).explode(item)
        timed = False
    if not timed:
        frame, columns = files.number_rows(frame, Columns(user, item, None))
    write_log(
        frame,
        out,
        columns=columns,
        min_rating=None,
        origin=origin,
        time_format=settings.time_format if timed else None,
        null_values=settings.missing_ids,
    )
    if settings.duplicates == "drop":
        drop_duplicates(out)
    return HistoryLog(empty, in_row_order=not (timed or lists), other_events=dropped or 0)


def _refuse_nulls_in_lists(frame: pl.LazyFrame, user: str, item: str, origin: str) -> None:
    """Refuse lists with empty values and lists without a user, before lists become rows."""
    lists = pl.col(item).list
    holed = (lists.drop_nulls().list.len() < lists.len()).fill_null(value=False)
    if found := find_rows(frame, holed, "1 list with an empty value", "lists with empty values"):
        raise DataError(f"{origin}: column {item!r} has {found}; allowed: none")
    if found := find_nulls(frame, user):
        raise DataError(f"{origin}: column {user!r} has {found}; allowed: none")
