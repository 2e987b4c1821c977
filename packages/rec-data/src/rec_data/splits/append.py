"""Append the events of new days to a log."""

from pathlib import Path
from typing import NamedTuple

import polars as pl

from rec_data.errors import DataError
from rec_data.raw.files import reading
from rec_data.raw.timestamps import unit_of
from rec_data.schema import ITEM, RATING, TIMESTAMP, USER
from rec_data.splits.clock import has_clock


class Appended(NamedTuple):
    """What `append_events` found."""

    new: int
    """Events after the end of the log."""
    earlier: int
    """Events that are not after the end of the log; they are skipped."""
    late: int
    """Those of them that the log does not hold."""
    end: int
    """The time of the log's latest event, in its unit."""
    known_users: int
    """Users of the new events that the log knows."""
    users: int
    """Users of the new events."""


def append_events(log: Path, events: Path, out: Path) -> Appended:
    """Write a log with the events after its end: those of ``events`` that are later than its latest one.

    Both are parquet files of ``fetch_log``. Integers of ``events`` become text where the log's ids are text. Nothing is
    written if there is no event after the end.

    Raises:
        DataError: A file cannot be read, the log has positions instead of times, or the times or the ids of ``events``
            are of another kind than the log's.
    """
    with reading(f"log {log}"):
        old = pl.read_parquet(log)
    with reading(f"log {events}"):
        added = pl.read_parquet(events)
    end, latest = int(old[TIMESTAMP].max()), int(added[TIMESTAMP].max())  # type: ignore[arg-type]
    if not has_clock(old[TIMESTAMP].to_numpy()):
        raise DataError(
            f"timestamp: found times up to {end} in the model's log, which are positions and not Unix times after "
            "1990, allowed: a log with a clock, so that new events can be told from old ones"
        )
    if unit_of(latest) != unit_of(end):
        raise DataError(
            f"timestamp: found times up to {latest} ({unit_of(latest)}) in the new events, allowed: the unit of the "
            f"model's log, {unit_of(end)}, as in {end}"
        )
    for key in (USER, ITEM):
        kind, found = old.schema[key], added.schema[key]
        if kind != pl.String and found == pl.String:
            text = added[key].filter(~added[key].str.contains(r"^-?[0-9]+$")).first()
            raise DataError(f"{key}: found {text!r} in the new events, allowed: integers, as in the model's log")
        added = added.with_columns(pl.col(key).cast(kind))
    new = added.filter(pl.col(TIMESTAMP) > end)
    if len(new):
        columns = [name for name in (USER, ITEM, TIMESTAMP, RATING) if name in old.columns and name in new.columns]
        pl.concat([old.select(columns), new.select(columns)], how="vertical_relaxed").write_parquet(out)
    earlier = added.filter(pl.col(TIMESTAMP) <= end)
    late = earlier.join(old, on=[USER, ITEM, TIMESTAMP], how="anti")
    users = new[USER].unique()
    return Appended(len(new), len(earlier), len(late), end, int(users.is_in(old[USER].implode()).sum()), len(users))
