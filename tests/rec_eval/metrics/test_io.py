"""Runs and rows that are written to files."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rec_eval import LogCounts, evaluate, popularity_profile, read_evaluation, write_evaluation, write_rows

LISTS = np.array([[0, 1], [1, 2], [2, -1], [0, 3]])
RESULT = evaluate(LISTS, np.array([0, 0, 2, 3]), [1, 2])


def test_a_run_comes_back_from_its_file(tmp_path):
    relevant = (np.array([0, 0, 1, 2, 4]), np.array([1, 2, 3, 9]))
    result = evaluate(LISTS, relevant, [1, 2], LogCounts(np.array([3, 2, 2, 1]), 4), user_ids=["a", "b", "c", "d"])
    write_evaluation(result, tmp_path / "run.parquet")
    back = read_evaluation(tmp_path / "run.parquet")
    assert back.rows() == result.rows()
    assert back.user_ids.tolist() == ["a", "b", "c", "d"]
    assert (back.ks, back.num_users, back.num_without_relevant, back.num_relevant_outside) == ((1, 2), 4, 1, 1)
    for name, values in result.per_user.items():
        np.testing.assert_array_equal(back.per_user[name], values)
    write_evaluation(RESULT, tmp_path / "unnamed.parquet")
    assert read_evaluation(tmp_path / "unnamed.parquet").user_ids is None


def test_a_foreign_file_is_refused(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="holds no evaluation"):
        read_evaluation(tmp_path / "other.parquet")


def test_rows_become_csv(tmp_path):
    write_rows(popularity_profile(LISTS, np.array([0]), np.array([4, 3, 2, 1]), [2]), tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert lines[0] == "what,k,events,mean_count,median_count,tail_share,distinct_items,gini"
    assert lines[1] == "consumed,0,1,4.0,4.0,0.0,1,0.75"
    with pytest.raises(ValueError, match="no rows"):
        write_rows([], tmp_path / "none.csv")
