"""Rankings to a parquet with the ids of the raw log; the reference log; the table that plots draw."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from cutrec.config_point import Config, Report
from cutrec.errors import StageError
from cutrec.workflow import evaluate
from cutrec.workflow.measured import reference_log
from cutrec.workflow.recommendations import write_recommendations
from rec_data.config import Split
from rec_data.sequences.store import write_store
from rec_data.splits.split import split_log
from rec_eval import TopK, read_evaluation
from rec_eval import evaluate as measure
from rec_eval.config import Evaluate
from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import build_encoder
from rec_models.training.checkpoint import ModelCheckpoint
from rec_models.training.devices import cpu_name
from tests.small_log import small_log
from tests.split_parts import divide


def test_recommendations_hold_raw_ids_ranks_from_1_and_no_empty_places(tmp_path: Path):
    users, items = pa.array(["ann", "bob", "cid"]), pa.array([100, 200, 300])
    first = TopK(torch.tensor([[2, 0], [1, -1]]), torch.tensor([[0.5, 0.25], [1.0, float("-inf")]]))
    second = TopK(torch.tensor([[0, 1]]), torch.tensor([[3.0, 2.0]]))
    ranked = [(torch.tensor([2, 0]), first), (torch.tensor([1]), second)]
    found = list(write_recommendations(tmp_path / "r.parquet", ranked, users, items))
    assert [ids.tolist() for ids in found] == [[[2, 0], [1, -1]], [[0, 1]]]
    assert pl.read_parquet(tmp_path / "r.parquet").rows() == [
        ("cid", 300, 1, 0.5),
        ("cid", 100, 2, 0.25),
        ("ann", 200, 1, 1.0),
        ("bob", 100, 1, 3.0),
        ("bob", 200, 2, 2.0),
    ]


@pytest.fixture
def sequences(tmp_path: Path) -> Path:
    """Train: items 0 and 1 of two users; test inputs: item 2; users who lost their target: item 3."""
    folder = tmp_path / "data" / "split" / "sequences"
    folder.mkdir(parents=True)
    histories = {"train": [[0, 1], [0]], "test": [[2], [2, 2]], "untargeted": [[3]]}
    for name, lists in histories.items():
        write_store(
            folder / f"{name}.arrow",
            items=np.array([item for history in lists for item in history], dtype=np.int32),
            offsets=np.cumsum([0, *map(len, lists)]).astype(np.int64),
            user_ids=np.arange(len(lists), dtype=np.int32),
        )
    return folder


@pytest.mark.parametrize(
    ("reference", "faithful", "counts"),
    [("train", False, [2, 1, 0, 0]), ("test_input", False, [0, 0, 2, 0]), ("test_input", True, [0, 0, 2, 1])],
)
def test_the_reference_log_is_the_one_that_was_asked_for(
    sequences: Path, reference: str, faithful: bool, counts: list[int]
):
    point = dataclasses.replace(Config(), paper_faithful=faithful, evaluate=Evaluate(reference=reference))
    assert reference_log(point, sequences.parent, 4).user_counts.tolist() == counts


def test_the_table_has_a_row_for_each_k_and_a_column_for_each_metric_of_both_rankings(tmp_path: Path):
    result = measure(np.array([[0, 1], [1, 0]]), np.array([0, 0]), [1, 2], num_items=2)
    evaluate.write_table(tmp_path / "t.csv", {"model": result, "popularity": result}, (2, 1))
    table = pl.read_csv(tmp_path / "t.csv")
    assert table["k"].to_list() == [1, 2]
    assert table["recall"].to_list() == [0.5, 1.0]
    assert table["popularity_recall"].to_list() == [0.5, 1.0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split, and a model of random weights."""
    folder = tmp_path_factory.mktemp("trained")
    small_log(users=60).write_parquet(folder / "log.parquet")
    (folder / "split").mkdir()
    split_log(folder / "log.parquet", folder / "split", Split(strategy="leave_one_out"))
    items = len(pl.read_parquet(folder / "split/items.parquet"))
    model = ModelSettings(model="sasrec", max_seq_len=8, blocks=1, heads=1, hidden=8, dropout=0.0)
    torch.manual_seed(0)
    weights = build_encoder(model, items).state_dict()
    loss = LossSettings.pick("cce")
    checkpoint = ModelCheckpoint(model, loss, TrainingSettings(), items, epoch=1, metrics={}, weights=weights)
    checkpoint.save(folder / "model.safetensors")
    return folder


