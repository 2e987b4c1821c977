"""DVC drives the stages: what reruns and what does not, experiments, the queue, and code that does not leak into it."""

import json
import time
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.conftest import Clone
from tests.small_log import small_log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def ran(printed: str) -> list[str]:
    """The stages that ran, in order."""
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage ")]


def test_outputs_are_what_others_rely_on(clone: Clone):
    assert ran(clone.run("uv run dvc repro")) == ["source", "download", "split", "train", "evaluate", "report"]
    data = clone.root / "data"

    train = pl.read_parquet(data / "split" / "train.parquet")
    assert dict(train.schema) == {
        "user_id": pl.Int32,
        "history": pl.List(pl.Int32),
        "timestamps": pl.List(pl.Int64),
    }
    for part in ("validation", "test"):
        assert pl.read_parquet(data / "split" / f"{part}.parquet").schema["target"] == pl.Int32
    items = pl.read_parquet(data / "split" / "items.parquet")
    assert pl.read_parquet(data / "train" / "items.parquet").equals(items)
    assert items["item_id"].to_list() == list(range(len(items)))
    assert {"original_id", "count"} <= set(items.columns)
    assert set(pl.read_parquet(data / "split" / "users.parquet").columns) == {"user_id", "original_id"}

    training = json.loads((data / "train" / "metrics.json").read_text())
    assert {"train_loss", "best_epoch", "epoch_seconds", "peak_memory_gib", "tokens_per_second", "device"} <= set(
        training
    )
    assert list((data / "train" / "tensorboard").rglob("events.*"))

    metrics = json.loads((data / "evaluate" / "metrics.json").read_text())
    names = ("ndcg", "recall", "hitrate", "precision", "map", "mrr", "coverage", "surprisal")
    for name in names:
        assert 0 <= metrics[f"{name}@10"] <= 1
        assert 0 <= metrics["popularity"][f"{name}@10"] <= 1
    table = pl.read_csv(data / "evaluate" / "metrics_at_k.csv")
    assert table["k"].to_list() == [1, 5, 10, 20, 100]
    assert {*names, *(f"popularity_{name}" for name in names)} <= set(table.columns)
    assert list((data / "evaluate" / "tensorboard").rglob("events.*"))

    log = small_log()
    recommended = pl.read_parquet(data / "evaluate" / "recommendations.parquet")
    assert recommended.columns == ["user_id", "item_id", "rank", "score"]
    assert set(recommended["user_id"]) <= set(log["user_id"])
    assert set(recommended["item_id"]) <= set(log["item_id"])
    ranks = recommended.group_by("user_id", maintain_order=True).agg("rank", "score")
    for rank, score in zip(ranks["rank"], ranks["score"], strict=True):
        assert rank.to_list() == list(range(1, len(rank) + 1))
        assert score.to_list() == sorted(score, reverse=True)
    seen = recommended.join(log, on=["user_id", "item_id"]).group_by("user_id").len()
    assert seen.is_empty() or seen["len"].max() == 1  # nothing seen but the target, which is no part of the history

    assert (data / "report" / "report.html").read_text().count("data:image/png;base64,") == 4
    assert {path.suffix for path in (data / "report").iterdir()} == {".csv", ".html", ".png"}


def test_stages_rerun_for_what_they_depend_on_and_for_nothing_else(clone: Clone):
    clone.run("uv run dvc repro")
    assert ran(clone.run("uv run dvc repro")) == ["source"]

    with (clone.root / "README.md").open("a") as readme:
        readme.write("\nA new sentence.\n")
    assert ran(clone.run("uv run dvc repro")) == ["source"]

    with (clone.root / "packages/rec-eval/src/rec_eval/__init__.py").open("a") as code:
        code.write("\n# a change of library code\n")
    assert ran(clone.run("uv run dvc repro"))[:3] == ["source", "train", "evaluate"]


def test_a_log_replaced_at_the_same_path_is_read_anew(clone: Clone):
    log = clone.root.parent / "mine.csv"
    renamed = {"user_id": "visitor", "item_id": "page", "timestamp": "when"}
    columns = " ".join(f"-S download.columns.{key.split('_')[0]}={name}" for key, name in renamed.items())
    small_log(users=80).rename(renamed).write_csv(log)
    command = f"uv run dvc exp run -S dataset={log} {columns}"
    clone.run(command)
    summary = clone.root / "data" / "split" / "summary.json"
    assert json.loads(summary.read_text())["log"]["users"] == 80
    small_log(users=90, seed=1).rename(renamed).write_csv(log)
    assert "download" in ran(clone.run(command))
    assert json.loads(summary.read_text())["log"]["users"] == 90


def test_an_edit_made_after_queueing_does_not_leak_into_the_experiment(clone: Clone):
    clone.run("uv run dvc exp run --queue --name queued -S seed=7")
    for module in ("rec-data/src/rec_data", "rec-models/src/rec_models", "rec-eval/src/rec_eval"):
        (clone.root / "packages" / module / "__init__.py").write_text("raise SystemExit('the live checkout leaked')\n")
    (clone.root / "pipelines" / "train.py").write_text("raise SystemExit('the live checkout leaked')\n")
    assert "leaked" in clone.run("uv run python -c 'import rec_data'", fails=True)  # the environment does see the edit

    clone.run("uv run dvc queue start")
    wait_for_queue(clone)
    status = clone.run("uv run dvc queue status")
    assert "Success" in status, clone.run("uv run dvc queue logs queued")
    shown = clone.run("uv run dvc exp show --csv")
    assert "queued" in shown


def wait_for_queue(clone: Clone, seconds: float = 500) -> None:
    """Wait until no task is queued or running."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        status = clone.run("uv run dvc queue status")
        if "Queued" not in status and "Running" not in status:
            return
        time.sleep(3)
    raise AssertionError(status)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("loss=cross_entropy", "error: loss: found 'cross_entropy', allowed: ce | ce_neg"),
        ("dataset=/no/such/file.parquet", "/no/such/file.parquet"),
    ],
)
def test_bad_input_is_one_line_through_dvc_too(clone: Clone, override: str, says: str):
    printed = clone.run(f"uv run dvc exp run -S {override}", fails=True)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert "Traceback" not in printed
    assert not list(Path(clone.root / "data").glob("*/*.parquet"))
