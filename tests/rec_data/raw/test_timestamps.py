"""Time columns of every kind to integers, or to one clear line."""

import datetime as dt
import re
from decimal import Decimal

import polars as pl
import pytest
from pydantic import ValidationError

from rec_data.config import Download
from rec_data.errors import DataError
from rec_data.sources.fetch import fetch_log
from tests.rec_data.raw.raw_file import NOON, SECONDS, fetch

TIMES = {
    "seconds": ([SECONDS, SECONDS + 1], [SECONDS, SECONDS + 1], "s"),
    "positions": ([0, 1], [0, 1], "s"),
    "int32": (pl.Series([7, 8], dtype=pl.Int32), [7, 8], "s"),
    "uint64": (pl.Series([7, 8], dtype=pl.UInt64), [7, 8], "s"),
    "milliseconds": ([SECONDS * 1000, SECONDS * 1000 + 1], [SECONDS * 1000, SECONDS * 1000 + 1], "ms"),
    "milliseconds, all whole": ([SECONDS * 1000, SECONDS * 1000 + 1000], [SECONDS, SECONDS + 1], "s"),
    "microseconds": ([SECONDS * 10**6, SECONDS * 10**6 + 1], [SECONDS * 10**6, SECONDS * 10**6 + 1], "us"),
    "microseconds, whole ms": ([SECONDS * 10**6, SECONDS * 10**6 + 3000], [SECONDS * 1000, SECONDS * 1000 + 3], "ms"),
    "nanoseconds": ([SECONDS * 10**9, SECONDS * 10**9 + 100], [SECONDS * 10**9, SECONDS * 10**9 + 100], "ns"),
    "nanoseconds, whole us": ([SECONDS * 10**9, SECONDS * 10**9 + 1000], [SECONDS * 10**6, SECONDS * 10**6 + 1], "us"),
    "whole floats": ([float(SECONDS), SECONDS + 1.0], [SECONDS, SECONDS + 1], "s"),
    "float seconds": ([SECONDS + 0.25, SECONDS + 1.0], [SECONDS * 10**6 + 250_000, SECONDS * 10**6 + 10**6], "us"),
    "datetimes": ([NOON, NOON + dt.timedelta(seconds=1)], [SECONDS, SECONDS + 1], "s"),
    "datetimes, finer": ([NOON, NOON + dt.timedelta(milliseconds=5)], [SECONDS * 1000, SECONDS * 1000 + 5], "ms"),
    "nanosecond datetimes": (pl.Series([NOON, NOON]).cast(pl.Datetime("ns")), [SECONDS, SECONDS], "s"),
    "nanosecond datetimes, finer": (
        pl.Series([SECONDS * 10**9, SECONDS * 10**9 + 100]).cast(pl.Datetime("ns", "UTC")),
        [SECONDS * 10**9, SECONDS * 10**9 + 100],
        "ns",
    ),
    "text of nanoseconds": (
        ["2024-01-31 12:00:00.0000001", "2024-01-31T12:00:00,000000200"],
        [SECONDS * 10**9 + 100, SECONDS * 10**9 + 200],
        "ns",
    ),
    "text of nanoseconds, zoned": (
        ["2024-01-31T12:00:00Z", "2024-01-31T12:00:00.000000100Z"],
        [SECONDS * 10**9, SECONDS * 10**9 + 100],
        "ns",
    ),
    "text of nanoseconds, whole us": (["2024-01-31 12:00:00.000001000"] * 2, [SECONDS * 10**6 + 1] * 2, "us"),
    "text, decimal seconds": (
        [f"{SECONDS}.0000001", f"{SECONDS}.5"],
        [SECONDS * 10**9 + 100, SECONDS * 10**9 + 5 * 10**8],
        "ns",
    ),
    "zoned datetimes": (
        pl.Series([NOON, NOON]).dt.replace_time_zone("Asia/Tokyo"),
        [SECONDS - 9 * 3600, SECONDS - 9 * 3600],
        "s",
    ),
    "dates": ([NOON.date(), dt.date(2024, 2, 1)], [SECONDS - 43_200, SECONDS + 43_200], "s"),
    "text": (["2024-01-31 12:00:00", " 2024-01-31T12:00:01"], [SECONDS, SECONDS + 1], "s"),
    "text, zoned": (["2024-01-31T12:00:00Z", "2024-01-31T14:00:01+02:00"], [SECONDS, SECONDS + 1], "s"),
    "text, finer": (["2024-01-31T12:00:00.5", "2024-01-31"], [SECONDS * 1000 + 500, SECONDS * 1000 - 43_200_000], "ms"),
    "text, no seconds": (["2024-01-31 12:00", "2024-01-31 12:01"], [SECONDS, SECONDS + 60], "s"),
    "text, numbers": ([str(SECONDS), str(SECONDS + 1)], [SECONDS, SECONDS + 1], "s"),
    "text, floats": ([f"{SECONDS}.0", f"{SECONDS + 1}"], [SECONDS, SECONDS + 1], "s"),
    "text, spaces around": ([f" {SECONDS}", f"{SECONDS + 1}\t"], [SECONDS, SECONDS + 1], "s"),
    "text, all digits": (["1.706702400123E+12", "1.706702400000E12"], [1706702400123, SECONDS * 1000], "ms"),
    "text, nanoseconds": (
        [f"{SECONDS}{part}" for part in ("123456789", "123457789")],
        [SECONDS * 10**9 + 123_456_789, SECONDS * 10**9 + 123_457_789],
        "ns",
    ),
    "float positions": (pl.Series([2**24 - 1, 2**24 - 2], dtype=pl.Float32), [2**24 - 1, 2**24 - 2], "s"),
    "decimals": (
        [Decimal(f"{SECONDS}.000"), Decimal(f"{SECONDS}.250")],
        [SECONDS * 10**6, SECONDS * 10**6 + 250_000],
        "us",
    ),
    "categories": (pl.Series(["2024-01-31", "2024-01-31"], dtype=pl.Categorical), [SECONDS - 43_200] * 2, "s"),
    "Postgres": (["2024-01-31 12:00:00+00", "2024-01-31 12:00:00.5-03:30"], [SECONDS * 1000, 1706715000500], "ms"),
    "BigQuery": (
        ["2024-01-31 12:00:00 UTC", "2024-01-31 12:00:00.123456 UTC"],
        [SECONDS * 10**6, 1706702400123456],
        "us",
    ),
    "minutes, zoned": (["2024-01-31T12:00Z", "2024-01-31T12:01+0000"], [SECONDS, SECONDS + 60], "s"),
    "comma": (["2024-01-31 12:00:00,250", "2024-01-31 12:00"], [SECONDS * 1000 + 250, SECONDS * 1000], "ms"),
    "basic": (["20240131T120000Z", "20240131T1201Z"], [SECONDS, SECONDS + 60], "s"),
}


