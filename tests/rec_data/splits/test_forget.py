"""A split without some users: what is gone, and that nothing else changes."""

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.ids import read_ids
from rec_data.sequences.store import SequenceStore
from rec_data.splits.forget import forget_users
from rec_data.splits.split import split_log

ROWS = [
    *[("a", item, time) for time, item in enumerate((7, 8, 5, 9), start=1)],
    *[("b", item, time) for time, item in enumerate((6, 7, 5, 8), start=1)],  # nobody else has 6
    *[("c", item, time) for time, item in enumerate((5, 7, 8, 9), start=1)],
]


def split_of(folder: Path, rows: list[tuple[object, int, int]], how: Split, **options: bool) -> Path:
    schema = ["user_id", "item_id", "timestamp"]
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(folder / "log.parquet")
    (folder / "split").mkdir()
    split_log(folder / "log.parquet", folder / "split", how, **options)
    return folder / "split"


def histories(split: Path) -> dict[str, dict[object, tuple[object, ...]]]:
    """Each part by original user: items, times and target by original id; from the stores and the exports alike."""
    users, items = read_ids(split / "users.parquet"), read_ids(split / "items.parquet")
    assert pl.read_parquet(split / "users.parquet")["user_id"].to_list() == list(range(len(users.names)))
    names, catalogue = users.names.to_pylist(), items.names.to_pylist()
    found: dict[str, dict[object, tuple[object, ...]]] = {}
    for path in sorted((split / "sequences").iterdir()):
        store = SequenceStore.open(path, hashes={"users": users.hash, "items": items.hash})
        table = pl.read_parquet(split / f"{path.stem}.parquet")
        assert table["user_id"].to_list() == store.user_ids.tolist()
        assert table["history"].explode().drop_nulls().to_list() == store.items.tolist()
        if store.targets is not None:
            assert table["target"].to_list() == store.targets.tolist()
        found[path.stem] = {
            names[row["user_id"]]: (
                [catalogue[item] for item in row["history"]],
                row["timestamps"],
                catalogue[row["target"]] if "target" in row else None,
            )
            for row in table.to_dicts()
        }
    return found


def test_leave_one_out_by_hand(tmp_path):
    split, out = split_of(tmp_path, ROWS, Split(strategy="leave_one_out")), tmp_path / "out"
    out.mkdir()
    summary = forget_users(split, out, pa.array(["b", "nobody"]))
    # items 5 6 7 8 9 -> 0 1 2 3 4; 6 keeps its place, though nobody has it now; c moves from 2 to 1
    assert pl.read_parquet(out / "users.parquet").rows() == [(0, "a"), (1, "c")]
    assert pl.read_parquet(out / "items.parquet").rows() == [(0, 5, 1), (1, 6, 0), (2, 7, 2), (3, 8, 1), (4, 9, 0)]
    assert pl.read_parquet(out / "train.parquet").rows() == [(0, [2, 3], [1, 2]), (1, [0, 2], [1, 2])]
    assert pl.read_parquet(out / "validation.parquet").rows() == [(0, [2, 3], [1, 2], 0, 3), (1, [0, 2], [1, 2], 3, 3)]
    assert pl.read_parquet(out / "test.parquet").rows() == [
        (0, [2, 3, 0], [1, 2, 3], 4, 4),
        (1, [0, 2, 3], [1, 2, 3], 4, 4),
    ]
    store = SequenceStore.open(out / "sequences" / "test.arrow", hashes={"users": read_ids(out / "users.parquet").hash})
    assert (store.user_ids.tolist(), store.items.tolist(), store.targets.tolist()) == (
        [0, 1],
        [2, 3, 0, 0, 2, 3],
        [4, 4],
    )
    assert json.loads((out / "summary.json").read_text()) == summary
    assert (summary["users"], summary["forgotten_users"], summary["train"]) == (2, 1, {"users": 2, "interactions": 4})
    assert summary["test"] == {
        "users": 2,
        "interactions": 6,
        "targets_already_in_history": 0,
        "unreachable_targets": 0,
        "targets_unseen_in_train": 2,  # 9
    }


def test_temporal_by_hand(tmp_path):
    rows = [(user, item, time) for user in range(4) for item, time in ((1, 10 + user), (2, 20 + user), (3, 30 + user))]
    rows += [(0, 4, 15), (1, 1, 101), (2, 2, 102), (3, 1, 103)]
    how = Split(test_fraction=0.2, validation_users=0.3, min_item_count=None, min_user_count=None)
    split = split_of(tmp_path, rows, how)
    before = histories(split)
    [validating], trained, tested = before["validation"], set(before["train"]), set(before["test"])
    assert trained == {0, 1, 2, 3} - {validating}
    assert tested <= trained
    for number, user in enumerate(sorted(tested)[:-1]):  # each from the split that the last one left
        (out := tmp_path / f"out{number}").mkdir()
        summary = forget_users(split, out, pa.array([user]))
        expected = {part: {who: row for who, row in rows.items() if who != user} for part, rows in before.items()}
        assert histories(out) == expected
        split, before = out, expected
        assert summary["forgotten_users"] == number + 1
    assert [validating] == list(before["validation"])


def test_nobody_left_to_train_on_is_refused(tmp_path):
    split, out = split_of(tmp_path, ROWS, Split(strategy="leave_one_out")), tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError, match="found nobody else to train on"):
        forget_users(split, out, pa.array(["a", "b", "c"]))
    assert not list(out.iterdir())


@settings(max_examples=40, deadline=None)
@given(data=st.data(), temporal=st.booleans(), faithful=st.booleans())
def test_the_others_keep_their_events_in_their_order(data: st.DataObject, temporal: bool, faithful: bool):
    """Few different times, so that most events are tied: their order is that of the first split."""
    event = st.tuples(st.integers(0, 6), st.integers(0, 5), st.integers(0, 4))
    rows = data.draw(st.lists(event, min_size=30, max_size=60))
    how = Split(strategy="temporal" if temporal else "leave_one_out", test_fraction=0.4, validation_users=0.3,
                min_item_count=None, min_user_count=None)  # fmt: skip
    with TemporaryDirectory() as name:
        try:
            split = split_of(Path(name), rows, how, paper_faithful=temporal and faithful)
        except DataError:  # a log that cannot be split this way
            return
        before, out = histories(split), Path(name) / "out"
        gone = data.draw(st.sets(st.integers(0, 7), max_size=3))
        out.mkdir()
        if set(before["train"]) <= gone:
            return
        summary = forget_users(split, out, pa.array(sorted(gone), pa.int64()))
        after = histories(out)
        assert after == {part: {u: row for u, row in rows.items() if u not in gone} for part, rows in before.items()}
        counts = Counter(item for items, _, _ in after["train"].values() for item in items)
        items = pl.read_parquet(out / "items.parquet")
        assert read_ids(out / "items.parquet").hash == read_ids(split / "items.parquet").hash
        assert items["count"].to_list() == [counts[item] for item in items["original_id"]]
        assert {part: summary[part]["users"] for part in after} == {part: len(rows) for part, rows in after.items()}
