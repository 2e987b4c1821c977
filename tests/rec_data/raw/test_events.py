"""Logs of several kinds of events: some are kept, by their name or number."""

import re

import polars as pl
import pytest

from rec_data.config import Columns, Download, Events
from rec_data.errors import DataError
from rec_data.raw.history_files import write_history_log
from rec_data.sources.fetch import fetch_log

ROWS = [
    ("ann", "p1", 1, "view"), ("ann", "p2", 2, "buy"), ("ben", "p1", 3, "cart"), ("ben", "p3", 4, "buy "),
    ("cas", "", 5, "search"), ("cas", "p2", 6, "view"),
]  # fmt: skip
NAMES = ["user_id", "item_id", "timestamp", "event"]
NUMBERS = {"view": 0, "cart": 1, "buy": 2, "buy ": 2, "search": 3}


def fetch(tmp_path, form, **settings):
    frame = pl.DataFrame(ROWS, schema=NAMES, orient="row")
    if form == "text":
        frame.write_csv(tmp_path / "log.csv", quote_style="necessary")
    elif form != "categories":
        frame = frame.with_columns(pl.col("event").replace_strict(NUMBERS, return_dtype=form))
    else:
        frame = frame.with_columns(pl.col("event").cast(pl.Categorical))
    name = "log.csv" if form == "text" else "log.parquet"
    if name == "log.parquet":
        frame.write_parquet(tmp_path / name)
    summary = fetch_log(name, tmp_path / "out.parquet", root=tmp_path, settings=Download(**settings))
    return summary, pl.read_parquet(tmp_path / "out.parquet").rows()


@pytest.mark.parametrize("form", ["text", "categories", pl.Int8, pl.UInt64, pl.Float64])
def test_only_the_kinds_that_are_named_are_kept(tmp_path, form):
    """What other kinds lack, such as the item of a search, is no error."""
    words = form in ("text", "categories")
    keep = ("buy", "cart") if words else (2, 1)
    summary, rows = fetch(tmp_path, form, events=Events(column="event", keep=keep))
    assert rows == [("ann", "p2", 2), ("ben", "p1", 3), ("ben", "p3", 4)]
    assert (summary["rows"], summary["rows_read"], summary["rows_of_other_events"]) == (3, 6, 3)
    assert "columns_of_events" not in summary


def test_integers_may_be_named_as_text(tmp_path):
    assert len(fetch(tmp_path, pl.Int64, events=Events(column="event", keep=("2",)))[1]) == 2


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (
            Events(column="event", keep=("buy", "purchase")),
            "column 'event' never holds 'purchase' of download.events.keep; it holds 'buy' (2), 'view' (2), 'cart' (1)",
        ),
        (
            Events(column="kind", keep=("buy",)),
            "has no column 'kind' (for download.events.column); its columns are: user_id",
        ),
        (
            Events(column="event", keep=("search",)),
            "column 'item_id' has 1 empty value (FILE, line 6)",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, events, message):
    with pytest.raises(DataError, match=re.escape(message.replace("FILE", f"{tmp_path}/log.csv"))) as caught:
        fetch(tmp_path, "text", events=events)
    assert "\n" not in str(caught.value)


def test_histories_are_filtered_as_the_log_is(tmp_path):
    """Not every kind that is kept must occur in them, and a file without the column holds what is to be kept."""
    rows = [*ROWS[:4], ("ann", "p2", 2, "buy")]
    settings = Download(events=Events(column="event", keep=("buy", "gift")), duplicates="drop")
    for names, kept, others in ((NAMES, [rows[1], rows[3]], 2), ([*NAMES[:3], "kind"], rows[:4], 0)):
        pl.DataFrame(rows, schema=names, orient="row").write_csv(tmp_path / "histories.csv")
        log = tmp_path / "log.parquet"
        found = write_history_log("histories.csv", log, root=tmp_path, columns=Columns(), settings=settings)
        assert pl.read_parquet(log).rows() == [row[:3] for row in kept]
        assert found.other_events == others


def test_a_column_that_is_a_kind_of_event_is_found(tmp_path):
    columns = {"user_id": [1, 2], "item_id": [1, 2], "timestamp": [1, 2], "Event Type": ["b", "a"], "type": [1, 1],
               "city": ["x", "y"], "action": [0.5, 1.5]}  # fmt: skip
    pl.DataFrame(columns).write_parquet(tmp_path / "log.parquet")
    summary = fetch_log("log.parquet", tmp_path / "out.parquet", root=tmp_path)
    assert summary["columns_of_events"] == {"Event Type": "a, b"}  # type has one value, action holds amounts
    settings = Download(columns=Columns(item="Event Type"))
    assert "columns_of_events" not in fetch_log(
        "log.parquet", tmp_path / "out.parquet", root=tmp_path, settings=settings
    )


@pytest.mark.parametrize("events", [{"column": "event"}, {"keep": ("buy",)}])
def test_column_and_values_go_together(events):
    with pytest.raises(ValueError, match="a column together with the values to keep"):
        Events(**events)


def test_duplicates_are_dropped_and_counted(tmp_path):
    rows = [(1, 2, 5, 1.0), (1, 3, 5, 2.0), (1, 2, 5, 3.0), (2, 2, 5, 4.0), (1, 2, 6, 5.0), (1, 2, 5, 6.0)]
    pl.DataFrame(rows, schema=[*NAMES[:3], "stars"], orient="row").write_parquet(tmp_path / "log.parquet")
    found = {}
    for duplicates in ("keep", "drop"):
        settings = Download(duplicates=duplicates, columns=Columns(rating="stars"))
        summary = fetch_log("log.parquet", tmp_path / "out.parquet", root=tmp_path, settings=settings)
        found[duplicates] = summary, pl.read_parquet(tmp_path / "out.parquet").rows()
    assert found["keep"][1] == rows
    assert "duplicates_dropped" not in found["keep"][0]
    summary, kept = found["drop"]
    assert kept == [rows[0], rows[1], rows[3], rows[4]]  # the first of each, in the order of rows
    assert (summary["rows"], summary["rows_read"], summary["duplicates_dropped"]) == (4, 6, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"log.parquet", "out.parquet"}


def test_floats_with_missing_values_and_their_text(tmp_path):
    kinds = [1.0, float("nan"), 2.0, None, float("inf"), 1e300]
    frame = pl.DataFrame({"user_id": range(6), "item_id": range(6), "timestamp": range(6), "event": kinds})
    frame.write_parquet(tmp_path / "log.parquet")
    frame.write_csv(tmp_path / "log.csv")
    for name in ("log.parquet", "log.csv"):
        for keep in ((1,), ("1",), ("1.0",)):
            settings = Download(events=Events(column="event", keep=keep))
            summary = fetch_log(name, tmp_path / "out.parquet", root=tmp_path, settings=settings)
            assert pl.read_parquet(tmp_path / "out.parquet")["user_id"].to_list() == [0]
            assert (summary["rows"], summary["rows_of_other_events"]) == (1, 5)