def run(folder: Path, out: Path, dataset: str, model: Path | None = None) -> Path:
    config = Config(dataset=dataset, split=Split(strategy="leave_one_out"), evaluate=Evaluate(k=(1, 10, 50)))
    evaluate.evaluate(config, folder / "split", model or folder / "model.safetensors", out)
    return out


def test_each_user_counts_once_however_many_successive_targets(trained: Path, tmp_path: Path):
    (tmp_path / "split").mkdir()
    settings = Split(strategy="leave_one_out", holdout=2, target="successive", seen_targets="drop")
    summary = split_log(trained / "log.parquet", tmp_path / "split", settings)
    config = Config(dataset="log.parquet", split=settings, evaluate=Evaluate(k=(1, 10)))
    evaluate.evaluate(config, tmp_path / "split", trained / "model.safetensors", tmp_path / "evaluate")
    metrics = json.loads((tmp_path / "evaluate/metrics.json").read_text())
    rows = pl.read_parquet(tmp_path / "evaluate/per_user.parquet")
    lists = rows.group_by("user_id").agg(pl.len(), pl.col("ndcg@10").mean())
    assert summary["test"]["users"] == metrics["users"] == len(lists)
    assert summary["test"]["targets"] == metrics["targets"] == len(rows)
    assert sorted(lists["len"].unique()) == [1, 2]
    assert metrics["ndcg@10"] == pytest.approx(lists["ndcg@10"].mean(), abs=1e-6)
    intervals = pl.read_csv(tmp_path / "evaluate/details/intervals.csv")
    assert intervals["users"].unique().to_list() == [len(lists)]


def test_metrics_are_those_of_the_lists_that_were_written(trained: Path, tmp_path: Path):
    out = run(trained, tmp_path / "evaluate", "log.parquet")
    metrics = json.loads((out / "metrics.json").read_text())
    if not torch.cuda.is_available():
        assert metrics["device"] == cpu_name()  # as training names it
    items, users = (pl.read_parquet(trained / f"split/{name}.parquet") for name in ("items", "users"))
    targets = (
        pl.read_parquet(trained / "split/test.parquet", columns=["user_id", "target"])
        .join(users, on="user_id")
        .join(items, left_on="target", right_on="item_id", suffix="_item")
        .select(user_id="original_id", item_id="original_id_item")
    )
    hits = pl.read_parquet(out / "recommendations.parquet").join(targets, on=["user_id", "item_id"])
    near = hits.filter(pl.col("rank") <= 10)
    assert 0 < metrics["hitrate@10"] < 1
    assert metrics["hitrate@10"] == pytest.approx(len(near) / len(targets), abs=1e-6)
    assert metrics["mrr@10"] == pytest.approx((1 / near["rank"]).sum() / len(targets), abs=1e-6)
    assert metrics["users"] == len(targets) == 60

    read = read_evaluation(out / "per_user.parquet")
    of_user = dict(zip(read.user_ids.tolist(), read.per_user["mrr@50"].tolist(), strict=True))
    assert {user: value for user, value in of_user.items() if value} == {
        user: pytest.approx(1 / rank) for user, rank in zip(hits["user_id"], hits["rank"], strict=True)
    }
    table = pl.read_csv(out / "metrics_at_k.csv")
    assert table.filter(k=10)["mrr"].item() == metrics["mrr@10"]
    intervals = pl.read_csv(out / "details/intervals.csv")
    row = intervals.filter(ranking="popularity", metric="ndcg", k=10)
    assert row["value"].item() == pytest.approx(metrics["popularity"]["ndcg@10"], abs=1e-6)


def test_groups_and_repeats_add_diversity_and_novelty_and_days_a_segment(trained: Path, tmp_path: Path):
    items = pl.read_parquet(trained / "split/items.parquet")["original_id"]
    table = pl.DataFrame({"id": items, "title": items.cast(pl.String), "group": (items % 3).cast(pl.String)})
    table.write_csv(tmp_path / "items.csv")
    config = Config(
        dataset="log.parquet",
        split=Split(strategy="leave_one_out"),
        evaluate=Evaluate(k=(1, 10, 50), filter_seen=False),
        report=Report(item_names="items.csv"),
    )
    out = tmp_path / "evaluate"
    evaluate.evaluate(config, trained / "split", trained / "model.safetensors", out, root=tmp_path)
    metrics = json.loads((out / "metrics.json").read_text())
    lists = pl.read_parquet(out / "recommendations.parquet").filter(pl.col("rank") <= 10)
    groups = lists.with_columns(group=pl.col("item_id") % 3).group_by("user_id").agg(pl.col("group"))["group"].to_list()
    pairs = [np.mean([a != b for i, a in enumerate(own) for b in own[:i]]) for own in groups]
    assert metrics["diversity@10"] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert 0 < metrics["novelty@10"] < 1
    assert metrics["popularity"]["unexpectedness@10"] == 0 < metrics["unexpectedness@10"]
    segments = pl.read_csv(out / "details/segments.csv").filter(ranking="model", metric="hitrate")
    assert segments.filter(by="days")["users"].sum() == 60
    without = json.loads((run(trained, tmp_path / "without", "log.parquet") / "metrics.json").read_text())
    assert not {"diversity@10", "novelty@10"} & set(without)


