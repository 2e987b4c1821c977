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


@pytest.mark.parametrize(("users", "targets"), [(["a", "b", "c", "d"], [7, 7, 9, 8]), ([1, 2, 3, 4], list("xyxy"))])
def test_every_bit_counts(tmp_path, users, targets):
    """A flipped bit or a cut is refused in one line, or changes nothing that is read."""
    path = tmp_path / "run.parquet"
    kept = {"user_ids": np.array(users), "targets": np.array(targets)}
    write_evaluation(evaluate(LISTS, np.array([0, 0, 2, 3]), [1, 2], num_items=4, **kept), path)
    whole, result = path.read_bytes(), read_evaluation(path)
    assert (result.user_ids.tolist(), result.targets.tolist()) == (users, targets)
    random = np.random.default_rng(0)
    flips = random.choice(8 * len(whole), 300, replace=False)
    damaged = [whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :] for bit in flips]
    for content in [*damaged, *(whole[:end] for end in random.choice(len(whole), 30, replace=False))]:
        path.write_bytes(content)
        try:
            back = read_evaluation(path)
        except ValueError as error:
            refused = str(error)
        else:
            refused = ""
            assert back.rows() == result.rows()
            for name in kept:
                np.testing.assert_array_equal(getattr(back, name), getattr(result, name))
        assert "\n" not in refused


def test_a_run_of_an_earlier_version_has_no_checksum_and_no_targets(tmp_path):
    write_evaluation(RESULT, tmp_path / "run.parquet")
    table = pq.read_table(tmp_path / "run.parquet")
    own = {b"rec_eval": table.schema.metadata[b"rec_eval"]}
    pq.write_table(table.replace_schema_metadata(own), tmp_path / "run.parquet")
    back = read_evaluation(tmp_path / "run.parquet")
    assert (back.rows(), back.targets) == (RESULT.rows(), None)


def test_a_foreign_file_is_refused(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="holds no evaluation"):
        read_evaluation(tmp_path / "other.parquet")


def test_rows_become_csv(tmp_path):
    write_rows(popularity_profile(LISTS, np.array([0]), np.array([4, 3, 2, 1]), [2]), tmp_path / "rows.csv")
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    assert lines[0] == "what,k,events,mean_count,median_count,tail_share,distinct_items,gini,entropy"
    assert lines[1] == "consumed,0,1,4.0,4.0,0.0,1,0.75,0.0"
    with pytest.raises(ValueError, match="no rows"):
        write_rows([], tmp_path / "none.csv")
