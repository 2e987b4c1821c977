"""Titles of items: the ids of a log find theirs in a table that another tool wrote, and nothing is guessed."""

from pathlib import Path

import polars as pl
import pytest

from rec_data.errors import DataError
from rec_data.raw.titles import Titles, read_groups, read_titles

CURE = ", allowed: a CSV file in UTF-8 with a header, or a parquet file, with the columns id (or item_id) and title"


def read(path: Path, *wanted: object, item: str = "item_id") -> Titles:
    return read_titles(path.name, wanted, root=path.parent, what="report.item_names", item=item)


def test_ids_of_any_type_find_their_titles_in_text_and_parquet(tmp_path: Path):
    text = tmp_path / "items.csv"
    text.write_text('title,id,genre\n"Matrix, The",7,a\n Alien ,x8,b\n,9,c\nOther,10,d\n', encoding="utf-8")
    assert read(text, 7, "x8", 9, 11) == Titles({"7": "Matrix, The", "x8": "Alien"}, missing=2)
    table = tmp_path / "items.parquet"
    pl.DataFrame({"page": [7, 8], "title": ["Seven", None]}).write_parquet(table)
    assert read(table, 7, 8, item="page") == Titles({"7": "Seven"}, missing=1)


def test_the_first_of_several_titles_is_taken_and_counted(tmp_path: Path):
    path = tmp_path / "items.tsv"
    path.write_text("id\ttitle\n1\tcup\n1\tmug\n2\tpot\n2\tpot\n", encoding="utf-8")
    assert read(path, 1, 2) == Titles({"1": "cup", "2": "pot"}, repeated=1)


def test_groups_are_numbered_and_may_be_missing(tmp_path: Path):
    path = tmp_path / "items.csv"
    path.write_text("id,title,group\n7,cup,kitchen\n8,rope,garden\n9,pot,kitchen\n9,pot,garden\n10,?,\n")
    found = read_groups(path.name, [9, 8, "x", 7, 10], root=tmp_path, what="report.item_names", item="item_id")
    assert found is not None
    assert found.tolist() == [1, 0, -1, 1, -1]
    path.write_text("id,title\n7,cup\n")
    assert read_groups(path.name, [7], root=tmp_path, what="report.item_names", item="item_id") is None


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("items.csv", "id,name\n1,cup\n", f"has no column 'title'; its columns are: id, name{CURE}"),
        ("items.csv", "1,cup\n2,pot\n", CURE),
        ("items.csv", "", "is empty: found 0 bytes"),
        ("items.csv", "id,title\n1,caf\u00e9\n", f"line 2: found bytes that are not UTF-8{CURE}"),
        ("items.json", "{}", "unknown suffix; allowed: .parquet"),
        ("none.csv", None, "no file"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_one_line_without_the_logs_settings(
    tmp_path: Path, name: str, content: str | None, found: str
):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(DataError) as error:
        read(tmp_path / name)
    text = str(error.value)
    assert found in text
    assert "-S" not in text
    assert "\n" not in text
