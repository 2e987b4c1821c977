"""Raw tables of every kind to ids, ratings and one log, or to one clear line."""

import datetime as dt
import itertools
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rec_data.config import Columns, Download, Format
from rec_data.errors import DataError
from rec_data.raw.normalise import write_log
from rec_data.sources.fetch import fetch_log
from tests.rec_data.raw.raw_file import fetch

IDS = {
    "strings": (["a", "b"], ["a", "b"], pl.String),
    "numbers as strings": (["12", "-3"], [12, -3], pl.Int64),
    "leading zero": (["12", "03"], ["12", "03"], pl.String),
    "mixed text": (["12", "b"], ["12", "b"], pl.String),
    "19 digits": (["7100000000000000011", "-1"], [7100000000000000011, -1], pl.Int64),
    "beyond Int64": (["9223372036854775808", "1"], [2**63, 1], pl.UInt64),
    "beyond both": (["9223372036854775808", "-1"], ["9223372036854775808", "-1"], pl.String),
    "decimals": ([Decimal("7.00"), Decimal(-1)], [7, -1], pl.Int64),
    "long decimals": ([Decimal("9" * 30), Decimal(1)], ["9" * 30, "1"], pl.String),
    "no scientific notation": (["1E5", "e+10"], ["1E5", "e+10"], pl.String),
    "longer than an integer": (["12", "123456789012345678901"], ["12", "123456789012345678901"], pl.String),
    "with decimals": (["7", "8.0"], [7, 8], pl.Int64),
    "all with decimals": (["7.0", "-8.00"], [7, -8], pl.Int64),
    "decimals and names": (["7.0", "b"], ["7.0", "b"], pl.String),
    "versions": (["7.0", "7.1"], ["7.0", "7.1"], pl.String),
    "small integers": (pl.Series([1, 2], dtype=pl.UInt8), [1, 2], pl.UInt8),
    "whole floats": ([1.0, 2.0], [1, 2], pl.Int64),
    "categories": (pl.Series(["x", "y"], dtype=pl.Categorical), ["x", "y"], pl.String),
    "odd names": (["Ω ≠ 'x'", "-"], ["Ω ≠ 'x'", "-"], pl.String),
    "spaces around": ([" 2", "2\t"], [2, 2], pl.Int64),
    "spaces around names": ([" a b", "a b "], ["a b", "a b"], pl.String),
    "spaces around categories": (pl.Series([" x", "x"], dtype=pl.Categorical), ["x", "x"], pl.String),
    "largest exact floats": ([2.0**53 - 1, -(2.0**53) + 1], [2**53 - 1, -(2**53) + 1], pl.Int64),
}


@pytest.mark.parametrize("case", IDS)
@pytest.mark.parametrize("key", ["user_id", "item_id"])
def test_ids(tmp_path, case, key):
    given, expected, kind = IDS[case]
    log, _ = fetch(tmp_path, {key: given})
    assert log[key].to_list() == expected
    assert log[key].dtype == kind


BAD_IDS = {
    "fractions": (
        [1.5, 2.0],
        r"holds Float64, and 1 value is not a whole number \(.*row 1: 1.5\); allowed for ids: integers or strings",
    ),
    "nan": (
        [float("inf"), float("nan")],
        r"holds Float64, and 2 values are not whole numbers \(first in .*row 1: inf\)",
    ),
    "large floats": (
        [1.0, 2.0**53],
        r"holds Float64, and 1 value is too large \(.*row 2: 9007199254740992.0\): Float64 does not .* 2\^53 on",
    ),
    "huge floats": ([1e300, -1e300], r"holds Float64, and 2 values are too large \(first in .*row 1: 1e\+300\)"),
    "large short floats": (pl.Series([1, 2**24], dtype=pl.Float32), r"holds Float32, and 1 value is too large"),
    "boolean": ([True, False], "holds Boolean; allowed for ids"),
    "lists": ([[1], [2]], "holds List"),
    "decimals": ([Decimal("1.5"), Decimal(2)], r"holds Decimal.*, and 1 value is not a whole number \(.*row 1: 1.5\)"),
    "scientific notation": (
        ["12", "7.1E+18"],
        r"has 1 number in scientific notation \(.*row 2: '7.1E\+18'\), which may lack digits; allowed for ids",
    ),
    "binary": ([b"5", b"6"], "holds Binary; allowed for ids: integers or strings .cast the column to a string"),
    "text of large floats": (
        ["1", "9007199254740992.0"],
        r"has 1 whole number written as a decimal of 2\^53 or more, .* \(.*row 2: '9007.*as integers",
    ),
    "time of day": ([dt.time(12), dt.time(13)], "holds Time; allowed for ids"),
    "null": ([None, "a"], r"has 1 empty value \(.*row 1\)"),
    "empty text": (["a", ""], r"has 1 empty value \(.*row 2\)"),
    "blank text": ([" ", "\t"], r"has 2 empty values \(first in .*row 1\)"),
    "empty category": (pl.Series(["x", ""], dtype=pl.Categorical), r"has 1 empty value \(.*row 2\)"),
}


