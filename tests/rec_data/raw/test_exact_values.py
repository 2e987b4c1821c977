"""Integers and times in every representation: what is read equals what was written, or the column is refused."""

import datetime as dt
import math
import re
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rec_data.config import Columns, Download
from rec_data.errors import DataError
from rec_data.raw.history_files import write_history_log
from rec_data.raw.timestamps import UNITS
from rec_data.sequences.histories import read_histories
from rec_data.sources.fetch import fetch_log

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
SIGNED = {bits: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)}
UNSIGNED = {bits: (0, 2**bits - 1) for bits in (8, 16, 32, 64)}
EXACT = {f"{sign}{bits}" for sign in ("int", "uint") for bits in SIGNED} | {
    "text",
    "decimal(38,0)",
    "decimal(38,9)",
    "categories",
    "coded integers",
    "csv",
}
"""Representations that hold every integer in their range; the others are floats."""
FLOATS = {"float16": 2**11, "float32": 2**24, "float64": 2**53}
"""Each with the first integer from which on not all are held."""

EDGES = st.sampled_from(
    [near + step for near in (0, 127, 2**11, 2**24, 2**31, 2**53, 10**18, 2**63, 2**64) for step in (-1, 0, 1)]
)
INTEGERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 99),
    EDGES,
)


def holds(kind: str, values: list[int]) -> bool:
    """Whether a representation can be written at all."""
    for start, ranges in (("int", SIGNED), ("uint", UNSIGNED)):
        for bits, (least, most) in ranges.items():
            if kind == f"{start}{bits}":
                return least <= min(values) and max(values) <= most
    return kind != "coded integers" or holds("int64", values)


def represent(kind: str, values: list[int]) -> pa.Array:
    """The values as an Arrow array."""
    if kind.startswith("decimal"):
        return pa.array([Decimal(value) for value in values], pa.decimal128(38, int(kind[-2])))
    if kind == "categories":
        return pa.array(list(map(str, values))).dictionary_encode()
    if kind == "coded integers":
        return pa.array(values, pa.int64()).dictionary_encode()
    if kind in FLOATS:
        with np.errstate(over="ignore"):
            return pa.array(np.array([float(value) for value in values]).astype(kind))
    return pa.array(list(map(str, values))) if kind in ("text", "csv") else pa.array(values, pa.type_for_alias(kind))


def write(folder: Path, kind: str, **columns: pa.Array) -> str:
    """Write a raw file; its other columns are numbers of rows."""
    rows = pa.array(range(len(next(iter(columns.values())))))
    table = pa.table({"user_id": rows, "item_id": rows, "timestamp": rows} | columns)
    if kind == "csv":
        pa.csv.write_csv(table, folder / "raw.csv", pa.csv.WriteOptions(quoting_style="none"))
        return "raw.csv"
    pq.write_table(table, folder / "raw.parquet")
    return "raw.parquet"


@settings(max_examples=50, deadline=None)
@given(
    st.lists(INTEGERS, min_size=1, max_size=4),
    st.sampled_from(sorted(EXACT | FLOATS.keys())),
    st.sampled_from(["user_id", "item_id"]),
)
@example([7_100_000_000_000_000_011, 2**63 - 1], "text", "item_id")
@example([2**63 + 5, 2**64 - 1], "csv", "item_id")
@example([2**64 - 1, -1], "decimal(38,0)", "item_id")
@example([2**53, 1], "float64", "user_id")
def test_ids(values, kind, key):
    if not holds(kind, values):
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        file = write(folder, kind, **{key: represent(kind, values)})
        if max(map(abs, values)) >= FLOATS.get(kind, math.inf):
            with pytest.raises(DataError, match=r"too large|whole number"):  # infinity is no whole number
                fetch_log(file, folder / "log.parquet", root=folder)
            return
        fetch_log(file, folder / "log.parquet", root=folder)
        read = pl.read_parquet(folder / "log.parquet")[key]
        assert [int(value) for value in read] == values
        in_64_bits = holds("int64", values) or holds("uint64", values)
        assert read.dtype.is_integer() is in_64_bits


