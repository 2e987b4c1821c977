"""Messages about values name the file, and the line or row in it."""

import csv
import gzip
import io
import re

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rec_data.config import Columns, Download, Events, Format
from rec_data.errors import DataError
from rec_data.sources.fetch import fetch_log

NAMES = ["user_id", "note", "item_id", "timestamp", "event"]
NOTES = st.sampled_from(["", "plain", "a, b", 'a "b"', "two\nlines", "\n\n", "ends\r\nwindows"])
PARTS = st.lists(st.lists(st.tuples(NOTES, st.sampled_from(["buy", "view"])), max_size=8), max_size=2)


def write_text(path, rows, *, header, end, gap):
    """Write a text file with empty lines between records; returns the line at which the last row begins."""
    text = io.StringIO(newline="")
    writer, line = csv.writer(text, lineterminator=end), 0
    for row in [NAMES, *rows] if header else rows:
        line = text.getvalue().count("\n") + 1
        writer.writerow(row)
        text.write(end * gap)
    content = text.getvalue().removesuffix(end).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return line


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=PARTS,
    part=st.lists(st.tuples(NOTES, st.sampled_from(["buy", "view"])), max_size=8),
    kind=st.sampled_from([".csv", ".csv.gz", ".parquet"]),
    end=st.sampled_from(["\n", "\r\n"]),
    gap=st.integers(0, 2),
    header=st.booleans(),
    kept=st.booleans(),
    timed=st.booleans(),
)
def test_a_bad_value_is_found_where_it_lies(tmp_path, before, part, kind, end, gap, header, kept, timed):
    """Whatever comes before it: other files, records of several lines, empty lines, and events that are dropped."""
    header = header or kind == ".parquet"
    for path in tmp_path.glob("part*"):
        path.unlink()
    good = [[(1, note, 2, 3, event) for note, event in rows] for rows in before if rows]
    last = [*((1, note, 2, 3, event) for note, event in part), (1, "", None, 3, "buy")]
    for number, rows in enumerate([*good, last]):
        path = tmp_path / f"part{number}{kind}"
        if kind == ".parquet":
            pl.DataFrame(rows, schema=NAMES, orient="row").write_parquet(path)
            place = f"{path}, row {len(rows)}"
        else:
            place = f"{path}, line {write_text(path, rows, header=header, end=end, gap=gap)}"
    if header:
        columns, event = Columns(timestamp="timestamp" if timed else None), "event"
    else:
        columns, event = Columns(1, 3, 4 if timed else None), "5"
    chosen = Download(
        columns=columns,
        events=Events(column=event, keep=("buy",)) if kept else Events(),
        format=Format(header=header, quote='"'),
    )
    with pytest.raises(DataError, match=re.escape(f"has 1 empty value ({place}); allowed: none")):
        fetch_log(f"part*{kind}", tmp_path / "log.parquet", root=tmp_path, settings=chosen)