@pytest.mark.parametrize("case", BAD_IDS)
def test_bad_ids(tmp_path, case):
    given, message = BAD_IDS[case]
    with pytest.raises(DataError, match=f"column 'item_id' {message}"):
        fetch(tmp_path, {"item_id": given})


@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.integers(-(10**6), 10**6), min_size=1), forms=st.lists(st.sampled_from(["{}", "{}.0"])))
def test_integers_are_one_id_with_and_without_decimals(tmp_path_factory, ids, forms):
    """A tool writes integers as floats once a value is missing, so that one file or part has both forms."""
    folder = tmp_path_factory.mktemp("forms")
    texts = [
        form.format(value) for value, form in zip(ids, itertools.chain(forms, itertools.repeat("{}")), strict=False)
    ]
    for part in (0, 1):
        rows = [f"{text},1,5\n" for text in texts[part::2]]
        (folder / f"{part}.csv").write_text("".join(["user_id,item_id,timestamp\n", *rows]))
    fetch_log("?.csv", folder / "log.parquet", root=folder)
    assert pl.read_parquet(folder / "log.parquet")["user_id"].to_list() == ids[0::2] + ids[1::2]


def test_decimals_beside_the_same_integers_among_names(tmp_path):
    given = ["7", "b", "7.0", "8.0", "7.00"]
    message = r"has 2 whole numbers written as decimals beside the same .* \(first in .*row 3: '7.0'\); .*as integers"
    with pytest.raises(DataError, match=message):
        fetch(tmp_path, {"user_id": range(5), "item_id": given, "timestamp": range(5)})


def test_quoted_empty_id_of_a_text_file(tmp_path):
    (tmp_path / "raw.csv").write_text('user_id,item_id,timestamp\na,1,1\n"",1,2\n"  ",1,3\n')
    with pytest.raises(DataError, match=r"'user_id' has 2 empty values \(first in .*/raw.csv, line 3\)"):
        fetch(tmp_path, name="raw.csv")


def test_rating_filter(tmp_path):
    names = Columns(rating="stars")
    log, summary = fetch(tmp_path, {"stars": [4, 3]}, names=names, min_rating=4)
    assert log.rows() == [(1, 3, 5, 4.0)]
    assert (summary["rows_read"], summary["rows"]) == (2, 1)
    assert fetch(tmp_path, {"stars": ["4.5", "3"]}, names=names)[0]["rating"].to_list() == [4.5, 3.0]
    for limit in (None, 4):
        with pytest.raises(DataError, match=r"'stars': 1 value is no number \(.*row 2: nan\); allowed: finite"):
            fetch(tmp_path, {"stars": [4.0, float("nan")]}, names=names, min_rating=limit)
        with pytest.raises(DataError, match=r"'stars': 1 value does not parse \(.*row 2: 'NaN'\); allowed: a number"):
            fetch(tmp_path, {"stars": ["4", "NaN"]}, names=names, min_rating=limit)
    with pytest.raises(DataError, match="none of its 2 rows has a rating of at least 6"):
        fetch(tmp_path, {"stars": [4, 3]}, names=names, min_rating=6)
    with pytest.raises(DataError, match=r"1 value does not parse \(.*row 2: 'bad'\); allowed: a number"):
        fetch(tmp_path, {"stars": ["4", "bad"]}, names=names)
    with pytest.raises(DataError, match=r"has no rating column; .* -S download\.columns\.rating=NAME, or"):
        fetch(tmp_path, {}, min_rating=4)
    with pytest.raises(DataError, match="dataset 'demo' has no ratings"):
        fetch(tmp_path, name="demo", min_rating=4)


@pytest.mark.parametrize("limit", [float("nan"), float("inf")])
def test_a_limit_that_is_no_number(limit):
    with pytest.raises(ValidationError, match=r"min_rating\n *Input should be a finite number"):
        Download(min_rating=limit)


def test_a_full_disk_is_not_blamed_on_the_source(tmp_path):
    frame = pl.LazyFrame({"user_id": [1], "item_id": [2], "timestamp": [3]})
    with pytest.raises(DataError, match=r"^/dev/full cannot be written: No space left"):
        write_log(frame, Path("/dev/full"), columns=Columns(), min_rating=None, origin="raw")