@settings(max_examples=30, deadline=None)
@given(
    st.lists(INTEGERS, min_size=1, max_size=5, unique=True),
    st.sampled_from(sorted(EXACT)),
    st.lists(INTEGERS, min_size=1, max_size=4),
    st.sampled_from(sorted(EXACT)),
)
@example([1, 300], "int16", [300, 70_000, 1], "csv")
@example([1, 2**64 - 1], "uint64", [-1, 1, 2**64 - 1], "int64")
@example([2**63 + 5, 7], "uint64", [2**63 + 5, -1, 7], "csv")
def test_histories_find_exactly_the_items_of_the_catalogue(catalogue, log_kind, items, kind):
    items = [*items, *catalogue[:2]]
    if not (holds(log_kind, catalogue) and holds(kind, items)):
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        file = write(folder, log_kind, item_id=represent(log_kind, catalogue))
        fetch_log(file, folder / "log.parquet", root=folder)
        names = pq.read_table(folder / "log.parquet", columns=["item_id"])["item_id"].combine_chunks()
        file = write(folder, kind, item_id=represent(kind, items), user_id=pa.array([1] * len(items)))
        write_history_log(file, folder / "histories.parquet", root=folder, columns=Columns())
        found = read_histories(folder / "histories.parquet", names, tie_seed=None)
    assert found.store.items.tolist() == [catalogue.index(item) for item in items if item in catalogue]
    unknown = [item for item in items if item not in catalogue]
    assert (found.unknown_items.count, found.unknown_items.events) == (len(set(unknown)), len(unknown))
    assert [int(str(item)) for item in found.unknown_items.examples] == list(dict.fromkeys(unknown))[:5]


@pytest.mark.parametrize("huge", ["12345678901234567890123", "-99999999999999999999"])
def test_histories_with_ids_of_many_digits(tmp_path, huge):
    (tmp_path / "h.csv").write_text(f"user_id,item_id\n1,{huge}\n1,2\n{huge},2\n")
    write_history_log("h.csv", tmp_path / "log.parquet", root=tmp_path, columns=Columns())
    for catalogue in (pa.array([1, 2], pa.int16()), pa.array([2**64 - 1, 2], pa.uint64())):
        found = read_histories(tmp_path / "log.parquet", catalogue, tie_seed=None)
        assert found.store.items.tolist() == [1, 1]
        assert found.unknown_items.examples == [huge]
    found = read_histories(tmp_path / "log.parquet", pa.array(["2", huge]), tie_seed=None)
    assert found.store.items.tolist() == [1, 0, 0]


TIMES = st.integers(1_000_000_000, 1_790_000_000) | st.integers(3_200_000_000, 4_600_000_000)
"""Unix seconds up to 2026, and of years so late that no calendar date has these digits (3107180000 is 2018-07-31)."""
"""Seconds up to 2115: later nanoseconds are too large for the microseconds of a float64."""


