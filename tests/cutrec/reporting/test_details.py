"""The tables behind the averages, by hand: four users, five items, lists of ten places of which most are empty."""

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cutrec.reporting import details
from rec_eval import LogCounts, ShownItems, evaluate

COUNTS = np.array([10, 8, 4, 2, 1])
TARGETS = np.array([3, 0, 4, 1])
HISTORIES = [[0, 1], [1], [2, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2], [4]]


def lists(*heads: list[int]) -> np.ndarray:
    return np.array([head + [-1] * (10 - len(head)) for head in heads], dtype=np.int32)


RANKED = {"model": lists([3, 2], [2, 0], [1], [0, 1]), "popularity": lists([0, 1], [0, 1], [0, 1], [0, 1])}


def make_rankings(users: int = 4, item_names: Sequence[str] = "abcde", **changes: Any) -> details.Rankings:
    """The first users of the example."""
    ranked = {name: ids[:users] for name, ids in RANKED.items()}
    reference = LogCounts(np.array([3, 3, 2, 1, 1]), 4)
    names = pa.array(list(item_names))
    shown = zip(["ann", "bob", "cid", "<dee>"][:users], HISTORIES, TARGETS.tolist(), ranked["model"], strict=False)
    rankings = details.Rankings(
        results={name: evaluate(ids, TARGETS[:users], [1, 10], reference) for name, ids in ranked.items()},
        shown={name: ShownItems.of(ids, [1, 10], len(COUNTS)) for name, ids in ranked.items()},
        targets=TARGETS[:users],
        lengths=np.array([len(history) for history in HISTORIES[:users]]),
        counts=COUNTS,
        examples=[
            details.example(user, np.array(history), target, ids, counts=COUNTS, item_names=names)
            for user, history, target, ids in shown
        ],
    )
    return dataclasses.replace(rankings, **changes)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("details")
    details.write_details(make_rankings(), folder)
    return folder


def test_every_metric_has_an_interval_but_coverage_for_both_rankings(written: Path):
    table = {(row["ranking"], row["metric"], row["k"]): row for row in rows(written / "intervals.csv")}
    assert len(table) == 2 * 8 * 2
    hits = table["model", "hitrate", "10"]
    assert float(hits["value"]) == 0.75
    assert (hits["low"], hits["high"]) == ("", "")  # too few users
    coverage = table["popularity", "coverage", "1"]
    assert (float(coverage["value"]), coverage["low"], coverage["high"]) == (0.2, "", "")


def test_the_model_is_compared_with_popularity_user_by_user(written: Path):
    table = {row["metric"]: row for row in rows(written / "comparison.csv")}
    assert set(table) == {
        f"{name}@10" for name in ("ndcg", "recall", "hitrate", "precision", "map", "mrr", "surprisal")
    }
    assert (table["mrr@10"]["name_a"], table["mrr@10"]["name_b"]) == ("popularity", "model")
    assert float(table["hitrate@10"]["difference"]) == 0.25  # user 0 only: users 1 and 3 are hits of both


def test_segments_are_of_history_length_and_of_the_target_s_popularity(written: Path):
    table = [row for row in rows(written / "segments.csv") if row["ranking"] == "model" and row["metric"] == "hitrate"]
    segments = {(row["by"], row["segment"]): (int(row["users"]), float(row["value"])) for row in table}
    assert segments == {
        ("history", "1"): (2, 1.0),
        ("history", "2-11"): (1, 1.0),
        ("history", "12"): (1, 0.0),
        ("popularity", "1"): (1, 0.0),
        ("popularity", "2-7"): (1, 1.0),
        ("popularity", "8-9"): (1, 1.0),
        ("popularity", "10"): (1, 1.0),
        ("known_target", "1"): (4, 0.75),
    }


def test_targets_that_training_lacks_are_a_segment(tmp_path: Path):
    details.write_details(make_rankings(counts=np.array([10, 8, 4, 0, 1])), tmp_path)
    table = [row for row in rows(tmp_path / "segments.csv") if (row["ranking"], row["metric"]) == ("model", "hitrate")]
    segments = [(row["segment"], row["users"], row["value"]) for row in table if row["by"] == "known_target"]
    assert segments == [("0", "1", "1.0"), ("1", "3", str(2 / 3))]


def test_days_since_the_last_event_are_a_segment_of_logs_with_a_clock(tmp_path: Path):
    details.write_details(make_rankings(days=np.array([0, 3, 3, 40])), tmp_path)
    table = [row for row in rows(tmp_path / "segments.csv") if (row["ranking"], row["metric"]) == ("model", "hitrate")]
    found = [(row["segment"], row["users"], float(row["value"])) for row in table if row["by"] == "days"]
    assert found == [("0-2", "1", 1.0), ("3-39", "2", 0.5), ("40", "1", 1.0)]


def test_popularity_of_what_is_consumed_stands_once_beside_both_rankings(written: Path):
    table = [
        (row["ranking"], row["what"], row["k"], float(row["mean_count"])) for row in rows(written / "popularity.csv")
    ]
    assert table == [
        ("model", "consumed", "0", (2 + 10 + 1 + 8) / 4),
        ("model", "recommended", "1", (2 + 4 + 8 + 10) / 4),
        ("model", "recommended", "10", pytest.approx((2 + 4 + 4 + 10 + 8 + 10 + 8) / 7)),
        ("popularity", "recommended", "1", 10.0),
        ("popularity", "recommended", "10", 9.0),
    ]


def test_concentration_rises_to_all(written: Path):
    table = [[float(value) for value in row.values()] for row in rows(written / "concentration.csv")]
    assert table == [
        [1, 0.25, pytest.approx(2 / 7, abs=1e-6), 0.5],
        [2, 0.5, pytest.approx(4 / 7, abs=1e-6), 1.0],
        [3, 0.5, pytest.approx(6 / 7, abs=1e-6), 1.0],
        [4, 0.75, 1.0, 1.0],
        [5, 1.0, 1.0, 1.0],
    ]


def test_examples_have_the_log_s_own_ids(written: Path):
    users = {row["user"]: row for row in json.loads((written / "examples.json").read_text())}
    assert set(users) == {"ann", "bob", "cid", "<dee>"}
    assert users["ann"] == {
        "user": "ann",
        "history": ["a", "b"],
        "earlier": 0,
        "target": "d",
        "repeat": False,
        "target_count": 2,
        "rank": 1,
        "recommended": ["d", "c"],
    }
    assert users["bob"]["rank"] == 2
    assert (users["cid"]["rank"], users["cid"]["earlier"]) == (None, 2)
    assert users["cid"]["history"] == ["abcde"[item] for item in HISTORIES[2][2:]]


def test_one_test_user_has_values_and_no_intervals(tmp_path: Path):
    details.write_details(make_rankings(users=1), tmp_path)
    first = rows(tmp_path / "intervals.csv")[0]
    assert (float(first["value"]), first["low"], first["users"]) == (1.0, "", "1")
    assert {(row["low"], row["p_value"]) for row in rows(tmp_path / "comparison.csv")} == {("", "0.5")}
    assert all(math.isnan(row.low) for row in details.interval_rows(make_rankings(users=1).results["model"]))
