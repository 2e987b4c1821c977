"""The whole split: files, summary, refusals."""

import json

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.sequences.batches import SequenceStore
from rec_data.splits.split import split_log


def write_log(path, rows):
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(path)
    return path


def test_leave_one_out_by_hand(tmp_path):
    rows = [("b", 7, 1), ("a", 5, 3), ("a", 7, 1), ("a", 9, 2), ("a", 8, 3), ("b", 5, 2)]
    log = write_log(tmp_path / "log.parquet", rows)
    before = log.read_bytes()
    out = tmp_path / "split"
    out.mkdir()
    summary = split_log(log, out, Split(strategy="leave_one_out"), tie_seed=None)
    # a: 7 9 5 8 (5 before 8: a tie keeps the order of rows); items 5 7 8 9 -> 0 1 2 3
    assert pl.read_parquet(out / "train.parquet").rows() == [(0, [1, 3], [1, 2]), (1, [1, 0], [1, 2])]
    assert pl.read_parquet(out / "validation.parquet").rows() == [(0, [1, 3], [1, 2], 0, 3)]
    assert pl.read_parquet(out / "test.parquet").rows() == [(0, [1, 3, 0], [1, 2, 3], 2, 3)]
    assert pl.read_parquet(out / "items.parquet").rows() == [(0, 5, 1), (1, 7, 2), (2, 8, 0), (3, 9, 1)]
    assert pl.read_parquet(out / "users.parquet").rows() == [(0, "a"), (1, "b")]
    assert summary["test"]["targets_unseen_in_train"] == 1
    assert json.loads((out / "summary.json").read_text()) == summary
    store = SequenceStore.open(out / "sequences" / "test.arrow")
    assert (store.items.tolist(), store.offsets.tolist(), store.targets.tolist()) == ([1, 3, 0], [0, 3], [2])
    assert log.read_bytes() == before


def test_the_summary_counts_what_the_filters_drop(tmp_path):
    rows = [(user, item, item) for user in "ab" for item in (1, 2, 4, 5)] + [("c", 1, 1), ("c", 3, 2)]
    (tmp_path / "split").mkdir()
    log = write_log(tmp_path / "log.parquet", rows)
    summary = split_log(log, tmp_path / "split", Split(strategy="leave_one_out", min_item_count=2, min_user_count=2))
    assert summary["dropped"] == {
        "items_below_min_count": 1,  # item 3
        "users_below_min_count": 1,  # user c, who then has one interaction
        "interactions_by_filters": 2,
        "users_only_training": 0,
    }


def test_a_folder_that_is_missing_or_in_use_is_named(tmp_path):
    log = write_log(tmp_path / "log.parquet", [(user, item, item) for user in "ab" for item in (1, 2, 3, 4)])
    out = tmp_path / "split"
    with pytest.raises(DataError, match="split is not a folder; allowed: an existing, empty one"):
        split_log(log, out, Split(strategy="leave_one_out"))
    out.mkdir()
    split_log(log, out, Split(strategy="leave_one_out"))
    with pytest.raises(DataError, match=r"split already holds 'items.parquet'; allowed: an existing, empty folder"):
        split_log(log, out, Split(strategy="leave_one_out"))


BAD = {
    "seed": ({}, {"seed": -1}, "seed -1; allowed: at least 0"),
    "items gone": ({"min_item_count": 100}, {}, "min_item_count 100 drops all 2 items"),
    "users gone": ({"min_item_count": None, "min_user_count": 100}, {}, "min_user_count 100 drops all 3 users"),
    "no clock": ({"min_item_count": None, "min_user_count": None}, {}, "no interaction lies before"),
    "too short": ({"strategy": "leave_one_out"}, {}, "no user has 3 interactions"),
}

UNTRAINABLE = {
    "three each": (
        {"strategy": "leave_one_out"},
        [(user, item, item) for user in range(5) for item in (1, 2, 3)],
        "leave_one_out leaves nothing to train on: it holds out 2 interactions of each user, and no user has 4",
    ),
    "three or one": (
        {"strategy": "leave_one_out"},
        [*((user, item, item) for user in range(5) for item in (1, 2, 3)), (9, 1, 1)],
        "and no user has 4; allowed: a log with longer histories",
    ),
    "one in the past": (
        {"test_fraction": 0.3, "min_item_count": None, "min_user_count": None},
        [(user, 1, time) for time in (1, 2) for user in range(3)] + [(4, 1, 1), (4, 1, 1), (4, 2, 1)],
        "temporal leaves nothing to train on: no user outside validation has two interactions before t",
    ),
}


