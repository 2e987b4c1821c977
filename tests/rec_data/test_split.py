"""The whole split: files, summary, refusals."""

import json

import polars as pl
import pytest

from rec_data.batches import SequenceStore
from rec_data.errors import DataError
from rec_data.split import split_log


def write_log(path, rows):
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(path)
    return path


def test_leave_one_out_by_hand(tmp_path):
    rows = [("b", 7, 1), ("a", 5, 3), ("a", 7, 1), ("a", 9, 2), ("a", 8, 3), ("b", 5, 2)]
    log = write_log(tmp_path / "log.parquet", rows)
    before = log.read_bytes()
    out = tmp_path / "split"
    out.mkdir()
    summary = split_log(log, out, strategy="leave_one_out")
    # a: 7 9 5 8 (5 before 8: a tie keeps the order of rows); items 5 7 8 9 -> 0 1 2 3
    assert pl.read_parquet(out / "train.parquet").rows() == [(0, [1, 3], [1, 2]), (1, [1, 0], [1, 2])]
    assert pl.read_parquet(out / "validation.parquet").rows() == [(0, [1, 3], [1, 2], 0)]
    assert pl.read_parquet(out / "test.parquet").rows() == [(0, [1, 3, 0], [1, 2, 3], 2)]
    assert pl.read_parquet(out / "items.parquet").rows() == [(0, 5, 1), (1, 7, 2), (2, 8, 0), (3, 9, 1)]
    assert pl.read_parquet(out / "users.parquet").rows() == [(0, "a"), (1, "b")]
    assert summary["test"]["targets_unseen_in_train"] == 1
    assert json.loads((out / "summary.json").read_text()) == summary
    store = SequenceStore.open(out / "sequences" / "test.arrow")
    assert (store.items.tolist(), store.offsets.tolist(), store.targets.tolist()) == ([1, 3, 0], [0, 3], [2])
    assert log.read_bytes() == before


BAD = {
    "strategy": ({"strategy": "random"}, "split.strategy 'random'; allowed: temporal, leave_one_out"),
    "fraction": ({"test_fraction": 1.0}, "split.test_fraction 1.0"),
    "count": ({"min_item_count": "five"}, "split.min_item_count 'five'"),
    "items gone": ({"min_item_count": 100}, "min_item_count 100 drops all 2 items"),
    "users gone": ({"min_item_count": None, "min_user_count": 100}, "min_user_count 100 drops all 3 users"),
    "no clock": ({"min_item_count": None, "min_user_count": None}, "no interaction lies before"),
    "too short": ({"strategy": "leave_one_out"}, "no user has three interactions"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_split_is_refused(tmp_path, case):
    arguments, message = BAD[case]
    log = write_log(tmp_path / "log.parquet", [(1, 1, 0), (1, 2, 0), (2, 1, 0), (3, 2, 0)])
    (tmp_path / "split").mkdir()
    with pytest.raises(DataError, match=message):
        split_log(log, tmp_path / "split", **arguments)
    assert not list((tmp_path / "split").iterdir())
