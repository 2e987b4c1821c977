"""Files of ids are read as logs are: encodings, quotes, compression and types."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from cutrec.errors import StageError
from cutrec.workflow.user_ids import read_users
from rec_data.config import Columns, Download, Format
from rec_data.errors import DataError


def ids_in(path: Path, columns: Columns | None = None, **form: object) -> list[str]:
    settings = Download(columns=columns or Columns(), format=Format(**form))
    return read_users(path.name, root=path.parent, settings=settings)


@pytest.mark.parametrize(
    ("name", "data", "form", "expected"),
    [
        ("ids.txt", b"1\n2", {}, ["1", "2"]),
        ("ids.txt", b"\r\n\r\n1\r\n\r\n 2 \r\n  \r\n", {}, ["1", "2"]),
        ("ids.txt", b"user_id\n1\n2\n", {}, ["1", "2"]),
        ("ids.csv", b"\n\nuser_id\n1.0\n2.0\n", {}, ["1", "2"]),
        ("ids.txt", b'"a,b"\n"c"\n', {}, ["a,b", "c"]),
        ("ids.txt", b"user 3!\nx, y\n", {}, ["user 3!", "x, y"]),
        ("ids.txt", b"NaN\nnull\n1e3\n007\n", {}, ["NaN", "null", "1e3", "007"]),
        ("ids.txt", "é\n2\n".encode("utf-16"), {}, ["é", "2"]),
        ("ids.txt", "é\n2\n".encode("utf-8-sig"), {}, ["é", "2"]),
        ("ids.txt", "é\n2\n".encode("latin-1"), {"encoding": "latin-1"}, ["é", "2"]),
        ("ids.txt", b"'1'\n'2'\n", {"quote": "single"}, ["1", "2"]),
        ("ids.txt.gz", gzip.compress(b"1\n2\n", mtime=0), {}, ["1", "2"]),
        ("ids.csv.gz", gzip.compress(b'why,"user_id"\na,1\nb,2\n', mtime=0), {}, ["1", "2"]),
        ("ids.tsv", b"why\tuser_id\n\t1\nb\t2\n", {"separator": "tab", "header": True}, ["1", "2"]),
        ("ids.inter", b"user_id:token\twhy:token\n1\tx\n2\ty\n", {}, ["1", "2"]),
    ],
)
def test_text_is_read_as_the_log(name: str, data: bytes, form: dict[str, object], expected: list[str], tmp_path: Path):
    (tmp_path / name).write_bytes(data)
    assert ids_in(tmp_path / name, **form) == expected


def test_columns_of_parquet_are_read_as_those_of_the_log(tmp_path: Path):
    kinds = [pl.Int32, pl.UInt64, pl.Float64, pl.Decimal(12, 2), pl.String, pl.Categorical]
    for kind in kinds:
        texts = isinstance(kind, pl.Decimal) or kind in (pl.String, pl.Categorical)
        column = pl.Series(["1", None, "2"]) if texts else pl.Series([1, None, 2])
        for name in ("user_id", "x"):  # the only column, too
            pl.DataFrame({name: column.cast(kind)}).write_parquet(tmp_path / "ids.parquet")
            assert ids_in(tmp_path / "ids.parquet") == ["1", "2"]
    for column, reason in (([1.5], "not a whole number"), ([2.0**60], "too large"), ([[1]], "holds List")):
        pl.DataFrame({"user_id": column}).write_parquet(tmp_path / "ids.parquet")
        with pytest.raises(DataError, match=reason):
            ids_in(tmp_path / "ids.parquet")


def test_every_id_counts_where_the_log_has_no_header(tmp_path: Path):
    for text in ("1\n2\n", "user_id\n1\n2\n", "user_id,why\n1,a\n2,b\n"):
        (tmp_path / "ids.csv").write_text(text)
        assert ids_in(tmp_path / "ids.csv", Columns(1, 2, 3), header=False) == ["1", "2"]
    pl.DataFrame({"x": [1, 2]}).write_parquet(tmp_path / "ids.parquet")
    assert ids_in(tmp_path / "ids.parquet", Columns(1, 2, 3), header=False) == ["1", "2"]


def test_files_without_ids_are_refused(tmp_path: Path):
    for text in ("\n\n", "  \n", "user_id\n"):
        (tmp_path / "empty.txt").write_text(text)
        with pytest.raises(StageError, match=r"^--users: found no ids in .*empty.txt, allowed: at least one"):
            ids_in(tmp_path / "empty.txt")
    for text, columns, example in (
        ("shop,name\na,b\n", "shop, name", "NAME"), ("userid,reason\n1,a\n", "userid, reason", "userid"),
        ("1,2,3\n", "1, 2, 3", "NAME"), ("a;b\nc;d\n", "a, b", "NAME"),
    ):  # fmt: skip
        (tmp_path / "two.csv").write_text(text)
        with pytest.raises(DataError) as caught:
            ids_in(tmp_path / "two.csv")
        assert str(caught.value) == (
            f"--users 'two.csv' has no column 'user_id'; its columns are: {columns}; allowed: another name for it "
            f"(-S download.columns.user={example}), or a file with one id per line"
        )
    with pytest.raises(DataError, match="no file"):
        ids_in(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("é\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"-S download.format.encoding"):
        ids_in(tmp_path / "latin.txt")