def test_one_name_for_two_columns():
    with pytest.raises(ValidationError, match="allowed: different column names"):
        Columns(user="item_id")


def test_files_by_glob_in_order_of_name(tmp_path):
    for name, user in (("b.csv", 2), ("a.csv", 1)):
        (tmp_path / name).write_text(f"user_id,item_id,timestamp\n{user},1,1\n")
    assert fetch(tmp_path, name="*.csv")[0]["user_id"].to_list() == [1, 2]
    (tmp_path / "c.csv").write_text("item_id;timestamp;user_id\n1;1;3\n")
    assert fetch(tmp_path, name="*.csv")[0]["user_id"].to_list() == [1, 2, 3]
    (tmp_path / "d.csv").write_text("user_id,item_id\n3,1\n")
    with pytest.raises(
        DataError, match=r"d\.csv has no column 'timestamp', but a.csv has; its columns are: user_id, item_id; "
    ):
        fetch(tmp_path, name="*.csv")


def test_a_column_named_twice(tmp_path):
    (tmp_path / "raw.csv").write_text("user_id,item_id,user_id,timestamp\n1,2,3,4\n")
    with pytest.raises(DataError, match=r"raw\.csv names column 'user_id' twice in its header"):
        fetch(tmp_path, name="raw.csv")


@pytest.mark.parametrize(
    "text", ["NaN", "nan", "NAN", "null", "Null", "None", "none", "NA", "n/a", "<NA>", "\\N", " None "]
)
@pytest.mark.parametrize("key", ["user_id", "item_id"])
def test_texts_for_a_missing_id(tmp_path, text, key):
    given = pl.Series(["12", text], dtype=pl.Categorical if key == "item_id" else pl.String)
    place = f"{tmp_path / 'raw.parquet'}, row 2"
    message = f"'{key}' has 1 text that stands for a missing id ({place}: {text.strip()!r}); allowed: none"
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        fetch(tmp_path, {key: given})
    assert "-S 'download.null_values=[]'" in str(caught.value)
    kept = Download(null_values=())
    fetch_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path, settings=kept)
    assert pl.read_parquet(tmp_path / "log.parquet")[key].to_list() == ["12", text.strip()]


def test_texts_that_the_user_names_as_missing(tmp_path):
    (tmp_path / "raw.csv").write_text("user_id,item_id,timestamp\nNA,1,1\n?,1,2\n-,1,3\n")
    with pytest.raises(DataError, match=r"2 texts that stand for a missing id \(first in .*/raw.csv, line 3: '\?'\)"):
        fetch_log("raw.csv", tmp_path / "log.parquet", root=tmp_path, settings=Download(null_values=("?", "-")))


PARTS = {
    "no rows": ([pa.array(["a"]), pa.array([], pa.null())], ["a"], pl.String),
    "no rows first": ([pa.array([], pa.null()), pa.array([7], pa.int8())], [7], pl.Int8),
    "dictionary": ([pa.array(["a"]).dictionary_encode(), pa.array(["b"])], ["a", "b"], pl.String),
    "widths": ([pa.array([-1], pa.int8()), pa.array([2**31], pa.uint32())], [-1, 2**31], pl.Int64),
    "int32 with uint64": ([pa.array([1], pa.int32()), pa.array([2**63], pa.uint64())], [1, 2**63], pl.UInt64),
    "int64 with uint64": ([pa.array([-1]), pa.array([2**63 - 1], pa.uint64())], [-1, 2**63 - 1], pl.Int64),
    "beyond both": ([pa.array([-1]), pa.array([2**63], pa.uint64())], ["-1", str(2**63)], pl.String),
    "decimals": ([pa.array([Decimal(1)], pa.decimal128(38, 0)), pa.array([2])], [1, 2], pl.Int64),
    "precisions": (
        [pa.array([Decimal(1)], pa.decimal128(3, 0)), pa.array([Decimal(2)], pa.decimal128(5, 2))],
        [1, 2],
        pl.Int64,
    ),
}


@pytest.mark.parametrize("case", PARTS)
def test_parts_of_different_types(tmp_path, case):
    parts, expected, kind = PARTS[case]
    for name, part in zip("ab", parts, strict=True):
        times = pa.array([5] * len(part)) if len(part) else pa.array([], pa.null())
        pq.write_table(pa.table({"user_id": times, "item_id": part, "timestamp": times}), tmp_path / f"{name}.parquet")
    log, _ = fetch(tmp_path, name="?.parquet")
    assert log["item_id"].to_list() == expected
    assert log["item_id"].dtype == kind