@pytest.mark.parametrize("case", UNTRAINABLE)
def test_a_split_that_leaves_nothing_to_train_on_is_refused(tmp_path, case, monkeypatch):
    monkeypatch.setattr("rec_data.splits.decide.choose_users", lambda users, share, seed: np.array([3]))
    settings, rows, message = UNTRAINABLE[case]
    log = write_log(tmp_path / "log.parquet", rows)
    (tmp_path / "split").mkdir()
    with pytest.raises(DataError, match=message):
        split_log(log, tmp_path / "split", Split(**settings))
    assert not list((tmp_path / "split").iterdir())


def test_two_interactions_of_a_user_are_enough_to_train(tmp_path):
    rows = [*((user, item, item) for user in range(5) for item in (1, 2, 3)), (9, 1, 1), (9, 2, 2)]
    parts = parts_of(tmp_path, rows, "a", Split(strategy="leave_one_out"))
    assert parts["train.parquet"]["history"].to_list() == [[0]] * 5 + [[0, 1]]


@pytest.mark.parametrize("case", BAD)
def test_bad_split_is_refused(tmp_path, case):
    settings, arguments, message = BAD[case]
    log = write_log(tmp_path / "log.parquet", [(1, 1, 0), (1, 2, 0), (2, 1, 0), (3, 2, 0)])
    (tmp_path / "split").mkdir()
    with pytest.raises(DataError, match=message):
        split_log(log, tmp_path / "split", Split(**settings), **arguments)
    assert not list((tmp_path / "split").iterdir())


def parts_of(tmp_path, rows, name, settings=None, **arguments):
    out = tmp_path / name
    out.mkdir()
    split_log(write_log(tmp_path / f"{name}.parquet", rows), out, settings, **arguments)
    return {path.name: pl.read_parquet(path) for path in sorted(out.glob("*.parquet"))}


def distinct_times(seed):
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 30, 400), rng.integers(0, 25, 400)
    return list(zip(users.tolist(), items.tolist(), rng.permutation(400).tolist(), strict=True))


