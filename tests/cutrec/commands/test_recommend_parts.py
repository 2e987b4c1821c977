"""Recommending part by part, into a folder; for a split in parts; and for a split without its log."""

import re
import shutil
import zlib
from pathlib import Path

import polars as pl
import pytest

from cutrec.cli import execute
from cutrec.errors import StageError
from cutrec.workflow import recommend, scoring
from cutrec.workflow.history_sources import SplitSource
from rec_data.config import Split
from rec_data.splits.split import split_log
from tests.cutrec.commands.recommending import run
from tests.small_log import small_log, write_params
from tests.small_model import SETTINGS, write_model
from tests.split_parts import divide


def test_parts_of_the_users_are_written_into_a_folder(trained: Path, capsys: pytest.CaptureFixture[str]):
    everybody = run("--k", "3").sort("user_id", "rank")
    for number in (2, 1):
        execute(["recommend", "--k", "3", "--part", f"{number}/2", "--chunk-events", "400", "--out", "out/lists"])
    said = capsys.readouterr().out
    assert re.search(r"out/lists/part-00002-of-00002: [\d,]+ recommendations for \d+ users, on cpu\n", said)
    assert said.endswith("out/lists: all 2 parts are complete\n")
    found = pl.read_parquet("out/lists/*.parquet").sort("user_id", "rank")
    assert found.drop("score").equals(everybody.drop("score"))
    shutil.copyfile("data/download/log.parquet", "h.parquet")
    for number in (1, 2):
        execute(["recommend", "--k", "3", "--part", f"{number}/2", "--histories", "h.parquet"])
    found = pl.read_parquet("data/recommend/parts/*.parquet").sort("user_id", "rank")
    assert found.drop("score").equals(everybody.drop("score"))
    with pytest.raises(StageError, match="lists with another --k: found 4, allowed: 3 as there; take another folder"):
        execute(["recommend", "--k", "4", "--part", "1/2", "--out", "out/lists"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--part", "3/2"], r"--part: found 3/2, allowed: I/N with I from 1 to N, such as 1/8"),
        (["--part", "0/2"], r"--part: found 0/2, allowed: I/N"),
        (["--part", "half"], r"--part: found half, allowed: I/N"),
        (["--part", "1/2", "--out", "lists.parquet"], r"--out: found lists.parquet, allowed with --part: a folder"),
        (["--part", "1/2", "--user", "3"], r"--part: found it with --user or --refit, allowed: all users"),
        (["--part", "1/2", "--out", "data/train"], r"--out: found data/train, allowed: outside of data/train"),
        (
            ["--chunk-events", "5"],
            r"--chunk-events: it is about --part, which is not given; --part 1/1 takes",
        ),
    ],
)
def test_a_wrong_part_is_refused_in_one_line(arguments: list[str], said: str, trained: Path):
    with pytest.raises(StageError, match=said) as caught:
        execute(["recommend", *arguments])
    assert "\n" not in str(caught.value)


def test_a_log_whose_split_is_in_parts_is_never_read_at_once(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    whole, some = run("--k", "3"), run("--k", "3", "--user", "5", "--user", "77")
    divide(trained / "data/split", 3)
    assert run("--k", "3", "--user", "5", "--user", "77").equals(some)
    with monkeypatch.context() as patch:
        patch.setattr(recommend, "read_histories", None)
        for chunks in ("1000000", "500"):
            patch.setattr(scoring, "CHUNK_EVENTS", int(chunks))
            execute(["recommend", "--k", "3", "--out", f"lists{chunks}"])
            found = pl.read_parquet(f"lists{chunks}/*.parquet").sort("user_id", "rank")
            assert found.drop("score").equals(whole.sort("user_id", "rank").drop("score"))
            assert Path(f"lists{chunks}/_SUCCESS").is_file()
    assert "note: the split is in 3 parts, so lists are written in parts too (--part 1/1)" in capsys.readouterr().err
    with pytest.raises(StageError, match=r"--out: found out/top.csv, allowed for a split in parts: a folder"):
        execute(["recommend", "--out", "out/top.csv"])
    with pytest.raises(StageError, match=r"data/split: found a split in 3 parts, allowed: 1 here; --refit trains on"):
        run("--refit")


@pytest.mark.parametrize(("parts", "another"), [(1, True), (3, False), (3, True)])
def test_without_its_log_histories_are_those_of_the_split(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, parts: int, another: bool
):
    """Of leave-one-out: train and the two items that are held out, so they are those of the log."""
    split = trained / "elsewhere"
    split.mkdir()
    split_log(trained / "data/download/log.parquet", split, Split(strategy="leave_one_out", min_user_count=1))
    shutil.copyfile(split / "items.parquet", trained / "data/split/items.parquet")
    write_params(trained, SETTINGS | {"split_folder": "elsewhere"})
    write_model(trained)
    whole, some = run("--k", "3"), run("--k", "3", "--user", "5", "--user", "77")
    log = trained / "data/download/log.parquet"
    log.unlink()
    if another:  # what the stage download read, such as the demo, where a split was made elsewhere
        small_log(seed=5).write_parquet(log)
    divide(split, parts)
    (split / "sequences" / ".DS_Store").touch()
    opened, opens = [], SplitSource._open
    monkeypatch.setattr(SplitSource, "_open", lambda self, number: opened.append(number) or opens(self, number))
    assert run("--k", "3", "--user", "5", "--user", "77", "--user", "nobody").equals(some)
    assert set(opened) == {1 + zlib.crc32(user) % parts for user in (b"5", b"77")}
    said = capsys.readouterr().err
    where = "data/download/log.parquet is not the log of elsewhere" if another else "no data/download/log.parquet"
    assert f"note: {where}: histories are those of elsewhere, up to the last target of each user" in said
    assert "note: users that elsewhere does not hold: 'nobody'" in said
    if parts == 1:
        found = run("--k", "3")
    else:
        execute(["recommend", "--k", "3", "--out", "lists", "--chunk-events", "300"])
        assert len(list(Path("lists").glob("*.parquet"))) > parts
        found = pl.read_parquet("lists/*.parquet")
        with pytest.raises(StageError, match=r"--part: found 1/2, allowed without a log: I/3, as elsewhere has 3"):
            execute(["recommend", "--part", "1/2", "--out", "others"])
    order = ["user_id", "rank"]
    assert found.drop("score").sort(order).equals(whole.drop("score").sort(order))