@pytest.mark.parametrize("case", TIMES)
def test_times(tmp_path, case):
    given, expected, unit = TIMES[case]
    log, summary = fetch(tmp_path, {"timestamp": given})
    assert log["timestamp"].to_list() == expected
    assert log["timestamp"].dtype == pl.Int64
    assert summary["timestamp_unit"] == unit


BAD_TIMES = {
    "negative": ([-1, 5], r"holds 1 time before 1970 \(.*row 1: -1\); allowed: none"),
    "before 1970": (
        [NOON, dt.datetime(1969, 1, 1)],
        r"before 1970 \(.*row 2: 1969-01-01.*; allowed: none, a year of two",
    ),
    "no date, nanoseconds": (
        ["2024-01-31 12:00:00.0000001", "9999-12-31 00:00:00"],
        r"holds 1 time after the year 2200 \(.*row 2: '9999-12-31 00:00:00'\)",
    ),
    "no date": ([NOON, dt.datetime(9999, 12, 31)], r"holds 1 time after the year 2200 \(.*row 2: 9999-12-31"),
    "uint64": (pl.Series([5, 2**63], dtype=pl.UInt64), r"1 value does not parse \(.*row 2: 9223372036854775808\)"),
    "short floats": (
        pl.Series([SECONDS, 5], dtype=pl.Float32),
        r"holds Float32, and 1 value is too large \(.*row 1: 1706702336.0\): Float32 does not .* 2\^24 on; allowed for",
    ),
    "cut digits": (
        ["1.70E+12", "1.706702400123E+12", "1.7067024001E+12"],
        r"has 2 numbers whose last digits were cut \(first in .*row 1: '1.70E\+12'\); allowed: all digits",
    ),
    "huge text": (["5", "9" * 30], "1 value does not parse"),
    "huge decimals": ([Decimal("9" * 30), Decimal(5)], "1 value does not parse"),
    "time of day": ([dt.time(12), dt.time(13)], "holds Time; allowed for times"),
    "duration": ([dt.timedelta(1), dt.timedelta(2)], "holds Duration.*; allowed for times"),
    "binary": ([b"5", b"6"], "holds Binary; allowed for times"),
    "absurd": ([5, 10**10], r"after the year 2200 \(.*row 2: 10000000000\); allowed: times before the year 2200"),
    "absurd ms": ([5, 8 * 10**12], "allowed: times before the year 2200"),
    "mixed units": (
        [SECONDS, SECONDS * 1000],
        r"mixes units: its times begin in s, and 1 is in another unit \(.*raw.parquet, row 2: 1706702400000\)",
    ),
    "mixed units, coarser later": (
        [*[str(SECONDS * 10**6)] * 3, str(SECONDS), str(SECONDS * 1000)],
        r"mixes units: its times begin in us, and 2 are in another unit \(first in .*, row 4: '1706702400'\)",
    ),
    "nan": ([1.0, float("nan")], "holds NaN or infinite times"),
    "infinite": ([1.0, float("inf")], "holds NaN or infinite times"),
    "null": ([1, None], r"column 'timestamp' has 1 empty value \(.*row 2\)"),
    "text": (
        ["2024-01-31", "31.01.2024"],
        r"1 value does not parse \(.*row 2: '31.01.2024'\); allowed: a Unix time or ISO",
    ),
    "text, some zoned": (["2024-01-31T12:00:00Z", "2024-01-31T12:00:00"], "1 value does not parse"),
    "boolean": ([True, False], "holds Boolean; allowed for times"),
    "fractions without a clock": ([0.5, 1.5], "fractions of a second but no time after 1973"),
}