def test_parquet_files_that_differ(tmp_path):
    pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [1]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"user_id": ["x"], "item_id": [1], "timestamp": [1]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(
        DataError, match=r"b\.parquet: column 'user_id' holds String, but Int64 in a\.parquet; allowed: one type"
    ):
        fetch(tmp_path, name="?.parquet")
    narrow = pl.DataFrame({"more": [0], "timestamp": [2], "item_id": [7], "user_id": [5]})
    narrow.with_columns(pl.col("user_id", "timestamp").cast(pl.Int32)).write_parquet(tmp_path / "b.parquet")
    assert fetch(tmp_path, name="?.parquet")[0].rows() == [(1, 1, 1), (5, 7, 2)]
    (tmp_path / "b.csv").write_text("user_id,item_id,timestamp\n1,1,1\n")
    with pytest.raises(DataError, match="mixes parquet and text"):
        fetch(tmp_path, name="*.*")


@pytest.mark.parametrize(("start", "stop"), [(0.0, 0.1), (0.25, 0.75), (0.98, 1.0)])
def test_corrupted_parquet(tmp_path, start, stop):
    noise = np.random.default_rng(0).integers(0, 2**40, (3, 20_000))
    frame = pl.DataFrame(dict(zip(("user_id", "item_id", "timestamp"), noise, strict=True)))
    frame.write_parquet(tmp_path / "raw.parquet")
    content = bytearray((tmp_path / "raw.parquet").read_bytes())
    first, last = int(start * len(content)), int(stop * len(content))
    content[first:last] = bytes(last - first)
    (tmp_path / "raw.parquet").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        fetch(tmp_path)


def test_zstd_and_tabs(tmp_path):
    text = b"user_id\titem_id\ttimestamp\n1\tx,y\t3\n"
    (tmp_path / "raw.tsv.zst").write_bytes(pa.compress(text, codec="zstd", asbytes=True))
    assert fetch(tmp_path, name="raw.tsv.zst")[0].rows() == [(1, "x,y", 3)]


@pytest.mark.parametrize("name", ["raw.csv", "raw.parquet"])
def test_the_first_of_many_bad_rows_is_named(tmp_path, name):
    rows = np.arange(100_000)
    items = [None if row % 10 == 0 and row else int(row) for row in rows]
    rates = ["bad" if row % 10 == 3 and row > 10 else "4" for row in rows]
    frame = pl.DataFrame({"user_id": rows, "item_id": items, "timestamp": rows, "rates": rates})
    frame = frame.with_columns(stars="rates")
    write = frame.write_csv if name.endswith("csv") else frame.write_parquet
    write(tmp_path / name)

    def place(row):
        return f"csv, line {row + 1}" if name.endswith("csv") else f"parquet, row {row}"

    with pytest.raises(DataError, match=rf"'item_id' has 9999 empty values \(first in .*/raw\.{place(11)}\)"):
        fetch(tmp_path, name=name)
    with pytest.raises(DataError, match=rf"9999 values do not parse \(first in .*/raw\.{place(14)}: 'bad'\)"):
        fetch(tmp_path, name=name, names=Columns(item="stars", rating="rates"))


DECIMALS = pl.Series(["5"]).cast(pl.Decimal(38, 20))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            [pl.Series([2 * 10**18]), DECIMALS],
            "holds i64 in one file, and 1 of its values do not fit into decimal[38,20]",
        ),
        (
            [pl.Series([1]), pl.Series([1.0])],
            "holds Float64, but Int64 in 0.parquet; allowed: one type in all files (exp",
        ),
        (
            [pl.Series([1.0]), pl.Series([1])],
            "holds Int64, but Float64 in 0.parquet; allowed: one type in all files (exp",
        ),
        ([pl.Series([1]), pl.Series(["1"])], "holds String, but Int64 in 0.parquet; allowed: one type in all files"),
    ],
)
def test_parts_whose_types_have_nothing_in_common(tmp_path, parts, message):
    for number, ids in enumerate(parts):
        pl.DataFrame({"user_id": ids, "item_id": [1], "timestamp": [1]}).write_parquet(tmp_path / f"{number}.parquet")
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        fetch_log("?.parquet", tmp_path / "log.parquet", root=tmp_path)
    assert "strict" not in str(caught.value)


def test_bytes_of_another_encoding_than_the_one_given(tmp_path):
    (tmp_path / "raw.csv").write_bytes("user_id,item_id,timestamp\nthé,1,2\n".encode())
    settings = Download(format=Format(encoding="ascii"))
    with pytest.raises(DataError, match=r"not in the encoding ascii, .* \(-S download.format.encoding=latin-1\)$"):
        fetch_log("raw.csv", tmp_path / "log.parquet", root=tmp_path, settings=settings)
