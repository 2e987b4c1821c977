"""Histories of a log over a catalogue: hand-worked rows."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.sequences import histories
from rec_data.sequences.histories import Histories, read_catalogue, read_histories
from rec_data.splits.split import split_log

ROWS = [("bob", 30, 5), ("ann", 10, 9), ("bob", 20, 1), ("ann", 77, 3), ("ann", 20, 2), ("cid", 77, 1), ("bob", 10, 5)]
ITEMS = pa.array([10, 20, 30])


def write(path, rows, columns=("user_id", "item_id", "timestamp")):
    pl.DataFrame(rows, schema=list(columns), orient="row").write_parquet(path)
    return path


def by_user(found: Histories) -> dict[object, list[int]]:
    store, offsets = found.store, found.store.offsets.tolist()
    return {
        found.user_names[int(user)].as_py(): store.items[offsets[row] : offsets[row + 1]].tolist()
        for row, user in enumerate(store.user_ids)
    }


def test_histories_are_in_time_order_ties_in_row_order_and_without_unknown_items(tmp_path):
    found = read_histories(write(tmp_path / "log.parquet", ROWS), ITEMS, tie_seed=None)
    assert by_user(found) == {"bob": [1, 2, 0], "ann": [1, 0]}
    assert (found.unknown_items.count, found.unknown_items.events, found.unknown_items.examples) == (1, 2, [77])
    assert (found.empty_users.count, found.empty_users.events, found.empty_users.examples) == (1, 1, ["cid"])


def test_tied_events_have_the_order_of_the_split_whatever_the_order_of_rows(tmp_path):
    """And whichever other users and items are there: the log has some that the split drops."""
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", int(item), day) for user in range(30) for day in (1, 2) for item in rng.permutation(9)[:6]]
    log = write(tmp_path / "log.parquet", [*rows, ("rare", 99, 1), ("u1", 98, 9)])
    (tmp_path / "split").mkdir()
    settings = Split(strategy="leave_one_out", min_item_count=2)
    split_log(log, tmp_path / "split", settings, seed=5, tie_seed=5)
    items = pl.read_parquet(tmp_path / "split" / "items.parquet")["original_id"]
    users = pl.read_parquet(tmp_path / "split" / "users.parquet")["original_id"]
    test = pl.read_parquet(tmp_path / "split" / "test.parquet")
    whole = {users[user]: [*history, target] for user, history, _, target, _ in test.rows()}
    shuffled = write(tmp_path / "shuffled.parquet", [rows[row] for row in rng.permutation(len(rows))])
    for path in (log, shuffled):
        found = by_user(read_histories(path, items.to_arrow(), tie_seed=5))
        assert found == whole
    catalogue = pa.array([*items.to_list(), 120])  # a refit has other items too
    assert by_user(read_histories(log, catalogue, tie_seed=5)) == whole
    refit, _ = read_catalogue(log, min_item_count=2, min_user_count=None, tie_seed=5)
    assert by_user(refit) == whole
    assert by_user(read_histories(log, items.to_arrow(), tie_seed=6)) != whole


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["10", "007", "x"], pa.array([7, 10])),  # "007" is a name and not the integer 7
        ([10, 7, 70], pa.array(["10", "007", "x"], pa.large_string())),
        (["10", "y", "z"], pa.array(["10", "007", "x"])),
    ],
    ids=["text for integers", "integers for text", "text for text"],
)
def test_ids_are_compared_in_the_type_of_the_catalogue(tmp_path, ids, names):
    log = write(tmp_path / "log.parquet", [("u", item, time) for time, item in enumerate(ids)])
    found = read_histories(log, names, tie_seed=None)
    assert by_user(found) == {"u": [names.to_pylist().index(10 if names.type == pa.int64() else "10")]}
    assert found.unknown_items.count == 2


@pytest.mark.parametrize("row_group", [1, 2, 100])
def test_some_users_are_read_as_with_all_users(tmp_path, row_group):
    log = tmp_path / "log.parquet"
    rows = [(user, *rest) for user, *rest in ROWS for _ in range(2)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(
        log, row_group_size=row_group
    )
    whole = by_user(read_histories(log, ITEMS, tie_seed=3))
    for users in (["ann"], ["bob", "nobody"], ["cid", "bob", "ann"]):
        found = read_histories(log, ITEMS, tie_seed=3, users=users)
        assert by_user(found) == {user: items for user, items in whole.items() if user in users}
    assert len(read_histories(log, ITEMS, tie_seed=3, users=["nobody"]).user_names) == 0


def test_nobody_known_is_no_error(tmp_path):
    found = read_histories(write(tmp_path / "log.parquet", ROWS), pa.array([1]), tie_seed=None)
    assert len(found.store) == 0
    assert found.empty_users.count == 3


def test_a_catalogue_of_its_own_filters_items_first_then_users(tmp_path):
    log = write(tmp_path / "log.parquet", ROWS)
    found, names = read_catalogue(log, min_item_count=2, min_user_count=2, tie_seed=None)
    assert names.to_pylist() == [10, 20, 77]
    assert by_user(found) == {"bob": [1, 0], "ann": [1, 2, 0]}  # cid has one event left
    everything, names = read_catalogue(log, min_item_count=None, min_user_count=None, tie_seed=None)
    assert names.to_pylist() == [10, 20, 30, 77]
    assert by_user(everything)["cid"] == [3]


@pytest.mark.parametrize("users", [None, ["bob"]])
def test_a_log_that_is_replaced_is_read_to_its_end(users, tmp_path, monkeypatch):
    log, fewer = (write(tmp_path / name, rows) for name, rows in (("log.parquet", ROWS), ("fewer.parquet", ROWS[:2])))
    expected = by_user(read_histories(log, ITEMS, tie_seed=None, users=users))
    encode = histories.pc.index_in

    def replace(*arguments, **options):
        if fewer.exists():
            fewer.replace(log)
        return encode(*arguments, **options)

    monkeypatch.setattr(histories.pc, "index_in", replace)
    assert by_user(read_histories(log, ITEMS, tie_seed=None, users=users)) == expected


def test_filters_that_leave_nobody_are_named(tmp_path):
    with pytest.raises(DataError, match="min_item_count 1 and min_user_count 9 leave no user"):
        read_catalogue(write(tmp_path / "log.parquet", ROWS), min_item_count=1, min_user_count=9, tie_seed=None)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no log"),
        (lambda path: path.write_text("no parquet"), "cannot be read"),
        (lambda path: write(path, [(1, 2)], ("user_id", "item")), "item_id"),
    ],
)
def test_a_log_that_is_none_is_named(tmp_path, make, says):
    make(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=says):
        read_histories(tmp_path / "log.parquet", ITEMS, tie_seed=None)