@pytest.mark.parametrize("case", BAD_TIMES)
def test_bad_times(tmp_path, case):
    given, message = BAD_TIMES[case]
    rows = range(len(given))
    with pytest.raises(DataError, match=message) as caught:
        fetch(tmp_path, {"user_id": rows, "item_id": rows, "timestamp": given})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "log.parquet").exists()


EARLY = {
    "seconds": (
        [SECONDS, 0, 3, SECONDS, SECONDS],
        r"2 times before 1980 \(first in .*row 2: 0\) among real times",
    ),
    "seconds, 1980 itself": ([SECONDS, 315_532_800, 0, SECONDS, SECONDS], r"holds 1 time before 1980 \(.*row 3: 0\)"),
    "milliseconds": ([SECONDS * 1000, SECONDS * 1000, 0], r"holds 1 time before 1980 \(.*row 3: 0\)"),
    "text": ([str(SECONDS), "0", str(SECONDS)], r"holds 1 time before 1980 \(.*row 2: '0'\)"),
    "floats": ([SECONDS + 0.5, 0.5, SECONDS], r"holds 1 time before 1980 \(.*row 2: 0.5\)"),
    "dates": ([NOON, NOON, dt.datetime(1970, 1, 1)], r"holds 1 time before 1980 \(.*row 3: 1970-01-01 00:00:00\)"),
    "mixed": ([SECONDS * 1000, SECONDS * 1000, SECONDS], "mixes units"),
}


@pytest.mark.parametrize("case", EARLY)
def test_no_time_among_real_times(tmp_path, case):
    given, message = EARLY[case]
    ids = range(len(given))
    with pytest.raises(DataError, match=message):
        fetch(tmp_path, {"user_id": ids, "item_id": ids, "timestamp": given})


@pytest.mark.parametrize("given", [[0, 1, 2], [0, 0, SECONDS], [250_000_000, 260_000_000, 10**9]])
def test_positions_and_old_logs_stay(tmp_path, given):
    log, _ = fetch(tmp_path, {"user_id": range(3), "item_id": range(3), "timestamp": given})
    assert log["timestamp"].to_list() == given


@pytest.mark.parametrize(
    ("given", "form", "expected"),
    [
        (["31.01.2024 12:00", " 31.01.2024 12:01 "], "%d.%m.%Y %H:%M", [SECONDS, SECONDS + 60]),
        (["31.01.2024 12", "31.01.2024 13"], "%d.%m.%Y %H", [SECONDS, SECONDS + 3600]),
        ([20240131, 20240201], "%Y%m%d", [SECONDS - 43_200, SECONDS + 43_200]),
        (["2024-01-31 13:00:00 +0100", "2024-01-31 12:00:01 +0000"], "%Y-%m-%d %H:%M:%S %z", [SECONDS, SECONDS + 1]),
    ],
)
def test_a_format_of_times(tmp_path, given, form, expected):
    fetch(tmp_path, {"timestamp": [5, 6]})
    pl.DataFrame({"user_id": [1, 2], "item_id": [3, 4], "timestamp": given}).write_parquet(tmp_path / "raw.parquet")
    fetch_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path, settings=Download(time_format=form))
    assert pl.read_parquet(tmp_path / "log.parquet")["timestamp"].to_list() == expected


