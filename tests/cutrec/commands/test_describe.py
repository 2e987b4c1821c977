"""``cutrec describe``: every kind of ``dataset``, with the keys of params.yaml."""

import re
from pathlib import Path

import polars as pl
import pytest

from cutrec.cli import execute
from cutrec.outputs import read_json
from tests.small_log import small_log


@pytest.mark.parametrize("form", ["a file", "a synthetic log"])
def test_any_data_set_is_described(workplace, form: str, capsys: pytest.CaptureFixture[str]):
    log = small_log(users=30)
    if form == "a file":
        workplace({"dataset": "log.csv"})
        events = pl.Series("event", ["view", "buy"] * len(log))[: len(log)]
        log.rename({"user_id": "visitor"}).with_columns(events).write_csv("log.csv")
        execute(["describe", "download.columns.user=visitor"])
        folder, dataset = Path("data/describe"), "log.csv"
    else:
        workplace({})
        folder, dataset = Path("facts"), "twin:beauty@0.0002"
        execute(["describe", f"dataset={dataset}", "--out", "facts"])
    said = capsys.readouterr().out
    found = read_json(folder / "describe.json")
    assert found["dataset"] == dataset
    if form == "a file":
        assert (found["users"], found["interactions"]) == (30, len(log))
        assert "column 'event' holds buy, view: download.events.column and .keep keep some of them" in said
        changes = ["download.events.column=event", "-S", "download.events.keep=[buy]"]
        execute(["describe", "-S", "download.columns.user=visitor", *changes])
        assert read_json(folder / "describe.json")["interactions"] == len(log) // 2
    for word in (
        "users",
        "items",
        "density",
        "length",
        "popularity Gini",
        "repeats",
        "duplicates",
        "time",
        "ties",
        "order",
    ):
        assert f"{word} " in said
    assert (folder / "describe.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demo"], "found 'demo', allowed: dataset=... or download.KEY=... of params.yaml"),
        (["loss=ce"], "found 'loss=ce', allowed: dataset=... or download.KEY=... of params.yaml"),
        (["-S", "loss=ce"], "found 'loss=ce', allowed: dataset=... or download.KEY=... of params.yaml"),
        (["download.colums.user=a"], "download.colums: unknown key (did you mean download.columns?)"),
        (["dataset=nothing.csv"], "dataset 'nothing.csv': no file"),
        (["dataset="], "dataset: found None, allowed: a text"),
    ],
)
def test_mistakes_get_one_line(workplace, arguments: list[str], says: str):
    workplace({})
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        execute(["describe", *arguments])
    assert "\n" not in str(caught.value)
