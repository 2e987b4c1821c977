"""Dates that are written as numbers are refused with the format that reads them; Unix times and positions are read."""

import datetime as dt
import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_data.config import Download
from rec_data.errors import DataError
from rec_data.raw.timestamps import UNITS
from rec_data.sources.fetch import fetch_log
from tests.rec_data.raw.raw_file import fetch

DATES = ("%Y%m%d", "%d%m%Y", "%m%d%Y", "%y%m%d", "%d%m%y", "%m%d%y")
COMPACT = ("%Y", "%Y%m", "%m%Y", "%Y%j", *(date + time for date in DATES for time in ("", "%H", "%H%M", "%H%M%S")))


def first_day(form):
    """The first date whose numbers tell a form with two digits of the year from positions."""
    return dt.datetime(2001 if "%y" in form else 1990, 1, 1)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), form=st.sampled_from(COMPACT), kind=st.sampled_from([pl.String, pl.Int64, pl.Float64]))
def test_dates_written_as_numbers_are_refused_and_read_by_their_format(tmp_path_factory, data, form, kind):
    folder = tmp_path_factory.mktemp("compact")
    days = st.datetimes(first_day(form), dt.datetime(2024, 12, 31))
    least = 4 if "%y" in form and form.endswith("%H%M") else 1  # fewer can be Unix times of these years
    moments = data.draw(st.lists(days, min_size=least, max_size=30, unique_by=lambda moment: moment.date()))
    given = pl.Series([f"{moment:{form}}" for moment in moments])
    columns = {"user_id": range(len(given)), "item_id": range(len(given)), "timestamp": given.cast(kind)}
    with pytest.raises(DataError, match=r"1 date |dates of the form .*allowed: -S download.time_format=") as caught:
        fetch(folder, columns)
    assert form in re.findall(r"time_format=(\S+?)(?:;| )", str(caught.value))
    fetch_log("raw.parquet", folder / "log.parquet", root=folder, settings=Download(time_format=form))
    cut = [dt.datetime.strptime(f"{moment:{form}} +0000", f"{form} %z") for moment in moments]
    assert pl.read_parquet(folder / "log.parquet")["timestamp"].to_list() == [moment.timestamp() for moment in cut]


@pytest.mark.parametrize(
    ("given", "forms"),
    [
        ([28012024, 1022024, 0, 31122023, 99999999], ["%d%m%Y"]),
        ([310124, 10224], ["%d%m%y"]),
        ([240128, 231231], ["%y%m%d"]),
        ([50624, 60724], ["%y%m%d", "%d%m%y", "%m%d%y"]),
        ([201201, 201212], ["%Y%m", "%y%m%d", "%d%m%y"]),
    ],
)
def test_all_forms_of_a_date_are_named(tmp_path, given, forms):
    ids = range(len(given))
    with pytest.raises(DataError) as caught:
        fetch(tmp_path, {"user_id": ids, "item_id": ids, "timestamp": given})
    assert f"of the form {' or '.join(forms)} (" in str(caught.value)
    assert re.findall(r"time_format=(\S+?)(?:;| )", str(caught.value)) == forms


@settings(max_examples=30, deadline=None)
@given(
    moments=st.lists(st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2026, 1, 1)), min_size=1),
    zero=st.sampled_from(
        [
            ("NET ticks", dt.datetime(1, 1, 1), 10),
            ("Windows file times", dt.datetime(1601, 1, 1), 10),
            ("times of Chrome", dt.datetime(1601, 1, 1), 1),
        ]
    ),
    kind=st.sampled_from([pl.String, pl.Int64, pl.Float64]),
)
def test_ticks_since_another_year_are_refused(tmp_path_factory, moments, zero, kind):
    ticks = pl.Series([(moment - zero[1]) // dt.timedelta(microseconds=1) * zero[2] for moment in moments])
    ids = range(len(ticks))
    with pytest.raises(
        DataError, match=rf"dates? in {zero[0]} .*; allowed: an export .* as text".replace("in NET", r"in \.NET")
    ):
        fetch(tmp_path_factory.mktemp("ticks"), {"user_id": ids, "item_id": ids, "timestamp": ticks.cast(kind)})


@settings(max_examples=25, deadline=None)
@given(days=st.lists(st.integers(32_874, 46_000), min_size=1), part=st.sampled_from([0, 0.5, 0.0006]))
def test_days_of_a_spreadsheet_are_refused(tmp_path_factory, days, part):
    ids = range(len(days))
    with pytest.raises(
        DataError, match=r"dates? .*in days, as a spreadsheet counts them .*; allowed: .*an export .* as text"
    ):
        fetch(
            tmp_path_factory.mktemp("days"),
            {"user_id": ids, "item_id": ids, "timestamp": [day + part for day in days]},
        )


@settings(max_examples=25, deadline=None)
@given(
    moments=st.lists(st.datetimes(dt.datetime(1990, 1, 2), dt.datetime(2026, 1, 1)), min_size=1),
    zero=st.sampled_from([("since 1970", 0), ("Julian", 2_440_587.5), ("MATLAB", 719_529)]),
)
def test_days_with_a_fraction_are_refused(tmp_path_factory, moments, zero):
    name, of_1970 = zero
    days = [(moment - dt.datetime(1970, 1, 1)) / dt.timedelta(days=1) + of_1970 for moment in moments]
    days = [day + 0.25 * (day % 1 == 0) for day in days]
    ids = range(len(days))
    with pytest.raises(DataError, match=rf"dates? in .*{name}.*; allowed: an export .* as text"):
        fetch(tmp_path_factory.mktemp("days"), {"user_id": ids, "item_id": ids, "timestamp": days})


@settings(max_examples=30, deadline=None)
@given(
    st.one_of(
        st.tuples(st.integers(0, 1), st.integers(1, 60_000), st.integers(1, 500)).map(
            lambda found: list(range(found[0], found[0] + found[1] * found[2], found[2]))[:100_000]
        ),
        st.lists(st.integers(631_152_000, 1_760_000_000), min_size=1),
        st.lists(st.integers(631_152_000, 2_082_758_399), min_size=5, unique=True),
    )
)
def test_positions_and_unix_times_are_not_taken_for_other_dates(tmp_path_factory, times):
    ids = range(len(times))
    log, _ = fetch(tmp_path_factory.mktemp("times"), {"user_id": ids, "item_id": ids, "timestamp": times})
    assert log["timestamp"].to_list() == times


@settings(max_examples=40, deadline=None)
@given(
    seconds=st.lists(st.integers(662_688_000, 2_082_758_399), min_size=5, unique=True),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
    kind=st.sampled_from([pl.String, pl.Int64]),
)
def test_unix_times_of_every_unit_are_read(tmp_path_factory, seconds, unit, kind):
    """From 1991 to 2035; nanoseconds of the first months of 1990 are also .NET ticks of today."""
    ticks = UNITS[unit]
    times = [second * ticks + second * 7919 % ticks for second in seconds]
    ids = range(len(times))
    columns = {"user_id": ids, "item_id": ids, "timestamp": pl.Series(times).cast(kind)}
    log, summary = fetch(tmp_path_factory.mktemp("times"), columns)
    shorter = ticks // UNITS[summary["timestamp_unit"]]
    assert log["timestamp"].to_list() == [time // shorter for time in times]
