"""Whether a later log has changed: the exit status, the JSON and the page."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cutrec.cli import execute
from cutrec.errors import StageError
from cutrec.paths import LOG, MODEL
from tests.small_model import write_trained


def log(first: int, days: int, *, seed: int = 0, shift: int = 0) -> pl.DataFrame:
    """Events on 40 items of unequal popularity; `shift` moves the popularity to other items."""
    random = np.random.default_rng(seed)
    share = 1 / np.arange(1.0, 41)
    rows = 200 * days
    return pl.DataFrame(
        {
            "user_id": random.integers(0, 60, rows),
            "item_id": 1000 + (shift + random.choice(40, rows, p=share / share.sum())) % 60,
            "timestamp": 1_700_000_000 + random.integers(first * 86_400, (first + days) * 86_400, rows),
        }
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_trained(tmp_path_factory.mktemp("drift"))
    log(0, 20).write_parquet(folder / "a.parquet")
    log(20, 1, seed=1).write_parquet(folder / "same.parquet")
    log(20, 1, seed=1, shift=20).write_csv(folder / "other.csv")
    return folder


def test_a_log_like_the_one_before_is_within_all_thresholds(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(checkout)
    execute(["drift", "a.parquet", "same.parquet", "--model", str(MODEL)])
    said = capsys.readouterr()
    assert "| scores" in said.out
    assert "beyond" not in said.out + said.err
    found = json.loads(Path("data/drift/drift.json").read_text())
    assert found["drifted"] is False
    assert [each["name"] for each in found["measures"]] == ["turnover", "popularity", "lengths", "unknown", "scores"]
    assert all(0 <= each["value"] <= each["threshold"] <= 1 for each in found["measures"])
    page = Path("data/drift/drift.html").read_text()
    assert page.count("data:image/png") == 5
    assert "http" not in page.replace("http-equiv", "")


def test_a_log_of_other_items_is_beyond_a_threshold(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(checkout)
    with pytest.raises(SystemExit) as ended:
        execute(["drift", "a.parquet", "other.csv", "--out", "drift"])
    assert ended.value.code == 1
    assert "drift: B is beyond the threshold of turnover, popularity" in capsys.readouterr().err
    assert json.loads(Path("drift/drift.json").read_text())["drifted"] is True
    assert "B differs from A by more than is usual" in Path("drift/drift.html").read_text()


def test_a_log_of_the_pipeline_is_read_as_it_is(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Whatever the columns of params.yaml are; here as a folder that holds data/download."""
    monkeypatch.chdir(checkout)
    for name, frame in (("old", log(0, 20)), ("new", pl.concat([log(0, 20), log(20, 1, seed=1)]))):
        place = tmp_path / name / LOG
        place.parent.mkdir(parents=True)
        frame.write_parquet(place)
        place.with_name("summary.json").write_text("{}")
    execute(["drift", str(tmp_path / "old"), str(tmp_path / "new"), "-S", "download.columns.user=nobody"])
    assert "note: 4,000 events of B are not after the end of A and are left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.parquet", "nothing.csv"], "^B: .*nothing.csv"),
        (["nosuch", "a.parquet"], "^A: found 'nosuch', which is no file or folder, allowed: a path of"),
        (["same.parquet", "a.parquet"], "^A: found 0 windows|^B: found 0 events"),
        (["a.parquet", "same.parquet", "--model", "none"], "^--model: found no none, allowed: what the train stage"),
        (["a.parquet", "same.parquet", "--level", "2"], "--level: found 2, allowed: a number between 0 and 1"),
        (["a.parquet", "same.parquet", "--out", "data/train"], "^--out: found data/train, allowed: outside of"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    arguments: list[str], said: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(checkout)
    Path("data/drift/drift.json").unlink(missing_ok=True)
    with pytest.raises((StageError, ValueError), match=said) as caught:
        execute(["drift", *arguments])
    assert "\n" not in str(caught.value)
    assert not Path("data/drift/drift.json").exists()