@pytest.mark.parametrize(
    ("given", "form", "message"),
    [
        (
            ["31.01.2024", "2024-01-31"],
            "%d.%m.%Y",
            "raw.parquet, row 2: '2024-01-31'); allowed: times in the form of download.time_format, found '%d.%m.%Y'",
        ),
        (["31.01.2024 12"] * 2, "%d.%m.%Y %M", "download.time_format: found '%d.%m.%Y %M', allowed: a format such as"),
        ([NOON, NOON], "%Y", "holds Datetime(time_unit='us', time_zone=None), but download.time_format is given"),
        ([1.5, 2.5], "%Y", "row 1: 1.5); allowed: times in the form of download.time_format, found '%Y'"),
    ],
)
def test_times_that_do_not_have_the_format(tmp_path, given, form, message):
    pl.DataFrame({"user_id": [1, 2], "item_id": [3, 4], "timestamp": given}).write_parquet(tmp_path / "raw.parquet")
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        fetch_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path, settings=Download(time_format=form))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("%d.%m %H:%M", "a strftime format with a year"),
        ("iso", "a strftime format with a year"),
        ("%Y-%m-%d %H:%M %Z", "allowed: %z"),
        ("%Y-%m-%d %H:%M:%S,%f", r"fractions of a second as %\.f"),
        ("%Q%Y", "in which %Q has no meaning"),
        ("%Y%Q", "in which %Q has no meaning"),
        ("%Y%%%", "in which % has no meaning"),
        ("%Y-%5f", "in which %5 has no meaning"),
        ("%Y-%m-%d %H:%M:%M", "%M is there twice"),
        ("%d.%m.%Y %-m", "%m is there twice"),
        ("%F %b", "%m is there twice"),
        ("%d.%M.%Y", "allowed: a month"),
    ],
)
def test_formats_that_would_be_misread(form, message):
    with pytest.raises(ValidationError, match=message):
        Download(time_format=form)


MOMENT = 1_700_000_000_250


@pytest.mark.parametrize(
    "units", [("ms", "us"), ("us", "ms"), ("ns", "ms"), ("us", "ns")], ids=lambda units: "-".join(units)
)
def test_parts_with_times_in_different_units(tmp_path, units):
    for name, unit, zone in zip("ab", units, ("Asia/Tokyo", "UTC"), strict=True):
        times = pl.Series([MOMENT]).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(zone).dt.cast_time_unit(unit)
        frame = pl.DataFrame({"user_id": [1], "item_id": [2], "timestamp": times})
        frame.write_parquet(tmp_path / f"{name}.parquet")
    log, summary = fetch(tmp_path, name="?.parquet")
    assert log["timestamp"].to_list() == [MOMENT, MOMENT]
    assert summary["timestamp_unit"] == "ms"
    frame.with_columns(pl.col("timestamp").dt.replace_time_zone(None)).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet: column 'timestamp' holds Datetime.*, but Datetime"):
        fetch(tmp_path, name="?.parquet")


@pytest.mark.parametrize("bad", ["abc", "timestamp", "NaN", "inf", "2024-01-31"])
def test_one_bad_time_among_unix_seconds(tmp_path, bad):
    times = [str(SECONDS + row) for row in range(6000)]
    times[3999] = bad
    for first in ("", "oops"):
        times[0] = first or times[0]
        frame = pl.DataFrame({"user_id": range(6000), "item_id": range(6000), "timestamp": times})
        frame.write_csv(tmp_path / "raw.csv")
        says = f"first in {tmp_path}/raw.csv, line 2: 'oops'" if first else f"{tmp_path}/raw.csv, line 4001: {bad!r}"
        with pytest.raises(DataError, match=re.escape(f" not parse ({says}); allowed: a Unix time")):
            fetch(tmp_path, name="raw.csv")


@pytest.mark.parametrize(
    ("usual", "other", "seconds"),
    [
        ("2024-01-31", "2024-01-31 12:00", SECONDS),
        ("2024-01-31T12:00:00", "2024-01-31T12:00:01,000", SECONDS + 1),
        ("2024-01-31 12:00:00Z", "2024-01-31T13:00 +0100", SECONDS),
        ("2024-01-31 12:00:00 UTC", "20240131T120001Z", SECONDS + 1),
        ("2024-01-31 12:00:00.000", "2024-01-31 12:00:01", SECONDS + 1),
    ],
)
def test_another_form_after_the_first_rows(tmp_path, usual, other, seconds):
    times = [usual] * 1500 + [other]
    log, _ = fetch(tmp_path, {"user_id": range(1501), "item_id": range(1501), "timestamp": times})
    assert log["timestamp"][-1] == seconds
    assert log["timestamp"][0] in (SECONDS, SECONDS - 43_200)


@pytest.mark.parametrize("zone", ["", "Z"])
def test_one_bad_time_among_dates(tmp_path, zone):
    times = [f"2024-01-31T12:00:{row % 60:02}{zone}" for row in range(300)]
    for row, bad in ((0, "2024-01-31T12:00:00" + ("" if zone else "Z")), (200, "1706702400")):
        frame = pl.DataFrame(
            {"user_id": range(300), "item_id": range(300), "timestamp": [*times[:row], bad, *times[row + 1 :]]}
        )
        frame.write_csv(tmp_path / "raw.csv")
        with pytest.raises(DataError, match=re.escape(f"/raw.csv, line {row + 2}: {bad!r})")):
            fetch(tmp_path, name="raw.csv")
