"""Rankings to a parquet with the ids of the raw log; the reference log; the table that plots draw."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from pipelines import evaluate
from pipelines.params import Evaluate, Params
from rec_eval import TopK
from rec_eval import evaluate as measure


def test_recommendations_hold_raw_ids_ranks_from_1_and_no_empty_places(tmp_path: Path):
    users, items = pa.array(["ann", "bob", "cid"]), pa.array([100, 200, 300])
    with evaluate.RecommendationsWriter(tmp_path / "r.parquet", users, items) as writer:
        first = TopK(torch.tensor([[2, 0], [1, -1]]), torch.tensor([[0.5, 0.25], [1.0, float("-inf")]]))
        writer.write(np.array([2, 0]), first)
        writer.write(np.array([1]), TopK(torch.tensor([[0, 1]]), torch.tensor([[3.0, 2.0]])))
    assert pl.read_parquet(tmp_path / "r.parquet").rows() == [
        ("cid", 300, 1, 0.5),
        ("cid", 100, 2, 0.25),
        ("ann", 200, 1, 1.0),
        ("bob", 100, 1, 3.0),
        ("bob", 200, 2, 2.0),
    ]


@pytest.fixture
def sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train: items 0 and 1 of two users; test inputs: item 2; users who lost their target: item 3."""
    from rec_data.store_file import write_store

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
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    ("reference", "faithful", "counts"),
    [("train", False, [2, 1, 0, 0]), ("test_input", False, [0, 0, 2, 0]), ("test_input", True, [0, 0, 2, 1])],
)
def test_the_reference_log_is_the_one_that_was_asked_for(
    sequences: Path, reference: str, faithful: bool, counts: list[int]
):
    point = dataclasses.replace(Params(), paper_faithful=faithful, evaluate=Evaluate(reference=reference))
    assert evaluate._reference(point, 4).user_counts.tolist() == counts


def test_the_table_has_a_row_for_each_k_and_a_column_for_each_metric_of_both_rankings(tmp_path: Path):
    result = measure(np.array([[0, 1], [1, 0]]), np.array([0, 0]), [1, 2], num_items=2)
    evaluate._write_table(tmp_path / "t.csv", {"model": result, "popularity": result}, (2, 1))
    table = pl.read_csv(tmp_path / "t.csv")
    assert table["k"].to_list() == [1, 2]
    assert table["recall"].to_list() == [0.5, 1.0]
    assert table["popularity_recall"].to_list() == [0.5, 1.0]