@settings(max_examples=50, deadline=None)
@given(
    st.lists(TIMES, min_size=1, max_size=4),
    st.lists(st.integers(0, 10**9 - 1), min_size=4, max_size=4),
    st.sampled_from(list(UNITS)),
    st.sampled_from(sorted(EXACT | FLOATS.keys())),
)
@example([1_700_000_000], [123_456_000, 0, 0, 0], "ns", "csv")
@example([1_700_000_000], [123_456_000, 0, 0, 0], "ns", "float64")
@example([1_700_000_000], [0, 0, 0, 0], "s", "float32")
def test_whole_times(seconds, fractions, unit, kind):
    ticks = UNITS[unit]
    values = [second * ticks + part * ticks // 10**9 for second, part in zip(seconds, fractions, strict=False)]
    if not holds(kind, values):
        return
    if unit == "ns" and kind == "float64":  # holds microseconds, not nanoseconds
        values = [value // 1000 * 1000 for value in values]
    read = read_times(kind, represent(kind, values))
    if read is None:
        assert kind in ("float16", "float32")
    else:
        assert read == [value * 10**6 // ticks for value in values]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(TIMES, st.integers(0, 999_999)), min_size=1, max_size=4),
    st.sampled_from(["decimal", "text", "csv", "float64", "scientific"]),
)
def test_fractions_of_a_second(times, kind):
    if kind == "float64":  # from 2^32 seconds on, the errors of the value and of its product with 10^6 exceed 1/2
        times = [(min(second, 2**32 - 1), part) for second, part in times]
    exact = [second * 10**6 + part for second, part in times]
    values = [Decimal(value) / 10**6 for value in exact]
    if kind == "decimal":
        column = pa.array(values, pa.decimal128(20, 6))
    elif kind == "float64":
        column = pa.array([float(value) for value in values])
    else:
        column = pa.array([f"{value:.15E}" if kind == "scientific" else f"{value:f}" for value in values])
    assert read_times(kind, column) == exact


def read_times(kind: str, column: pa.Array) -> list[int] | None:
    """Microseconds as read; None if the column is refused because its type does not hold such times."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        file = write(folder, kind, timestamp=column)
        try:
            summary = fetch_log(file, folder / "log.parquet", root=folder)
        except DataError as error:
            if "does not represent every integer" in str(error) or "NaN or infinite" in str(error):
                return None
            raise
        log = pl.read_parquet(folder / "log.parquet")["timestamp"]
    return [time * 10**6 // UNITS[summary["timestamp_unit"]] for time in log]


MOMENTS = st.datetimes(dt.datetime(1991, 1, 1), dt.datetime(2190, 1, 1))
OFFSETS = st.integers(-23 * 60, 23 * 60)
ZONES = ("Z", "z", " UTC", "UTC", " GMT", " Z", "+HH", "+HHMM", "+HH:MM", " +HHMM", " +HH:MM")


def spell(moment: dt.datetime, minutes: int, zone: str, places: int, *, gap: str, mark: str, basic: bool) -> str:
    """A moment in UTC as ISO 8601 text with an offset; places: digits of the second, -1 for no seconds."""
    if "HH" in zone:
        minutes = minutes // 60 * 60 if zone.endswith("+HH") else minutes
        hours, rest = divmod(abs(minutes), 60)
        local = moment + dt.timedelta(minutes=minutes)
        sign = "-" if minutes < 0 else "+"
        suffix = zone.replace("+", sign).replace("HH", f"{hours:02}").replace("MM", f"{rest:02}")
    else:
        local, suffix = moment, zone
    if basic:
        clock = local.strftime("%Y%m%dT%H%M" + ("%S" if places >= 0 else ""))
    else:
        clock = local.strftime(f"%Y-%m-%d{gap}%H:%M" + (":%S" if places >= 0 else ""))
    fraction = mark + f"{local.microsecond:06}000"[:places] if places > 0 else ""
    return clock + fraction + suffix


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(MOMENTS, OFFSETS), min_size=1, max_size=4),
    st.lists(
        st.tuples(
            st.sampled_from(ZONES),
            st.integers(-1, 9),
            st.sampled_from(["T", " ", "t"]),
            st.sampled_from([".", ","]),
            st.booleans(),
        ),
        min_size=1,
        max_size=2,
    ),
    st.booleans(),
)
def test_iso_8601(moments, forms, zoned):
    texts, exact = [], []
    for row, (moment, minutes) in enumerate(moments):
        zone, places, gap, mark, basic = forms[row % len(forms)]
        texts.append(spell(moment, minutes, zone if zoned else "", places, gap=gap, mark=mark, basic=basic))
        kept = moment.replace(second=moment.second if places >= 0 else 0, microsecond=0)
        part = int(f"{moment.microsecond:06}"[: max(places, 0)].ljust(6, "0"))
        exact.append(round(kept.replace(tzinfo=dt.UTC).timestamp()) * 10**6 + part)
    read = read_times("text", pa.array(texts))
    assert read == exact, texts
    for text, value in zip(texts, exact, strict=True):
        standard = re.sub(r" *(UTC|GMT|[Zz])$", "Z", re.sub(r" ([+-])", r"\1", text))
        parsed = dt.datetime.fromisoformat(standard)
        parsed = parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)
        assert (parsed - EPOCH) // dt.timedelta(microseconds=1) == value


@settings(max_examples=30, deadline=None)
@given(
    st.lists(MOMENTS, min_size=1, max_size=4),
    st.sampled_from(
        [
            "%d.%m.%Y %H:%M:%S",
            "%m/%d/%Y %I:%M:%S %p",
            "%d-%b-%Y %H:%M:%S.%f",
            "%Y%m%d",
            "%d/%b/%Y:%H:%M:%S %z",
            "%a, %d %B %Y %H:%M",
            "%Y-%m-%d %H:%M:%S EST",
            "%s",
        ]
    ),
)
def test_a_format_of_times(moments, form):
    zoned = [moment.replace(tzinfo=dt.UTC) for moment in moments]
    texts = [moment.strftime(form) for moment in zoned]
    with TemporaryDirectory() as name:
        folder = Path(name)
        file = write(folder, "parquet", timestamp=pa.array(texts))
        summary = fetch_log(file, folder / "log.parquet", root=folder, settings=Download(time_format=form))
        log = pl.read_parquet(folder / "log.parquet")["timestamp"]
    ticks = UNITS[summary["timestamp_unit"]]
    if form == "%s":
        parsed = [moment.replace(microsecond=0) for moment in zoned]
    else:
        parsed = [dt.datetime.strptime(text, form).replace(tzinfo=dt.UTC) for text in texts]
    exact = [(moment - EPOCH) // dt.timedelta(microseconds=1) for moment in parsed]
    assert [time * 10**6 // ticks for time in log] == exact
