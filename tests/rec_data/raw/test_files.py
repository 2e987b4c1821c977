"""Several files of one log, and bytes of a parquet that changed where its pages carry checksums."""

import datetime as dt

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rec_data.config import Columns
from rec_data.errors import DataError
from rec_data.raw.files import check_pages
from rec_data.raw.history_files import write_history_log
from rec_data.sources.fetch import fetch_log

NAMES = ("user_id", "item_id", "timestamp")


def write(path, **options):
    """A log of 6,000 rows, beside a column that nobody asks for."""
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, 10**9, 6000) for name in NAMES}
    pq.write_table(pa.table({**columns, "other": rng.random(6000)}), path, use_dictionary=False, **options)
    return path


def flip(path, column):
    """Flips bits of the middle of a column's only page."""
    chunk = pq.read_metadata(path).row_group(0).column(column)
    content = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    for place in range(middle, middle + 100):
        content[place] ^= 0x5A
    path.write_bytes(content)


@pytest.mark.parametrize("options", [{}, {"data_page_version": "2.0"}, {"compression": "none"}])
def test_flipped_bytes_are_refused(tmp_path, options):
    path = write(tmp_path / "raw.parquet", write_page_checksum=True, **options)
    fetch_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path)
    flip(path, 0)
    with pytest.raises(DataError, match=r"raw\.parquet cannot be read: .*CRC") as caught:
        fetch_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="CRC"):
        write_history_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path, columns=Columns())


def test_only_what_is_asked_for_is_checked(tmp_path):
    path = write(tmp_path / "raw.parquet", write_page_checksum=True)
    flip(path, 3)
    check_pages([path], [*NAMES, "missing"])
    with pytest.raises(DataError, match="CRC"):
        check_pages([path], ["other"])


def test_dictionaries_are_checked_too(tmp_path):
    path = tmp_path / "raw.parquet"
    rows = {name: np.arange(6000) % 500 + 10**9 for name in NAMES}
    pq.write_table(pa.table(rows), path, compression="none", write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[pq.read_metadata(path).row_group(0).column(1).dictionary_page_offset + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        check_pages([path], NAMES)


def test_damage_without_checksums_is_found_where_it_no_longer_decodes(tmp_path):
    path = write(tmp_path / "raw.parquet")
    check_pages([path], NAMES)
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    content[start : start + 20] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"raw\.parquet cannot be read"):
        check_pages([path], NAMES)
    pq.write_table(pa.table({"user_id": pa.array([], pa.int64())}), path, write_page_checksum=True)
    check_pages([path], NAMES)


DAY = dt.datetime(2024, 1, 31)
PARTS = {  # the times in two files, and the cure in the refusal
    "floats": ([1], [1.5], "export the column as integers: tools store integers as floats"),
    "text": ([1], ["x"], "write one of them again, with the column as the type of the other"),
    "dates": ([1], [DAY], "write one of them again, with the column as the type of the other"),
    "booleans": ([True], [1], "write one of them again, with the column as the type of the other"),
    "zones": ([DAY], [DAY.replace(tzinfo=dt.UTC)], "write one of them again, with the column as the type of the other"),
    "days and zones": ([DAY.date()], [DAY.replace(tzinfo=dt.UTC)], "write one of them again, with the column as"),
}


@pytest.mark.parametrize("case", PARTS)
@pytest.mark.parametrize("turned", [False, True])
def test_parts_of_different_types_are_refused_with_a_cure_that_fits(tmp_path, case, turned):
    *parts, cure = PARTS[case]
    for name, times in zip("ab", parts[::-1] if turned else parts, strict=True):
        pl.DataFrame({"user_id": [1], "item_id": [2], "timestamp": times}).write_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=rf"b.parquet: column 'timestamp' holds \w+.*, but .* in a.parquet.*\({cure}"):
        fetch_log("?.parquet", tmp_path / "log", root=tmp_path)


def test_parts_of_days_and_of_times_are_read(tmp_path):
    for name, time in (("a", DAY.date()), ("b", DAY)):
        pl.DataFrame({"user_id": [1], "item_id": [2], "timestamp": [time]}).write_parquet(tmp_path / f"{name}.parquet")
    fetch_log("?.parquet", tmp_path / "log", root=tmp_path)
    assert pl.read_parquet(tmp_path / "log")["timestamp"].to_list() == [1706659200] * 2


def test_parts_of_microseconds_and_of_nanoseconds_are_read_exactly(tmp_path):
    nanoseconds = pl.Series([1706659200 * 10**9 + 100], dtype=pl.Datetime("ns"))
    for name, time in (("a", [DAY]), ("b", nanoseconds)):
        pl.DataFrame({"user_id": [1], "item_id": [2], "timestamp": time}).write_parquet(tmp_path / f"{name}.parquet")
    fetch_log("?.parquet", tmp_path / "log", root=tmp_path)
    assert pl.read_parquet(tmp_path / "log")["timestamp"].to_list() == [1706659200 * 10**9, 1706659200 * 10**9 + 100]
    pl.DataFrame({"user_id": [1], "item_id": [2], "timestamp": [dt.date(9999, 12, 31)]}).write_parquet(
        tmp_path / "a.parquet"
    )
    with pytest.raises(DataError, match=r"holds date in one file, and 1 of its values do not fit into datetime\[ns\]"):
        fetch_log("?.parquet", tmp_path / "log", root=tmp_path)


@pytest.mark.parametrize("headed", [0, 1])
@pytest.mark.parametrize("ids", ["1,2", "a,b"])
def test_parts_with_and_without_a_header(tmp_path, headed, ids):
    for place in range(3):
        header = "user_id,item_id,timestamp\n" if place == headed else ""
        (tmp_path / f"{place}.csv").write_text(f"{header}{ids},1706702400\n")
    with pytest.raises(DataError) as caught:
        fetch_log("?.csv", tmp_path / "log", root=tmp_path)
    without = 1 if headed == 0 else 0
    assert f"{without}.csv, line 1: found what looks like data ({ids.replace(',', ', ')}, 17067" in str(caught.value)
    assert f"but the names of columns in {headed}.csv; allowed: a header in every file, or in none" in str(caught.value)
    assert "-S" not in str(caught.value)


def test_a_part_that_lacks_a_column_is_named_beside_one_that_has_it(tmp_path):
    (tmp_path / "1.csv").write_text("user_id,item_id,timestamp\na,b,c\n")
    (tmp_path / "2.csv").write_text("d,e,f\n")
    with pytest.raises(DataError, match=r"2.csv has no column 'user_id', but 1.csv has; its columns are: d, e, f; al"):
        fetch_log("?.csv", tmp_path / "log", root=tmp_path)
