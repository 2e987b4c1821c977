"""Any source to one parquet, and what is refused."""

import gzip
import multiprocessing
import re
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rec_data.config import Columns, Download, Events, Format
from rec_data.errors import DataError
from rec_data.raw.finding import _note, parts_of
from rec_data.raw.history_files import write_history_log
from rec_data.sources import demo
from rec_data.sources.fetch import fetch_log, fingerprint

ROWS = {"user_id": [2, 1, 2], "item_id": [30, 10, 20], "timestamp": [1_700_000_000, 1_600_000_000, 1_700_000_001]}


def write_csv(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_parquet_keeps_row_order_and_values(tmp_path):
    pl.DataFrame(ROWS).write_parquet(tmp_path / "raw.parquet")
    summary = fetch_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path)
    log = pl.read_parquet(tmp_path / "log.parquet")
    assert log.to_dict(as_series=False) == ROWS
    assert log.schema == {"user_id": pl.Int64, "item_id": pl.Int64, "timestamp": pl.Int64}
    assert summary == {
        "dataset": "raw.parquet",
        "kind": "file",
        "rows": 3,
        "rows_read": 3,
        "timestamp_unit": "s",
    }


def test_csv_with_bom_crlf_quotes_and_other_names(tmp_path):
    text = '\ufeffvisitor;sku;when;stars\r\n1;"a;b";2020-01-01 00:00:01;5\r\n2;c;2020-01-01T00:00:02;3\r\n'
    write_csv(tmp_path / "raw.csv", text)
    settings = Download(columns=Columns("visitor", "sku", "when", "stars"), min_rating=4)
    summary = fetch_log("raw.csv", tmp_path / "log.parquet", root=tmp_path, settings=settings)
    assert pl.read_parquet(tmp_path / "log.parquet").rows() == [(1, "a;b", 1_577_836_801, 5.0)]
    assert (summary["rows_read"], summary["rows"]) == (2, 1)


def test_demo_is_a_function_of_the_seed(tmp_path):
    for name in ("a", "b"):
        fetch_log("demo", tmp_path / f"{name}.parquet", root=tmp_path, seed=42)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    log = pl.read_parquet(tmp_path / "a.parquet")
    assert 60_000 <= len(log) <= 120_000
    assert log.select("user_id", "item_id").is_duplicated().sum() == 0
    assert log["timestamp"].is_sorted()
    assert log["timestamp"].min() >= demo.START


def test_fingerprint_follows_the_content(tmp_path):
    path = write_csv(tmp_path / "raw.csv", "user_id,item_id,timestamp\n1,2,3\n")
    before = fingerprint("raw.csv", root=tmp_path)
    write_csv(path, "user_id,item_id,timestamp\n1,2,4\n")
    assert fingerprint("raw.csv", root=tmp_path) != before


@pytest.mark.parametrize("dataset", ["demo", "twin:beauty@0.001"])
def test_fingerprint_of_a_generated_log_differs_as_the_log_does(tmp_path, dataset):
    logs, marks = {}, {}
    for seed in (None, 0, 1):
        given = {} if seed is None else {"seed": seed}
        fetch_log(dataset, tmp_path / "log.parquet", root=tmp_path, **given)
        logs[seed] = (tmp_path / "log.parquet").read_bytes()
        marks[seed] = fingerprint(dataset, root=tmp_path, **given)
    assert (logs[None] == logs[0], marks[None] == marks[0]) == (True, True)
    assert (logs[1] == logs[0], marks[1] == marks[0]) == (False, False)
    assert fingerprint("twin:beauty@0.001", root=tmp_path) != fingerprint("twin:beauty@0.002", root=tmp_path)