def test_a_twin_writes_no_accuracy(trained: Path, tmp_path: Path):
    out = run(trained, tmp_path / "evaluate", "twin:beauty")
    assert set(json.loads((out / "metrics.json").read_text())) == {
        "users", "rank_seconds", "users_per_second", "device", "reference",
    }  # fmt: skip
    assert pl.read_parquet(out / "per_user.parquet").columns == ["user_id"]
    assert pl.read_csv(out / "metrics_at_k.csv").columns == ["k"]
    assert [path.name for path in (out / "details").iterdir()] == ["memory.json"]
    assert not list((out / "tensorboard").rglob("events.*"))


@pytest.mark.parametrize(("filter_seen", "numbers"), [(True, (2, 5)), (False, (25,))])
def test_a_split_in_parts_has_the_results_of_one_part(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filter_seen: bool, numbers: tuple[int, ...]
):
    """Also where parts are empty: there are 60 users, who have several targets."""
    settings = Split(strategy="leave_one_out", holdout=2, target="successive", seen_targets="drop")
    config = Config(
        dataset="log.parquet",
        split=Split(strategy="leave_one_out"),
        evaluate=Evaluate(k=(1, 10), filter_seen=filter_seen, batch_users=16),
    )
    for parts in (1, *numbers):
        monkeypatch.setattr("rec_data.splits.split.parts_of", lambda rows, bound, parts=parts: parts)
        split = tmp_path / f"split{parts}"
        split.mkdir()
        split_log(trained / "log.parquet", split, settings)
        evaluate.evaluate(config, split, trained / "model.safetensors", tmp_path / str(parts))
    one = tmp_path / "1"
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    same = {name for name in names if name.suffix in (".csv", ".json", ".parquet")}
    same -= {Path("metrics.json"), Path("recommendations.parquet"), Path("details/memory.json")}
    assert len(same) == 8
    lists = pl.read_parquet(one / "recommendations.parquet")
    measured = {"rank_seconds", "users_per_second"}
    for parts in numbers:
        out = tmp_path / str(parts)
        for name in same:
            assert (out / name).read_bytes() == (one / name).read_bytes(), name
        found, expected = (json.loads((folder / "metrics.json").read_text()) for folder in (out, one))
        assert {key: found[key] for key in found.keys() - measured} == {
            key: expected[key] for key in expected.keys() - measured
        }
        rows = pl.read_parquet(out / "recommendations.parquet").sort("user_id", maintain_order=True)
        assert rows.drop("score").equals(lists.drop("score"))
        rounding = 1e-5 * lists["score"].abs().max()  # of sums whose terms are as large as the largest score
        assert rows["score"].to_numpy() == pytest.approx(lists["score"].to_numpy(), rel=0, abs=rounding)


def test_a_part_that_is_missing_or_of_another_run_is_named(trained: Path, tmp_path: Path):
    split = divide(Path(shutil.copytree(trained / "split", tmp_path / "split")), 3)
    other = divide(Path(shutil.copytree(trained / "split", tmp_path / "other")), 3, run="another")
    part = "sequences/test/part-00002-of-00003.arrow"
    shutil.copyfile(other / part, split / part)
    with pytest.raises(StageError, match=r"part-00002-of-00003.arrow is of another run"):
        run(tmp_path, tmp_path / "evaluate", "log.parquet", trained / "model.safetensors")
    (split / part).unlink()
    with pytest.raises(StageError, match=r"found 2 of 3 parts, missing: part-00002-of-00003.arrow"):
        run(tmp_path, tmp_path / "evaluate", "log.parquet", trained / "model.safetensors")
    assert not (tmp_path / "evaluate").exists()
