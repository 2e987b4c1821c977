"""Where a refusal prints flags, they cure it: the file is then read."""

import re

import polars as pl
import pytest

from cutrec.config import from_mapping
from cutrec.nested import changed
from rec_data.errors import DataError
from rec_data.sources.fetch import fetch_log

EVENTS = [(1, 20, 1706702400), (2, 30, 1706702401)]
ROWS = "".join("{},{},{}\n".format(*row) for row in EVENTS)
NAMED = "user_id,item_id,timestamp\n" + ROWS
BOTH = ["format.header=false", "columns.user=1", "columns.item=2"]
KINDS = "user_id,item_id,timestamp,kind\n1,20,5,buy\n2,30,6,buy\n3,40,7,\n3,40,8,see\n"
HIVE = ROWS.replace(",", "\x01")
UNREAD = {  # the file, the keys that are given, what is found
    "missing position": (ROWS, [*BOTH, "columns.timestamp=4"], "has no column '4' (for timestamp); its columns are: 1"),
    "header in a file without": (NAMED, [*BOTH, "columns.timestamp=3"], "line 1): user_id, item_id, timestamp; allow"),
    "header in a file without, no times": (NAMED, [*BOTH, "columns.timestamp=null"], "line 1): user_id, item_id; all"),
    "no header": (ROWS, [], "line 1: found what looks like data (1, 20, 1706702400)"),
    "no header, Hive": (HIVE, [], "line 1: found what looks like data (1, 20, 1706702400)"),
    "another name": (
        NAMED.replace("item_id", "itemId"),
        [],
        "has no column 'item_id'; its columns are: user_id, itemI",
    ),
    "no times": (
        "user_id,item_id\n1,20\n2,30\n",
        [],
        "has no column 'timestamp'; its columns are: user_id, item_id; a",
    ),
    "no ratings": (NAMED, ["columns.rating=stars"], "has no column 'stars' (for rating); its columns are: user_id, it"),
    "no such event": (KINDS, ["events.column=kind", "events.keep=[by]"], "'buy' (2), nothing (1), 'see' (1); allowed"),
    "no such column of events": (KINDS, ["events.column=kinds", "events.keep=[buy]"], "has no column 'kinds'"),
    "single quotes": (
        "user_id,item_id,timestamp\n'1','20','1706702400'\n'2','30','1706702401'\n",
        [],
        "holds ids that are all in single quotes, such as \"'1'\"",
    ),
    "single quotes around names": (NAMED.replace("user_id,item_id", "'user_id','item_id'"), [], "names without quotes"),
    "days first": ("user_id,item_id,timestamp\n1,20,30012024\n2,30,31012024\n", [], "dates of the form %d%m%Y"),
}


def read(folder, flags):
    settings = from_mapping(changed({}, [f"download.{flag}" for flag in flags], ("download",))).download
    fetch_log("raw.csv", folder / "log.parquet", root=folder, settings=settings)
    return pl.read_parquet(folder / "log.parquet").rows()


@pytest.mark.parametrize("case", UNREAD)
def test_the_flags_of_a_refusal_cure_it(tmp_path, case):
    content, flags, found = UNREAD[case]
    (tmp_path / "raw.csv").write_text(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path, flags)
    assert found in str(caught.value)
    cures = [text.strip("'") for text in re.findall(r"-S ('[^']+'|[\w.]+=[^\s;)]+)", str(caught.value))]
    rows = read(tmp_path, [*flags, *(cure.removeprefix("download.") for cure in cures)])
    assert [row[:2] for row in rows] == [row[:2] for row in EVENTS]