HEADER = "user_id,item_id,timestamp\n"
BAD_TEXT = {
    "empty": ("", "is empty"),
    "header only": (HEADER, "has no rows"),
    "missing column": ("user_id,item,timestamp\n1,2,3\n", "has no column 'item_id'.*user_id, item, timestamp"),
    "null user": (HEADER + "1,2,3\n,2,3\n", r"column 'user_id' has 1 empty value \(.*/raw.csv, line 3\)"),
    "short row": (HEADER + "1,2\n", r"raw\.csv, line 2: found 2 fields, allowed: 3"),
    "long row": (HEADER + "1,2,3,4\n", r"raw\.csv, line 2: found 4 fields, allowed: 3"),
    "unparsable time": (HEADER + "1,2,2020-01-01\n1,2,soon\n", r"1 value does not parse \(.*line 3: 'soon'\); allowed"),
    "negative time": (HEADER + "1,2,-5\n", r"holds 1 time before 1970 \(.*/raw.csv, line 2: '-5'\)"),
    "absurd time": (HEADER + "1,2,99999999999\n", r"\(.*line 2: '99999999999'\); allowed: times before the year 2200"),
    "bare carriage returns": (
        HEADER.replace("\n", "\r") + "1,2,3\r4,5,6\r",
        "line 1: found a carriage return without a line feed, allowed: line ends of line feeds, or both",
    ),
    "mixed units": (HEADER + "1,2,1700000000\n1,2,1700000000000\n", "mixes units"),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_text_is_refused_in_one_line(tmp_path, case):
    text, message = BAD_TEXT[case]
    write_csv(tmp_path / "raw.csv", text)
    with pytest.raises(DataError, match=message) as caught:
        fetch_log("raw.csv", tmp_path / "log.parquet", root=tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["raw.csv"]


@pytest.mark.parametrize("dataset", ["demo", "raw.csv"])
def test_an_output_that_cannot_be_made_is_named(tmp_path, dataset):
    write_csv(tmp_path / "raw.csv", HEADER + "1,2,3\n")
    for out, reason in (
        ("no/log.parquet", "No such file"),
        ("raw.csv/log.parquet", "Not a dir"),
        (".", "it is a folder"),
    ):
        with pytest.raises(DataError, match=rf"^{tmp_path / out} cannot be written: {reason}"):
            fetch_log(dataset, tmp_path / out, root=tmp_path)


@pytest.mark.parametrize("dataset", ["raw.csv", "*.csv"])
def test_the_source_is_not_overwritten(tmp_path, dataset):
    path = write_csv(tmp_path / "raw.csv", HEADER + "1,2,3\n")
    with pytest.raises(DataError, match=r"is a file that dataset .* reads; allowed: another file"):
        fetch_log(dataset, path, root=tmp_path)
    assert path.read_text() == HEADER + "1,2,3\n"
    assert [found.name for found in tmp_path.iterdir()] == ["raw.csv"]


BAD_NAMES = {
    "dmo": "did you mean 'demo'",
    "twin:beuty": "no twin 'beuty'",
    "twin:beauty@0": "positive number",
    "twin:beauty@x": "positive number",
    "twin:zvuk@1000": "scale '1000' makes 2.4e.11 interactions; allowed: scales up to 8.822",
    "missing.parquet": "no file .*missing.parquet$",
    "rwa.csv": "no file .*rwa.csv .did you mean 'raw.csv'",
    "nowhere/raw.csv": "no file .* no folder .*nowhere; relative paths start at ",
    "*.parquet": "no file matches",
    "folder/": "'folder/' is a folder without files that can be read; allowed: .parquet",
    "raw.xlsx/": "no file",
}


@pytest.mark.parametrize("dataset", BAD_NAMES)
def test_bad_name_is_refused_in_one_line(tmp_path, dataset):
    (tmp_path / "folder").mkdir()
    (tmp_path / "raw.csv").touch()
    for refuses in (
        lambda: fetch_log(dataset, tmp_path / "log.parquet", root=tmp_path),
        lambda: fingerprint(dataset, root=tmp_path),
    ):
        with pytest.raises(DataError, match=BAD_NAMES[dataset]):
            refuses()


def fill(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = f"{HEADER}{number},2,3\n"
        if name.endswith(".parquet"):
            pl.read_csv(text.encode()).write_parquet(folder / name)
        else:
            content = gzip.compress(text.encode()) if name.lower().endswith(".gz") else text.encode()
            (folder / name).write_bytes(content)


FOLDERS = {
    "my_parts": ["b.csv", "a.csv"],
    "my_parts/": ["A.CSV.GZ", ".hidden.csv", "_SUCCESS", ".A.CSV.GZ.crc", "_committed_17", "_temporary/0/c.csv"],
    "log.parquet": ["part-1.parquet", "part-0.parquet", "_SUCCESS", "day=1/old.parquet"],
    "beauty_2/": ["only.inter"],
}
"""Folders and their files, the first two of which are data if they are not hidden."""


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("dataset", FOLDERS)
def test_folder_is_its_files_sorted_by_name(tmp_path, dataset, absolute):
    fill(tmp_path / dataset, FOLDERS[dataset])
    asked = f"{tmp_path}/{dataset}" if absolute else dataset
    fetch_log(asked, tmp_path / "out", root=tmp_path)
    parts = [name for name in FOLDERS[dataset][:2] if not name.startswith(".")]
    assert pl.read_parquet(tmp_path / "out")["user_id"].to_list() == sorted(range(len(parts)), reverse=True)
    facts = fingerprint(asked, root=tmp_path)["files"]
    assert [fact["path"] for fact in facts] == [str(tmp_path / dataset / name) for name in sorted(parts)]
    write_history_log(asked, tmp_path / "histories", root=tmp_path, columns=Columns())
    assert pl.read_parquet(tmp_path / "histories").height == len(parts)


BAD_FOLDERS = {
    "mixed": (["a.csv", "b.csv", "c.parquet", "readme.md"], r"several formats \(.*\); .* such as {}/\*\.csv$"),
    "packed twice/": (["a.csv", "a.csv.gz"], r"several formats \(a\.csv, a\.csv\.gz\); .* such as {}/\*\.csv$"),
    "by_day": (["day=1/a.parquet", "day=2/_x.csv"], r"in sub-folders; .* such as {}/\*\*/\*\.parquet \(columns in"),
    "delta": (["a.parquet", "_delta_log/0.json"], r"is a table with a log of its changes \(_delta_log\)"),
    "texts": (["a.json", "sub/_b.csv"], r"is a folder without files that can be read; allowed: \.parquet"),
}


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("dataset", BAD_FOLDERS)
def test_folder_that_is_not_clear_is_told_the_glob(tmp_path, dataset, absolute):
    names, message = BAD_FOLDERS[dataset]
    fill(tmp_path / dataset, names)
    asked = f"{tmp_path}/{dataset}" if absolute else dataset
    for refuses, what in (
        (lambda: fetch_log(asked, tmp_path / "out", root=tmp_path), "dataset"),
        (lambda: fingerprint(asked, root=tmp_path), "dataset"),
        (lambda: write_history_log(asked, tmp_path / "out", root=tmp_path, columns=Columns()), "histories"),
    ):
        with pytest.raises(DataError, match=f"^{what} {asked!r}.*" + message.format(asked.rstrip("/"))):
            refuses()


def test_files_in_sub_folders_beside_others_are_noted_with_the_glob_that_reads_them(tmp_path, capsys):
    fill(tmp_path / "mx", ["a.csv", "old/b.csv", "old/10/c.csv", "docs/readme.md", "_tmp/d.csv", ".old/e.csv"])
    fetch_log("mx", tmp_path / "out", root=tmp_path)
    assert len(pl.read_parquet(tmp_path / "out")) == 1
    note = "note: dataset 'mx': files in sub-folders are not read: 2 (old/10/c.csv); mx/**/*.csv reads all files\n"
    assert capsys.readouterr().err == note
    shutil.rmtree(tmp_path / "mx" / "_tmp")
    fetch_log("mx/**/*.csv", tmp_path / "out", root=tmp_path)
    assert len(pl.read_parquet(tmp_path / "out")) == 3
    parts_of("s3://shop/mx/", ["a.csv"], ["old", "_tmp"], iter(()), recursive=False)
    assert capsys.readouterr().err == "note: dataset 's3://shop/mx': sub-folders are not read: 1 (old)\n"
    shutil.rmtree(tmp_path / "mx" / "old")
    _note.cache_clear()
    fetch_log("mx", tmp_path / "out", root=tmp_path)
    assert capsys.readouterr().err == ""


def test_braces_are_said_to_be_no_glob(tmp_path):
    fill(tmp_path / "log", ["a.csv", "b.csv"])
    with pytest.raises(DataError, match=r"no file .*/\{a,b\}\.csv; braces are no glob: allowed are \*, \?, \[abc\]"):
        fetch_log("log/{a,b}.csv", tmp_path / "out", root=tmp_path)


def test_glob_does_not_pass_over_a_folder(tmp_path):
    fill(tmp_path, ["a.parquet", "b.parquet/part-0.parquet"])
    with pytest.raises(DataError, match=r"dataset '\*.parquet' matches the folder .*/b.parquet; allowed: files"):
        fetch_log("*.parquet", tmp_path / "out", root=tmp_path)


def test_parts_of_zero_bytes_are_passed_over_with_a_note(tmp_path, capsys):
    fill(tmp_path / "parts", ["a.csv"])
    (tmp_path / "parts" / "b.csv").touch()
    for dataset in ("parts", "parts/*.csv"):
        fetch_log(dataset, tmp_path / "out", root=tmp_path)
        assert pl.read_parquet(tmp_path / "out").rows() == [(0, 2, 3)]
        assert [Path(fact["path"]).name for fact in fingerprint(dataset, root=tmp_path)["files"]] == ["a.csv"]
        note = f"note: dataset {dataset!r}: files of 0 bytes are passed over: 1 of 2 (b.csv)\n"
        assert capsys.readouterr().err == note
    for dataset in ("parts/b.csv", "parts/b*"):
        with pytest.raises(DataError, match=r"parts/b\.csv is empty: found 0 bytes, as of a copy that was cut off"):
            fetch_log(dataset, tmp_path / "out", root=tmp_path)


@pytest.mark.parametrize("dataset", ["parts", "parts/*.csv", "par*/*.csv"])
def test_parts_with_numbers_are_in_their_order(tmp_path, dataset):
    fill(tmp_path / "parts", ["1.csv", "2.csv", "9b.csv", "10.csv", "10a1.csv", "10a02.csv"])
    settings = Download(columns=Columns(timestamp=None))
    fetch_log(dataset, tmp_path / "out", root=tmp_path, settings=settings)
    assert pl.read_parquet(tmp_path / "out")["user_id"].to_list() == list(range(6))


def test_names_of_files_without_a_suffix_and_of_sources(tmp_path):
    write_csv(tmp_path / "events", HEADER + "1,2,3\n")
    with pytest.raises(DataError, match=r"dataset file .*/events: unknown suffix; allowed: \.parquet"):
        fetch_log("events", tmp_path / "log.parquet", root=tmp_path)
    (tmp_path / "steam").mkdir()
    (tmp_path / "demo").mkdir()
    with pytest.raises(DataError, match="dataset 'steam' cannot be used: it has no times"):
        fetch_log("steam", tmp_path / "log.parquet", root=tmp_path)
    assert fetch_log("demo", tmp_path / "log.parquet", root=tmp_path)["kind"] == "demo"


def fetch_with_limit(dataset, place, answers):
    sys.dont_write_bytecode = True  # Python keeps a cut-off .pyc file
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        fetch_log(dataset, place / "log.parquet", root=place)
    except DataError as error:
        answers.put(str(error))


@pytest.mark.parametrize("dataset", ["raw.csv", "demo", "twin:beauty@0.01"])
def test_limit_on_the_size_of_files_is_not_the_sources_fault(tmp_path, dataset):
    numbers = np.random.default_rng(0).integers(0, 10**9, (9_000, 3))
    write_csv(tmp_path / "raw.csv", HEADER + "".join(f"{user},{item},{time}\n" for user, item, time in numbers))
    context = multiprocessing.get_context("spawn")  # polars' threads do not survive a fork
    answers = context.Queue()
    process = context.Process(target=fetch_with_limit, args=(dataset, tmp_path, answers))
    process.start()
    message = rf"{tmp_path}/log\.parquet\S* cannot be written: File too large \(in {tmp_path}\)"
    assert re.fullmatch(message, answers.get(timeout=60))
    process.join()
    assert [path.name for path in tmp_path.iterdir()] == ["raw.csv"]


@pytest.mark.parametrize("dataset", ["demo", "twin:beauty@0.001"])
def test_a_seed_below_zero_is_named(tmp_path, dataset):
    with pytest.raises(DataError, match="seed -1; allowed: at least 0"):
        fetch_log(dataset, tmp_path / "log.parquet", root=tmp_path, seed=-1)


def test_gzip_that_ends_early_is_refused(tmp_path):
    whole = gzip.compress((HEADER + "".join(f"{i},{i},{i}\n" for i in range(20_000))).encode())
    (tmp_path / "raw.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        fetch_log("raw.csv.gz", tmp_path / "log.parquet", root=tmp_path)


@pytest.mark.parametrize("dataset", ["demo", "twin:beauty@0.001", "beauty"])
def test_settings_of_files_are_refused_where_they_would_be_ignored(tmp_path, dataset):
    given = {
        "columns": Columns(user="visitor"),
        "events": Events(column="event", keep=("buy",)),
        "format": Format(quote="none"),
        "time_format": "%Y",
        "null_values": ("?",),
    }
    for name, value in given.items():
        with pytest.raises(DataError, match=f"download.{name} is given but dataset '{dataset}' has its own; allowed: "):
            fetch_log(dataset, tmp_path / "log.parquet", root=tmp_path, settings=Download(**{name: value}))
