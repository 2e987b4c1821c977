"""Files of histories to a log: the users that somebody wants recommendations for."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import polars as pl

from rec_data.config import Columns, Download
from rec_data.errors import DataError
from rec_data.raw import files, finding
from rec_data.raw.events import keep_events
from rec_data.raw.normalise import drop_duplicates, write_log
from rec_data.raw.rows import PLACE, find_nulls, find_rows
from rec_data.schema import ITEM, RATING, TIMESTAMP, USER
from rec_data.stated import stated

EVENT = "event"
"""Stands for the column of kinds of events among the columns that are named."""


class HistoryLog(NamedTuple):
    """Facts about a file of histories."""

    empty_users: int
    """Users whose list is empty; they are not in the log."""
    in_row_order: bool
    """Whether rows are events without times, so that the events of a user are in row order."""
    joined_users: int = 0
    """Users with several lists, which are joined in the order of rows."""
    other_events: int = 0
    """Rows of kinds of events that are not kept."""
    low_ratings: int = 0
    """Rows with a rating below the smallest that is kept."""
    users_without_rows: int = 0
    """Users of whom no row is kept, because of its kind of event or its rating."""
    rated: bool = False
    """Whether the file has the column of ratings."""
    of_kinds: bool = False
    """Whether the file has the column of kinds of events."""


def write_history_log(
    histories: str,
    out: Path,
    *,
    root: Path,
    columns: Columns,
    named: Collection[str] = (),
    settings: Download | None = None,
) -> HistoryLog:
    """Write the log of a file of histories, with the checks of ``rec_data.sources.fetch.fetch_log``.

    A row is an event (user, item, and optionally a time and a rating). In parquet files, a row may instead be a user
    with a list of items, oldest first; text files hold no lists. Several lists of a user are joined in the order of
    rows. Without times, the events of a user are in row order.

    Args:
        histories: A path, folder or glob of parquet or CSV files.
        out: The parquet file to write.
        root: The folder that relative paths start from.
        columns: The column names. A file may lack the time, the rating and the kind of event.
        named: Which of ``timestamp``, ``rating`` and ``EVENT`` the user named for these files, so that files without
            such a column are refused.
        settings: How text files, times and missing ids are written, as in the log, and how duplicates, and kinds of
            events and ratings if the file has their columns, are treated; None means the defaults.

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
    user, item, time, rating = (columns.by_key.get(key) for key in (USER, ITEM, TIMESTAMP, RATING))
    user, item = str(user), str(item)
    timed, rated = time in schema, rating in schema
    columns = Columns(
        user, item, time if timed or TIMESTAMP in named else None, rating if rated or RATING in named else None
    )
    keys = {key: f"--{key.removesuffix('_id')}-column" for key in columns.by_key}
    keys[RATING] = "download.columns.rating"
    files.require_columns(schema, columns.by_key, origin, keys=keys)
    dropped, everybody = 0, frame.select(pl.col(user).alias(USER))
    event = settings.events.column
    of_kinds = event is not None and (event in schema or EVENT in named)
    if of_kinds:
        with files.reading(origin):
            frame, others = keep_events(frame, settings.events, origin, all_occur=False)
            dropped = others or 0
            if dropped and frame.select(pl.len()).collect(engine="streaming").item() == 0:
                kept = ", ".join(map(str, settings.events.keep))
                raise DataError(f"{origin}: none of its {dropped:,} events is one of download.events.keep ({kept})")
    kind = schema[item]
    lists, empty, joined = isinstance(kind, pl.List | pl.Array), 0, 0
    if lists:
        _refuse_times_of_lists(schema, columns, origin)
        with files.reading(origin):
            if isinstance(kind, pl.Array):
                frame = frame.with_columns(pl.col(item).cast(pl.List(kind.inner)))
            _refuse_nulls_in_lists(frame, user, item, origin)
            filled = pl.col(item).list.len().fill_null(0) > 0
            given = pl.col(user).filter(filled)
            repeated = given.filter(given.is_duplicated()).n_unique().alias("joined")
            users, empty, joined = frame.select(pl.len(), (~filled).sum().alias("empty"), repeated).collect().row(0)
            if users == empty:
                raise DataError(f"{origin}: all lists are empty ({users}); allowed: at least one with items")
            frame = frame.filter(filled).select(user, item, PLACE).explode(item)
        timed = rated = False
    columns = Columns(user, item, time if timed else None, rating if rated else None)
    if not timed:
        frame, columns = files.number_rows(frame, columns)
    done = write_log(
        frame,
        out,
        columns=columns,
        min_rating=settings.min_rating if rated else None,
        origin=origin,
        time_format=settings.time_format if timed else None,
        null_values=settings.missing_ids,
    )
    low = done.rows_read - done.rows
    without = _users(everybody) - _users(pl.scan_parquet(out)) if dropped or low else 0
    if settings.duplicates == "drop" and timed:
        drop_duplicates(out)
    return HistoryLog(
        empty,
        in_row_order=not (timed or lists),
        joined_users=joined,
        other_events=dropped,
        low_ratings=low,
        users_without_rows=without,
        rated=rated,
        of_kinds=of_kinds,
    )


def _users(frame: pl.LazyFrame) -> int:
    """Count the users of a frame, as text without spaces at its ends."""
    user = pl.col(USER).cast(pl.String).str.strip_chars().drop_nulls()
    return int(frame.select(user.n_unique()).collect(engine="streaming").item())


def _refuse_times_of_lists(schema: pl.Schema, columns: Columns, origin: str) -> None:
    """Refuse a column of times beside lists of items, which are in order already, so that the times would be unused."""
    timed = [columns.timestamp] if columns.timestamp is not None else []
    for name, kind in schema.items():
        if isinstance(kind, pl.List | pl.Array) and pl.List(kind.inner).inner.is_temporal():
            timed.append(name)
    if timed:
        raise DataError(
            f"{origin} holds lists of items, and column {timed[0]!r} holds times; allowed: lists in order, oldest item "
            f"first, without times (remove the column, or ignore it: {stated({'download.columns.timestamp': None})}), "
            "or one event per row"
        )


def _refuse_nulls_in_lists(frame: pl.LazyFrame, user: str, item: str, origin: str) -> None:
    """Refuse lists with empty values and lists without a user, before lists become rows."""
    lists = pl.col(item).list
    holed = (lists.drop_nulls().list.len() < lists.len()).fill_null(value=False)
    if found := find_rows(frame, holed, "1 list with an empty value", "lists with empty values"):
        raise DataError(f"{origin}: column {item!r} has {found}; allowed: none")
    if found := find_nulls(frame, user):
        raise DataError(f"{origin}: column {user!r} has {found}; allowed: none")
