"""Recommending for the histories in a file: ``cutrec recommend --histories``."""

import re
from pathlib import Path

import polars as pl
import pytest

from cutrec.cli import execute
from tests.cutrec.commands.recommending import expected, run
from tests.small_log import write_params
from tests.small_model import SETTINGS


def test_histories_of_a_file_in_original_ids(trained: Path, capsys: pytest.CaptureFixture[str]):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    rows = [("ann", names[3]), ("ann", 5), ("bob", 7), ("ann", names[1])]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_csv("h.csv")
    found = run("--histories", "h.csv", "--k", "4")
    assert found.drop("score").rows() == expected({"ann": [names[3], names[1]]}, 4)
    said = capsys.readouterr()
    assert "note: unknown items are skipped: 2 in 2 events: 5, 7" in said.err
    assert "note: users without any known item get no list: 1: 'bob'" in said.err
    assert "out/top.parquet: 4 recommendations for 1 users, on cpu" in said.out


def test_times_that_are_not_there_are_told_if_nobody_named_them(trained: Path, capsys: pytest.CaptureFixture[str]):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    Path("h.csv").write_text(f"user_id,item_id,time\n1,{names[3]},2\n1,{names[1]},1\n")
    found = run("--histories", "h.csv", "--k", "4")
    assert found.drop("score").rows() == expected({1: [names[3], names[1]]}, 4)
    assert "note: no column 'timestamp': events of a user are taken in the order of rows" in capsys.readouterr().err
    found = run("--histories", "h.csv", "--k", "4", "--timestamp-column", "time")
    assert found.drop("score").rows() == expected({1: [names[1], names[3]]}, 4)
    assert capsys.readouterr().err.count("note: ") == 0
    with pytest.raises(ValueError, match=r"no column 'tiem' \(for timestamp\)"):
        execute(["recommend", "--histories", "h.csv", "--timestamp-column", "tiem"])
    with pytest.raises(ValueError, match=r"--timestamp-column: found user_id, item_id, user_id, allowed: different"):
        execute(["recommend", "--histories", "h.csv", "--timestamp-column", "user_id"])


def test_histories_are_read_with_the_format_of_the_log(trained: Path):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    columns = {"user": 2, "item": 1, "timestamp": None}
    keys = {f"download.columns.{key}": value for key, value in columns.items()}
    write_params(trained, SETTINGS | keys | {"download.format.header": False, "download.format.quote": "'"})
    Path("h.txt").write_text(f"{names[3]} 'ann'\n{names[1]} 'ann'\n")
    wanted = expected({"ann": [names[3], names[1]]}, 4)
    assert run("--histories", "h.txt", "--k", "4").drop("score").rows() == wanted
    Path("h.csv").write_text(f"who,item_id\n'ann',{names[3]}\n'ann',{names[1]}\n")
    found = run("--histories", "h.csv", "--k", "4", "--user-column", "who", "--item-column", "item_id")
    assert found.drop("score").rows() == wanted


def test_positions_for_a_file_without_header(trained: Path):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    Path("h.csv").write_text(f"{names[3]},7,2\n{names[1]},7,1\n")
    headless = ["-S", "download.format.header=false", "--user-column", "2", "--item-column", "1"]
    found = run("--histories", "h.csv", "--k", "4", *headless, "--timestamp-column", "3")
    assert found.drop("score").rows() == expected({7: [names[1], names[3]]}, 4)
    with pytest.raises(ValueError, match=r"^download: allowed: positions from 1, .* where timestamp is 'timestamp'"):
        execute(["recommend", "--histories", "h.csv", *headless])
    with pytest.raises(ValueError, match=r"^download: allowed: positions from 1, .* where user is 'user_id'") as caught:
        execute(["recommend", "--histories", "h.csv", *headless[:2]])
    Path("h.csv").write_text(f"7,{names[3]},2\n7,{names[1]},1\n")  # in the order of the flags
    cure = re.findall(r"-S|download\.columns\.\w+=\w+", str(caught.value))
    found = run("--histories", "h.csv", "--k", "4", *headless[:2], *cure)
    assert found.drop("score").rows() == expected({7: [names[1], names[3]]}, 4)


def test_whole_numbers_written_as_floats_get_a_hint(trained: Path, capsys: pytest.CaptureFixture[str]):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    Path("h.csv").write_text(f"user_id,item_id\n1,{names[3]}\n1,{names[1]}.0\n")
    assert run("--histories", "h.csv", "--k", "4").drop("score").rows() == expected({1: [names[3], names[1]]}, 4)
    Path("h.csv").write_text(f"user_id,item_id\n1,{names[3]}\n1,{names[1]}.0\n1,x\n")
    run("--histories", "h.csv", "--k", "4")
    said = capsys.readouterr().err
    assert f"'{names[1]}.0', 'x'; ids of text files are compared as text: write 7 and not 7.0" in said


