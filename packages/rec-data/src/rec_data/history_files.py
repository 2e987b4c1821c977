"""Files of histories to a log: the users that somebody wants recommendations for."""

from pathlib import Path

import polars as pl

from rec_data import files
from rec_data.columns import Columns
from rec_data.errors import DataError
from rec_data.normalise import write_log


def write_history_log(histories: str, out: Path, *, root: Path, columns: Columns) -> int:
    """Writes the log of a file of histories, ids and times checked as ``rec_data.log.fetch_log`` does.

    A row is an event (user, item, and a time if there is one). In parquet it may be a user with a list of items
    instead, oldest first; text files hold no lists. Without times, events of a user are in the order of rows.

    Args:
        histories: A path or glob of parquet or CSV files.
        out: The parquet to write.
        root: Where relative paths start.
        columns: Names of the columns; the rating is not looked at.

    Returns:
        Users whose list is empty: they are not in the log.

    Raises:
        DataError: Whatever is wrong with the files, their columns or their values.
    """
    paths = files.find(histories, root=root, what="histories")
    origin = f"histories {histories!r}"
    with files.reading(origin):
        frame = files.scan(paths, columns.present)
        schema = frame.collect_schema()
    empty = 0
    for key, name in (("user", columns.user), ("item", columns.item)):
        if name not in schema:
            raise DataError(
                f"{origin} has no column {name!r} (for {key}); its columns are: {', '.join(schema.names())}"
            )
    if isinstance(schema[columns.item], pl.List):
        with files.reading(origin):
            filled = pl.col(columns.item).list.len().fill_null(0) > 0
            empty = int(frame.select((~filled).sum()).collect().item())
            frame = frame.filter(filled).select(columns.user, columns.item).explode(columns.item)
    if columns.timestamp not in frame.collect_schema():
        frame = frame.with_row_index(columns.timestamp)
    names = Columns(columns.user, columns.item, columns.timestamp)
    write_log(frame, out, columns=names, min_rating=None, origin=origin)
    return empty
