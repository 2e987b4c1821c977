"""A new model takes the place of the running one, unless it is worse by more than the margin."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from cutrec import Recommender
from cutrec.cli import execute
from cutrec.errors import StageError
from cutrec.paths import LOG, MODEL
from cutrec.workflow import promote
from rec_data.ids import read_ids
from rec_data.sequences.store import SequenceStore
from rec_models.inference import load, recommend
from rec_models.training.checkpoint import ModelCheckpoint
from tests.small_model import write_model, write_trained
from tests.split_parts import divide


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trained(tmp_path_factory.mktemp("promote"))


@pytest.fixture
def checkout(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, as the current directory."""
    folder = shutil.copytree(trained_once, tmp_path / "checkout")
    monkeypatch.chdir(folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    if status:
        with pytest.raises(SystemExit) as ended:
            execute(["promote", "data/train", "srv/running", *arguments])
        assert ended.value.code == status
    else:
        execute(["promote", "data/train", "srv/running", *arguments])
    decision: dict[str, Any] = json.loads(capsys.readouterr().out)
    return decision


def test_the_first_model_runs_and_the_same_one_again_changes_nothing(
    checkout: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(capsys, "--dry-run")["reason"] == "there is no running model"
    assert not Path("srv").exists()
    assert run(capsys)["decision"] == "promote"
    link = Path("srv/running")
    assert link.is_symlink()
    assert not Path(link.readlink()).is_absolute()
    assert (link / MODEL.name).read_bytes() == MODEL.read_bytes()
    before = link.readlink()
    assert run(capsys)["reason"] == "it is the running model"
    assert link.readlink() == before


def test_a_model_that_is_worse_by_more_than_the_margin_is_not_promoted(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run(capsys)
    running = Path("srv/running").readlink()
    write_model(checkout, seed=1)
    tested = promote._test
    good: list[bool] = []

    def by_turns(*arguments: Any) -> Any:
        """First the running model, then the new one, 5 % worse for every user."""
        found = tested(*arguments)
        good.append(True)
        values = np.full(found.num_users, 0.5 if len(good) % 2 else 0.475)
        return dataclasses.replace(found, per_user={"ndcg@10": values})

    monkeypatch.setattr(promote, "_test", by_turns)
    decision = run(capsys, status=1)
    assert decision["decision"] == "keep"
    assert decision["reason"].startswith("ndcg@10 changes by -0.0250, allowed: -0.0050 or more")
    assert decision["comparison"]["mean_running"] == 0.5
    assert Path("srv/running").readlink() == running
    assert run(capsys, "--margin", "0.06", "--dry-run")["decision"] == "promote"
    assert Path("srv/running").readlink() == running
    assert run(capsys, "--margin", "0.06")["decision"] == "promote"
    assert (Path("srv/running") / MODEL.name).read_bytes() == MODEL.read_bytes()


def ndcg(model: Path, split: Path, k: int) -> np.ndarray:
    """NDCG@k of each test user by the library's own ranking, in original ids."""
    own = read_ids(model.with_name("items.parquet")).names.to_pylist()
    names = read_ids(split / "items.parquet").names.to_pylist()
    store = SequenceStore.open(split / "sequences" / "test.arrow")
    values = []
    for row, target in enumerate(store.targets.tolist()):
        history = [names[item] for item in store.items[store.offsets[row] : store.offsets[row + 1]].tolist()]
        known = [own.index(item) for item in history if item in own]
        ranked = recommend(load(model), [known], k).items[0].tolist() if known else []
        items = [own[item] for item in ranked if item >= 0]
        values.append(1 / np.log2(2 + items.index(names[target])) if names[target] in items else 0.0)
    return np.array(values)


@pytest.mark.parametrize("lacking", [0, 15])
def test_a_running_model_of_another_catalogue_is_tested_on_the_same_users(
    lacking: int, checkout: Path, capsys: pytest.CaptureFixture[str]
):
    """It knows the items in another order, lacks some, and knows one that the new model lacks."""
    items = read_ids(Path("data/train/items.parquet"))
    order = np.random.default_rng(0).permutation(len(items.names))[lacking:].tolist()
    saved = ModelCheckpoint.read(MODEL)
    (table,) = [name for name, weights in saved.weights.items() if weights.shape[0] == len(items.names)]
    shutil.copytree("data/train", "older")
    names = [items.names[place].as_py() for place in order] + [77]
    pl.DataFrame({"original_id": names}).write_parquet("older/items.parquet")
    rows = saved.weights[table][order]
    weights = saved.weights | {table: torch.cat([rows, rows.mean(0, keepdim=True)])}
    catalogue = read_ids(Path("older/items.parquet")).hash
    old = dataclasses.replace(saved, weights=weights, num_items=len(names), catalogue=catalogue)
    old.save(Path("older") / MODEL.name)
    promote.switch(Path("older") / MODEL.name, Path("srv/running"))
    compared = run(capsys, "--dry-run", "--margin", "0.99", "--metric", "ndcg@20")["comparison"]
    expected = [ndcg(path, Path("data/split"), 20) for path in (Path("older") / MODEL.name, MODEL)]
    assert compared["users"] == len(expected[0])
    assert 0 < compared["mean_running"] == pytest.approx(expected[0].mean(), abs=1e-9)
    assert 0 < compared["mean_new"] == pytest.approx(expected[1].mean(), abs=1e-9)
    assert compared["differing"] == np.count_nonzero(np.abs(expected[0] - expected[1]) > 1e-9)


def test_a_split_without_a_test_is_tested_on_its_validation_users(checkout: Path, capsys: pytest.CaptureFixture[str]):
    """As that of an update."""
    run(capsys)
    write_model(checkout, seed=1)
    assert run(capsys, "--dry-run", "--margin", "0.99")["tested_on"] == "test"
    (checkout / "data/split/sequences/test.arrow").unlink()
    decision = run(capsys, "--dry-run", "--margin", "0.99")
    assert decision["tested_on"] == "validation"
    store = SequenceStore.open(checkout / "data/split/sequences/validation.arrow")
    assert decision["comparison"]["users"] == store.num_users


def test_old_versions_are_removed_and_a_killed_copy_is_made_again(checkout: Path, capsys: pytest.CaptureFixture[str]):
    for seed in range(5):
        write_model(checkout, seed=seed)
        place = Path("srv/running.versions")
        place.mkdir(parents=True, exist_ok=True)
        promote.switch(MODEL, Path("srv/running"))
    (place / ".tmp-link").symlink_to("nowhere")
    write_model(checkout, seed=5)
    promote.switch(MODEL, Path("srv/running"))
    assert len(list(place.glob("[!.]*"))) == promote.KEPT
    assert (Path("srv/running") / MODEL.name).read_bytes() == MODEL.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing", "srv/running"], r"^NEW: found no nothing, allowed: the folder of a model"),
        (
            ["data/train", "data/train"],
            r"^RUNNING: found data/train, the new model itself, allowed: the path of a link",
        ),
        (["data/train", "data/split"], r"^RUNNING: found data/split, which is no link, allowed: a path that does not"),
        (["data/train", "dangling"], r"^RUNNING: found dangling without a model, allowed: a link to one \(rm dangling"),
        (["data/train", "running", "--metric", "joy@10"], r"^--metric: found 'joy@10', allowed: METRIC@K with"),
        (["data/train", "nothing", "--metric", "ndcg@²"], r"^--metric: found 'ndcg@²', allowed: .* from 1 to 1000$"),
        (["data/train", "running", "--margin", "-1"], r"--margin: found -1, allowed: a number from 0 to below 1"),
        (["data/train", "running", "--split", "none"], r"^--split: found no none, allowed: the folder of the split"),
    ],
)
def test_what_cannot_be_promoted_is_one_line(
    arguments: list[str], said: str, checkout: Path, capsys: pytest.CaptureFixture[str]
):
    Path("dangling").symlink_to("nowhere")
    promote.switch(MODEL, Path("running"))
    write_model(checkout, seed=1)
    with pytest.raises(StageError, match=said) as caught:
        execute(["promote", *arguments])
    assert "\n" not in str(caught.value)


def test_a_split_in_parts_decides_as_one_part(checkout: Path, capsys: pytest.CaptureFixture[str]):
    run(capsys)
    write_model(checkout, seed=1)
    one = run(capsys, "--dry-run", "--margin", "0.99")
    divide(checkout / "data/split", 3)
    assert run(capsys, "--dry-run", "--margin", "0.99") == one


def test_a_promoted_model_ranks_for_the_log_that_is_beside_the_new_one(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Of an update, as it is when the lists are made; without it, that of the pipeline."""
    for name in ("train", "split"):
        shutil.copytree(Path("data") / name, Path("data/update") / name)
    log, updated = pl.read_parquet(LOG), Path("data/update/download") / LOG.name
    updated.parent.mkdir()
    log.filter(pl.col("user_id") < 3).write_parquet(updated)
    execute(["promote", "data/update/train", "srv/running"])

    def users() -> int:
        execute(["recommend", "--model", "srv/running", "--k", "1", "--out", "lists.csv"])
        return pl.read_csv("lists.csv")["user_id"].n_unique()

    assert users() == 3
    log.filter(pl.col("user_id") < 5).write_parquet(updated)
    assert users() == 5
    assert Recommender.load("srv/running").recommend(k=1)["user_id"].n_unique() == 5
    shutil.rmtree(updated.parent)
    assert users() == log["user_id"].n_unique()