def test_ids_that_the_type_of_the_catalogue_does_not_hold_are_unknown(
    trained: Path, capsys: pytest.CaptureFixture[str]
):
    known = pl.read_parquet("data/train/items.parquet")["original_id"][0]
    huge = [-1, 2**63, 2**64 - 1, 10**25]
    text = "".join(f"7,{item},{row}\n" for row, item in enumerate([known, *huge]))
    Path("h.csv").write_text(f"user_id,item_id,timestamp\n{text}")
    assert run("--histories", "h.csv", "--k", "2")["user_id"].to_list() == [7, 7]
    assert f"unknown items are skipped: 4 in 4 events: '-1', '{2**63}'" in capsys.readouterr().err


def test_histories_are_read_with_the_settings_of_the_log(trained: Path):
    write_params(trained, {**SETTINGS, "download.time_format": "%d.%m.%Y", "download.null_values": []})
    known = pl.read_parquet("data/train/items.parquet")["original_id"][:2].to_list()
    Path("h.csv").write_text(f"user_id,item_id,timestamp\nNA,{known[0]},31.01.2024\nNA,{known[1]},01.02.2024\n")
    assert run("--histories", "h.csv", "--k", "2")["user_id"].to_list() == ["NA", "NA"]


def test_histories_in_another_form_than_the_log(trained: Path, capsys: pytest.CaptureFixture[str]):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    Path("h.csv").write_bytes(f"user_id;item_id;when;what\nthé;{names[3]};02.01.2024;buy\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"-S download\.format\.encoding"):
        execute(["recommend", "--histories", "h.csv"])
    changes = ["encoding=latin-1", "columns.timestamp=when", "time_format=%d.%m.%Y", "events.column=what"]
    changes = [f"download.{'format.' if 'enc' in change else ''}{change}" for change in changes]
    options = [word for change in [*changes, "download.events.keep=[buy]"] for word in ("-S", change)]
    found = run("--histories", "h.csv", "--k", "4", *options)
    assert found.drop("score").rows() == expected({"thé": [names[3]]}, 4)
    assert "note" not in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no column 'tiem' \(for timestamp\)"):
        execute(["recommend", "--histories", "h.csv", *options, "-S", "download.columns.timestamp=tiem"])


def test_a_missing_column_of_events_is_told_and_refused_if_it_was_named(
    trained: Path, capsys: pytest.CaptureFixture[str]
):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    Path("h.csv").write_text(f"user_id,item_id,timestamp,kind\n8,{names[3]},1,see\n8,{names[1]},2,buy\n")
    write_params(trained, SETTINGS | {"download.events.column": "action", "download.events.keep": ["buy"]})
    assert run("--histories", "h.csv", "--k", "4").drop("score").rows() == expected({8: [names[3], names[1]]}, 4)
    assert "note: no column 'action': events other than buy are not skipped" in capsys.readouterr().err
    for change in ("download.events.column=action", "download.events={column: action, keep: [buy]}"):
        with pytest.raises(ValueError, match=r"no column 'action' \(for download.events.column\)"):
            execute(["recommend", "--histories", "h.csv", "-S", change])
    found = run("--histories", "h.csv", "--k", "4", "-S", "download.events.column=kind")
    assert found.drop("score").rows() == expected({8: [names[1]]}, 4)


def test_histories_with_names_for_a_log_without(trained: Path):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    keys = {f"download.columns.{key}": place for key, place in (("user", 1), ("item", 2), ("timestamp", 3))}
    write_params(trained, SETTINGS | keys | {"download.format.header": False})
    Path("h.csv").write_text(f"user_id,item_id,timestamp\n8,{names[3]},1706702401\n8,{names[1]},1706702400\n")
    changes = ["format.header=true", "columns.user=user_id", "columns.item=item_id", "columns.timestamp=timestamp"]
    options = [word for change in changes for word in ("-S", f"download.{change}")]
    assert run("--histories", "h.csv", "--k", "4", *options).drop("score").rows() == expected(
        {8: [names[1], names[3]]}, 4
    )


def test_what_is_left_out_of_histories_is_told(trained: Path, capsys: pytest.CaptureFixture[str]):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    limit = ["-S", "download.min_rating=3", "-S", "download.duplicates=drop"]
    Path("h.csv").write_text(f"user_id,item_id,stars\n1,{names[3]},5\n1,{names[1]},1\n2,{names[1]},2\n")
    found = run("--histories", "h.csv", "--k", "4", *limit, "-S", "download.columns.rating=stars")
    assert found.drop("score").rows() == expected({1: [names[3]]}, 4)
    said = capsys.readouterr().err
    assert "note: events with a rating below 3 are skipped: 2" in said
    assert "note: users whose events are all skipped get no list: 1" in said
    assert "note: -S download.duplicates=drop has no effect on rows without times" in said
    run("--histories", "h.csv", "--k", "4", *limit)
    assert "note: no column of ratings: -S download.min_rating=3.0 is not applied" in capsys.readouterr().err
    rows = {"user_id": [1, 1], "item_id": [names[:2], names[2:4]]}
    pl.DataFrame(rows).write_parquet("h.parquet")
    assert run("--histories", "h.parquet", "--k", "4").drop("score").rows() == expected({1: names[:4]}, 4)
    assert "users with several lists, which are joined in the order of rows: 1" in capsys.readouterr().err
