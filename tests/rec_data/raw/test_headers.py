"""Lines with names of columns never become events."""

import re

import pytest

from rec_data.config import Columns, Download, Format
from rec_data.errors import DataError
from rec_data.raw.history_files import write_history_log
from rec_data.sources.fetch import fetch_log

POSITIONS = Columns(1, 2, None)
HEADLESS = Format(header=False)


def read(tmp_path, content, columns, form=Format()):  # noqa: B008
    """The summary of a log of this content; or the message, which is the same for a file of histories."""
    (tmp_path / "raw.csv").write_text(content)
    settings = Download(columns=columns, format=form)
    try:
        summary = fetch_log("raw.csv", tmp_path / "log.parquet", root=tmp_path, settings=settings)
    except DataError as error:
        with pytest.raises(DataError) as caught:
            write_history_log("raw.csv", tmp_path / "h.parquet", root=tmp_path, columns=columns, settings=settings)
        message = str(error).removeprefix("dataset")
        assert str(caught.value).removeprefix("histories") == message
        return message.replace(f"{tmp_path}/", "")
    write_history_log("raw.csv", tmp_path / "h.parquet", root=tmp_path, columns=columns, settings=settings)
    return summary["rows"]


@pytest.mark.parametrize("times", [None, "timestamp"])
@pytest.mark.parametrize(
    "again",
    [
        "user_id,item_id,timestamp",
        ' user_id,"item_id",timestamp',
        "item_id,user_id,user_id",
        "----,---,-",
        "...,...,...",
    ],
)
def test_a_repeated_header_is_refused_with_and_without_times(tmp_path, times, again):
    content = f"user_id,item_id,timestamp\na,x,1\n{again}\nb,y,2\n{again}\n"
    says = read(tmp_path, content, Columns(timestamp=times))
    assert " has 2 lines that are no events (first in raw.csv, line 3): " in says
    assert says.endswith("; allowed: none, remove it (as in a drawn table, or in files that were joined)")
    assert read(tmp_path, content.replace(f"\n{again}\n", "\nb,user_id,3\n"), Columns(timestamp=times)) == 4


def test_a_repeated_typed_header(tmp_path):
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    (tmp_path / "raw.inter").write_text(f"{header}a\tx\t1\n" * 2)
    with pytest.raises(
        DataError, match=r"1 line that is no event \(.*/raw.inter, line 3\): user_id:token, item_id:token"
    ):
        fetch_log("raw.inter", tmp_path / "log.parquet", root=tmp_path)


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        ("user_id,item_id", "user=user_id item=item_id"),
        ("who,what", "user=who item=what"),
        ("the user,what", "user=NAME item=what"),
    ],
)
def test_a_header_in_a_file_read_without_is_refused_with_the_flags_that_read_it(tmp_path, header, flags):
    says = read(tmp_path, f"{header}\n1,2\n3,4\n", POSITIONS, HEADLESS)
    assert f" has 1 line that is no event (raw.csv, line 1): {header.replace(',', ', ')}; allowed: none" in says
    assert says.endswith(
        "-S download.format.header=true " + " ".join(f"-S download.columns.{flag}" for flag in flags.split())
    )
    if "NAME" not in flags:
        names = dict(re.findall(r"columns\.(\w+)=(\w+)", says))
        assert read(tmp_path, f"{header}\n1,2\n3,4\n", Columns(**names, timestamp=None), Format(header=True)) == 2


def test_files_with_and_without_a_header(tmp_path):
    (tmp_path / "1.csv").write_text("user_id,item_id\n1,2\n")
    (tmp_path / "2.csv").write_text("user_id,item_id\n1,2\n")
    settings = Download(columns=POSITIONS, format=HEADLESS)
    with pytest.raises(DataError, match=r"lines that are no .*1.csv, line 1.*-S download.format.header=true"):
        fetch_log("?.csv", tmp_path / "log.parquet", root=tmp_path, settings=settings)
    (tmp_path / "2.csv").write_text("1,2\n")
    with pytest.raises(DataError, match=r"1 line that is no .*1.csv, line 1.*allowed: none, remove it"):
        fetch_log("?.csv", tmp_path / "log.parquet", root=tmp_path, settings=settings)


def test_a_header_behind_the_first_line_of_a_file_without(tmp_path):
    says = read(tmp_path, "a,x\nuserId,movieId\nb,y\n", POSITIONS, HEADLESS)
    assert says.endswith(
        "(raw.csv, line 2): userId, movieId; allowed: none, remove it (as in a drawn table, or in files that were "
        "joined)"
    )


@pytest.mark.parametrize("content", ["a,x\nb,y\n", "a,x\n1,2\nb,3\n", "a,x\n", "1,user_id\n2,3\n", "user_7,item_7\n"])
def test_texts_that_are_no_names_of_columns_are_events(tmp_path, content):
    assert read(tmp_path, content, POSITIONS, HEADLESS) == content.count("\n")