@pytest.mark.parametrize("names", ["integers", "text"])
@pytest.mark.parametrize("strategy", ["temporal", "leave_one_out"])
def test_the_order_of_rows_does_not_matter(tmp_path, strategy, names):
    """With ties and duplicates: nine interactions share each time."""
    rows = [(user, item, time // 9) for user, item, time in distinct_times(0)]
    if names == "text":
        rows = [("näme " * (user % 3) + str(user), f"{item}", time) for user, item, time in rows]
    shuffled = [rows[row] for row in np.random.default_rng(1).permutation(len(rows))]
    one, other = (parts_of(tmp_path, r, n, Split(strategy=strategy)) for r, n in ((rows, "a"), (shuffled, "b")))
    assert len(one["test.parquet"]) > 5
    for name, part in one.items():
        assert part.equals(other[name]), name


def test_tied_times_are_shuffled_by_seed_and_user(tmp_path):
    rows = [(user, item, time) for user in range(40) for time in (1, 2) for item in range(8 * time, 8 * time + 8)]
    settings = Split(strategy="leave_one_out")
    kept = parts_of(tmp_path, rows, "a", settings, tie_seed=None)["train.parquet"]["history"].to_list()
    assert kept == [list(range(14))] * 40
    one, other = (
        parts_of(tmp_path, rows, name, settings, tie_seed=seed)["train.parquet"]["history"].to_list()
        for name, seed in (("b", 1), ("c", 2))
    )
    for history in one:
        assert sorted(history[:8]) == list(range(8))  # the first time comes first
    assert len({tuple(history) for history in one}) == 40  # each user has an order of its own
    assert one != other
    firsts = np.bincount([history[0] for history in one + other], minlength=8)
    assert firsts.min() > 0  # 10 of each are expected of 80; none with p = 8 (7 / 8) ** 80 = 0.0002
    without = [row for row in rows if row[0] not in (3, 7)]  # other users have no influence
    fewer = parts_of(tmp_path, without, "d", settings, tie_seed=1)["train.parquet"]["history"].to_list()
    assert fewer == [history for user, history in enumerate(one) if user not in (3, 7)]


def test_the_summary_has_the_share_that_a_bulk_import_gives_to_the_future(tmp_path):
    past = [(user, item, 1000 + 2 * user + item) for user in range(20) for item in (0, 1)]
    (tmp_path / "split").mkdir()
    log = write_log(tmp_path / "log.parquet", [*past, *((user, item, 2000) for user in range(20) for item in range(3))])
    summary = split_log(log, tmp_path / "split", Split(min_item_count=None, min_user_count=None))
    assert (summary["test_fraction"], summary["boundary_time"]) == (0.1, 2000)
    assert (summary["future_share"], summary["boundary_share"]) == (0.6, 0.6)


def test_the_summary_counts_ties_and_duplicates(tmp_path):
    day = 86_400
    rows = [(1, 1, 20_000), (1, 2, 20_000), (1, 1, 20_000), (2, 1, 20_001), (2, 1, 20_001), (2, 2, 20_002),
            (2, 3, 20_003), (1, 4, 20_003), (1, 2, 20_003), (3, 1, 20_001)]  # fmt: skip
    rows = [(user, item, time * day) for user, item, time in rows]
    (tmp_path / "split").mkdir()
    summary = split_log(write_log(tmp_path / "log.parquet", rows), tmp_path / "split", Split(strategy="leave_one_out"))
    # User 1 has three tied interactions on two items and two more; of user 2, the tie is a duplicate.
    assert (summary["tied_interactions"], summary["duplicate_interactions"]) == (5, 2)
    assert (summary["copies_of_every_row"], summary["dates_only"]) == (1, True)


def test_a_log_that_was_written_three_times_is_recognised(tmp_path):
    rows = [(user, item, 1_700_000_001 + item) for user in range(9) for item in range(6)] * 3 + [(0, 0, 1_700_000_001)]
    (tmp_path / "split").mkdir()
    log = write_log(tmp_path / "log.parquet", rows)
    summary = split_log(log, tmp_path / "split", Split(strategy="leave_one_out"))
    assert (summary["tied_interactions"], summary["duplicate_interactions"]) == (0, 2 * 54 + 1)
    assert (summary["copies_of_every_row"], summary["dates_only"], summary["future_share"]) == (3, False, None)
    assert summary["test"]["unreachable_targets"] == 9


def test_times_too_wide_for_one_sort_key(tmp_path):
    rows = distinct_times(2)
    wide = [(user, item, time * 2**54) for user, item, time in rows]
    one, other = (parts_of(tmp_path, r, n) for r, n in ((rows, "a"), (wide, "b")))
    times = ["timestamps", "target_time"]
    for name, part in one.items():
        assert part.drop(times, strict=False).equals(other[name].drop(times, strict=False)), name


def test_ties_keep_row_order_in_a_log_of_many_row_groups(tmp_path):
    rows = [(user, item, 0) for item in range(200) for user in range(50)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    frame.write_parquet(tmp_path / "log.parquet", row_group_size=97)
    (tmp_path / "split").mkdir()
    split_log(tmp_path / "log.parquet", tmp_path / "split", Split(strategy="leave_one_out"), tie_seed=None)
    train = pl.read_parquet(tmp_path / "split" / "train.parquet")
    assert train["history"].to_list() == [list(range(198))] * 50


def test_export_in_many_row_groups_equals_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr("rec_data.splits.write.EXPORT_ROWS", 30)
    parts = parts_of(tmp_path, distinct_times(3), "a")
    assert pq.ParquetFile(tmp_path / "a" / "train.parquet").num_row_groups > 3
    for name in ("train", "validation", "test"):
        store, exported = SequenceStore.open(tmp_path / "a" / "sequences" / f"{name}.arrow"), parts[f"{name}.parquet"]
        assert store.items.tolist() == exported["history"].explode().to_list()
        assert store.lengths.tolist() == exported["history"].list.len().to_list()
        assert store.user_ids.tolist() == exported["user_id"].to_list()
        assert exported["timestamps"].list.len().equals(exported["history"].list.len())


BAD_LOGS = {
    "no column": (
        {"user_id": [1], "item": [1], "timestamp": [1]},
        "has no column 'item_id'; its columns are: user_id, item,",
    ),
    "float ids": ({"user_id": [1.5], "item_id": [1], "timestamp": [1]}, "column 'user_id' holds Float64; allowed"),
    "text times": ({"user_id": [1], "item_id": [1], "timestamp": ["x"]}, "column 'timestamp' holds String; allowed"),
    "nulls": ({"user_id": [1, None], "item_id": [1, 2], "timestamp": [1, 2]}, "column 'user_id' has 1 empty value;"),
    "one user": ({"user_id": [1] * 10, "item_id": [1, 2] * 5, "timestamp": range(10)}, "one user left"),
    "one item": ({"user_id": [1, 2] * 5, "item_id": [7] * 10, "timestamp": range(10)}, "one item left.*7"),
}


@pytest.mark.parametrize("case", BAD_LOGS)
def test_bad_log_is_refused(tmp_path, case):
    columns, message = BAD_LOGS[case]
    pl.DataFrame(columns).write_parquet(tmp_path / "log.parquet")
    (tmp_path / "split").mkdir()
    with pytest.raises(DataError, match=message) as caught:
        split_log(tmp_path / "log.parquet", tmp_path / "split")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "split").iterdir())


@pytest.mark.parametrize(("content", "message"), [(None, "no log"), (b"PAR1 nonsense PAR1", "cannot be read")])
def test_unreadable_log_is_refused(tmp_path, content, message):
    if content:
        (tmp_path / "log.parquet").write_bytes(content)
    (tmp_path / "split").mkdir()
    with pytest.raises(DataError, match=message):
        split_log(tmp_path / "log.parquet", tmp_path / "split")


def test_empty_log_is_refused(tmp_path):
    schema = {"user_id": pl.Int64, "item_id": pl.Int64, "timestamp": pl.Int64}
    pl.DataFrame(schema=schema).write_parquet(tmp_path / "log.parquet")
    (tmp_path / "split").mkdir()
    with pytest.raises(DataError, match="has no rows"):
        split_log(tmp_path / "log.parquet", tmp_path / "split")


def test_paper_faithful_writes_the_inputs_of_newcomers(tmp_path):
    # User 2 validates with this seed; item 7 is met in the past by it alone. User 4 is new in the future.
    rows = [(1, 1, 0), (1, 2, 1), (2, 1, 0), (2, 7, 1), (2, 2, 2), (3, 2, 0), (3, 1, 1), (1, 7, 8), (3, 2, 9)]
    rows += [(4, 2, 8), (4, 1, 9)]
    seed = next(seed for seed in range(99) if np.random.default_rng(seed).choice([1, 2, 3], 1, replace=False) == 2)
    settings = Split(min_item_count=None, min_user_count=None, test_fraction=0.3)
    parts = parts_of(tmp_path, rows, "a", settings, seed=seed, paper_faithful=True)
    assert parts["test.parquet"].rows() == [(0, [0], [0], 1, 1), (2, [1, 0], [0, 1], 1, 9)]
    assert parts["untargeted.parquet"].rows() == [(3, [1], [8])]
    assert parts["users.parquet"]["original_id"].to_list() == [1, 2, 3, 4]
    store = SequenceStore.open(tmp_path / "a" / "sequences" / "untargeted.arrow")
    assert (store.items.tolist(), store.user_ids.tolist()) == ([1], [3])
    assert store.targets is None


@pytest.mark.parametrize(
    ("key", "found", "only"),
    [("validation", "time", "users"), ("target", "first", "last"), ("seen_targets", "drop", "keep")],
)
def test_rules_that_the_paper_does_not_have_are_refused(tmp_path, key, found, only):
    rows = [(1, 1, 0), (1, 2, 1), (2, 1, 0), (2, 2, 2), (1, 2, 3)]
    with pytest.raises(DataError, match=rf"^split.{key}: found {found} with paper_faithful, allowed: {only}$"):
        parts_of(tmp_path, rows, "a", Split(**{key: found}), paper_faithful=True)


def test_the_choice_of_targets_reaches_the_files(tmp_path):
    rows = [(user, item, 10 * item + user) for user in (1, 2) for item in range(6)] + [(1, 0, 70)]
    settings = Split(strategy="leave_one_out", holdout=2, target="first")
    parts = parts_of(tmp_path, rows, "a", settings)
    assert parts["test.parquet"]["history"].to_list() == [[0, 1, 2, 3, 4], [0, 1, 2, 3]]
    assert parts["test.parquet"]["target"].to_list() == [5, 4]
    assert parts["validation.parquet"]["target"].to_list() == [3, 2]
    settings = Split(strategy="leave_one_out", holdout=2, target="last", seen_targets="drop")
    parts = parts_of(tmp_path, rows, "b", settings)
    assert parts["test.parquet"]["target"].to_list() == [5, 5]
