"""Values that came out of other tools' mistakes: each is read right, or refused with its place."""

import datetime as dt

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rec_data.config import Columns, Download
from rec_data.errors import DataError
from rec_data.sources.fetch import fetch_log

HEADER = "user_id,item_id,timestamp,rating\n"


def read(folder, content, **columns):
    (folder / "raw.csv").write_text(content)
    settings = Download(columns=Columns(**{"timestamp": None, **columns}))
    fetch_log("raw.csv", folder / "log.parquet", root=folder, settings=settings)
    return pl.read_parquet(folder / "log.parquet").rows()


@pytest.mark.parametrize("zeros", ["0", "00", "000000"])
def test_integers_with_any_number_of_decimal_zeros(tmp_path, zeros):
    assert read(tmp_path, f"user_id,item_id\n1.{zeros},7\n1,8\n") == [(1, 7, 0), (1, 8, 1)]
    with pytest.raises(DataError, match=rf"decimal beside the same without decimals \(.*, line 2: '1.{zeros}'\)"):
        read(tmp_path, f"user_id,item_id\n1.{zeros},7\n1,8\na,9\n")


REFUSED = {
    "mark of a joined file": (
        "user_id,item_id\na,x\n\ufeffb,y\n",
        r"byte order mark \(.*line 3: '\\ufeffb'\); allowed: n",
    ),
    "lists": (
        'user_id,item_id\na,"[1, 2]"\nb,[3]\n',
        r"item_id' holds lists as text, such as '\[1, 2\]'; allowed: one",
    ),
    "tuples": (
        'user_id,item_id\na,"(1, 2)"\nb,"()"\n',
        r"item_id' holds lists as text, such as '\(1, 2\)'; allowed: one",
    ),
    "error of a spreadsheet": ("user_id,item_id\na,#REF!\n", "1 text that stands for a missing id .*line 2: '#REF!'"),
    "undefined": ("user_id,item_id\nundefined,x\n", "1 text that stands for a missing id .*line 2: 'undefined'"),
    "types": (
        "user_id,item_id\nbigint,bigint\n" + 10 * "1,2\n",
        r"1 line that is no event \(.*line 2\): bigint, bigint;",
    ),
    "ruler": ("user_id|item_id\n-------|-----\na|x\n", r"1 line that is no event \(.*line 2\): -------, -----;"),
    "ruler of Markdown": (
        "|user_id|item_id|\n|---|:---|\n|a|x|\n",
        r"1 line that is no event \(.*line 2\): ---, :---;",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_id(tmp_path, case):
    content, says = REFUSED[case]
    with pytest.raises(DataError, match=says):
        read(tmp_path, content)


def test_zero_bytes_anywhere(tmp_path):
    content = "user_id,item_id\n" + "a,x\n" * 400_000
    for bad in ("b\0,y\n", '"b","\0"\n'):
        with pytest.raises(DataError, match=r"raw.csv, line 400002: found a zero byte, as in a damaged or binary file"):
            read(tmp_path, content + bad)


def test_ids_that_look_like_them(tmp_path):
    assert len(read(tmp_path, "user_id,item_id\n-,--\n[a],b\n#1,(c)\n")) == 3
    assert len(read(tmp_path, "user_id,item_id\nann,p1\n" + 9 * "1,2\n")) == 10


def test_two_marks_at_the_beginning(tmp_path):
    assert read(tmp_path, "\ufeff\ufeffuser_id,item_id\na,x\n") == [("a", "x", 0)]


@pytest.mark.parametrize("rating", ["inf", "-inf", "1e400", "Infinity"])
def test_infinite_ratings_are_refused(tmp_path, rating):
    with pytest.raises(
        DataError, match=rf"'rating': 1 value does not parse \(.*, line 3: '{rating}'\); allowed: a num"
    ):
        read(tmp_path, f"{HEADER}a,x,1,5\nb,y,2,{rating}\n", rating="rating")
    frame = pl.DataFrame({"user_id": [1, 2], "item_id": [1, 2], "rating": [5.0, float(rating)]})
    frame.write_parquet(tmp_path / "raw.parquet")
    settings = Download(columns=Columns(timestamp=None, rating="rating"))
    with pytest.raises(
        DataError, match=r"'rating': 1 value is no number \(.*, row 2: -?inf\); allowed: finite numbers"
    ):
        fetch_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path, settings=settings)


def write_times(folder, times):
    pq.write_table(pa.table({"user_id": [1, 2], "item_id": [1, 2], "timestamp": times}), folder / "raw.parquet")


def test_times_after_the_last_year_of_python(tmp_path):
    write_times(tmp_path, pa.array([dt.datetime(2024, 1, 1), 2**62], pa.timestamp("us")))
    with pytest.raises(
        DataError, match=r"holds 1 time after the year 2200 \(.*row 2: \+148108-07-06 14:00:27.387904\)"
    ):
        fetch_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path)


@pytest.mark.parametrize("zone", ["+05:30", "Mars/Base"])
def test_zones_that_polars_cannot_read(tmp_path, zone):
    write_times(tmp_path, pa.array([1706702400, 1706702401], pa.timestamp("s", zone)))
    says = rf"raw.parquet: column 'timestamp' holds times in the zone '{zone}'; allowed: UTC".replace("+", r"\+")
    with pytest.raises(DataError, match=says):
        fetch_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path)


@pytest.mark.parametrize("zone", ["+00:00", "-08:00", "+0900", "UTC", "Asia/Kolkata"])
def test_zones(tmp_path, zone):
    write_times(tmp_path, pa.array([1706702400, 1706702401], pa.timestamp("s", zone)))
    fetch_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path)
    assert pl.read_parquet(tmp_path / "log.parquet")["timestamp"].to_list() == [1706702400, 1706702401]
