"""The verb ``describe``: whatever ``dataset`` can be, with the keys of params.yaml."""

from pathlib import Path

import pytest

from cutrec.console import run_and_exit
from cutrec.outputs import read_json
from cutrec.reporting import describe
from tests.small_log import small_log


@pytest.mark.parametrize("form", ["own names", "csv", "twin"])
def test_any_data_set_is_described(workplace, form: str, capsys: pytest.CaptureFixture[str]):
    workplace({})
    log = small_log(users=30)
    if form == "own names":
        log.rename({"user_id": "visitor"}).write_parquet("log.parquet")
        changes = ["dataset=log.parquet", "download.columns.user=visitor"]
    elif form == "csv":
        log.write_csv("log.csv")
        changes = ["dataset=log.csv"]
    else:
        changes = ["dataset=twin:beauty@0.0002"]
    describe.main([*changes, "--out", "facts"])
    said = capsys.readouterr().out
    facts = read_json(Path("facts/describe.json"))
    assert facts["dataset"] == changes[0].removeprefix("dataset=")
    if form != "twin":
        assert (facts["users"], facts["interactions"]) == (30, len(log))
    for word in ("users", "items", "density", "length", "popularity Gini", "repeats", "time", "order"):
        assert f"{word} " in said
    assert Path("facts/describe.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_change_it_is_the_log_of_params_yaml(workplace):
    workplace({"dataset": "log.parquet"})
    small_log(users=10).write_parquet("log.parquet")
    describe.main([])
    assert read_json(Path("data/describe/describe.json"))["users"] == 10


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demo"], "found 'demo', allowed: dataset=..., or download.KEY=... of params.yaml"),
        (["loss=ce"], "found 'loss=ce', allowed: dataset=..., or download.KEY=... of params.yaml"),
        (["download.colums.user=a"], "download.colums: unknown key (did you mean download.columns?)"),
        (["dataset=nothing.csv"], "dataset 'nothing.csv': no file"),
        (["dataset="], "dataset: found None, allowed: a text"),
        (["--into", "a"], "unrecognized arguments"),
    ],
)
def test_mistakes_get_one_line(workplace, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]):
    workplace({})
    with pytest.raises(SystemExit) as caught:
        run_and_exit(lambda: describe.main(arguments))
    assert caught.value.code == 1
    error = capsys.readouterr().err.strip()
    assert says in error
    assert "\n" not in error
