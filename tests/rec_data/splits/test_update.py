"""The split of an update: item ids stay, new ones follow, and held-out users' new events validate."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.sequences.store import SequenceStore
from rec_data.splits.recency import is_since
from rec_data.splits.update import split_update

NEW = 1_700_000_000
CATALOGUE = ["pear", "apple", "gone"]


def log_of(tmp_path: Path, rows: list[tuple[str, str, int]]) -> Path:
    """A log, and a catalogue whose order is not that of its ids."""
    pl.DataFrame({"original_id": CATALOGUE}).write_parquet(tmp_path / "items.parquet")
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(tmp_path / "log.parquet")
    (tmp_path / "out").mkdir()
    return tmp_path / "log.parquet"


def split(tmp_path: Path, rows: list[tuple[str, str, int]], **settings: object) -> dict:
    log = log_of(tmp_path, rows)
    how = Split(**{"min_item_count": 2, "min_user_count": 1, "validation_users": 0.5, **settings})  # type: ignore[arg-type]
    return split_update(log, tmp_path / "items.parquet", tmp_path / "out", how, new_from=NEW, seed=1, tie_seed=None)


def test_ids_stay_and_the_new_events_of_some_users_validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """User b validates: both new events are targets, and the old ones train. Item fig is new, kiwi is too rare."""
    monkeypatch.setattr("rec_data.splits.update.choose_users", lambda users, share, seed: np.array([1]))
    rows = [
        ("a", "apple", NEW - 9), ("a", "pear", NEW - 8), ("a", "fig", NEW + 1), ("a", "kiwi", NEW + 2),
        ("b", "pear", NEW - 7), ("b", "pear", NEW - 6), ("b", "apple", NEW + 3), ("b", "fig", NEW + 4),
        ("c", "fig", NEW + 5), ("d", "apple", NEW - 5),
    ]  # fmt: skip
    summary = split(tmp_path, rows)
    out = tmp_path / "out"
    items = pl.read_parquet(out / "items.parquet")
    assert items["original_id"].to_list() == [*CATALOGUE, "fig"]
    assert items["count"].to_list() == [3, 2, 0, 2]
    users = pl.read_parquet(out / "users.parquet")["original_id"].to_list()
    train = SequenceStore.open(out / "sequences/train.arrow")
    histories = np.split(train.items.numpy(), train.offsets[1:-1].numpy())
    found = {users[user]: row.tolist() for user, row in zip(train.user_ids.tolist(), histories, strict=True)}
    assert found == {"a": [1, 0, 3], "b": [0, 0], "c": [3], "d": [1]}
    assert is_since(out / "train.parquet", NEW).tolist() == [False, False, True, False, False, True, False]
    validation = SequenceStore.open(out / "sequences/validation.arrow")
    assert validation.targets is not None
    assert (validation.targets.tolist(), validation.items.tolist()) == ([1, 3], [0, 0, 0, 0, 1])
    assert {key: summary[key] for key in ("new_items", "items_without_events", "new_events")} == {
        "new_items": 1, "items_without_events": 1, "new_events": 2,
    }  # fmt: skip


def test_a_log_that_is_too_large_for_one_part_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rec_data.splits.update.parts_of", lambda rows, bound: 3)
    says = r"^split.memory: found auto, which makes 3 parts, with an update, allowed: one part \(.*split.memory.*64GiB"
    with pytest.raises(DataError, match=says):
        split(tmp_path, [("u", "i", 1), ("u", "j", 2)])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("a", "kiwi", NEW)], "found no event from 2023-11-14 22:13:20 UTC on .* new items with fewer than 2 events"),
        ([("new", "apple", NEW)], "found 1 new events of 0 users with a history, which leaves none to validate on"),
    ],
)
def test_new_days_that_leave_nothing_are_one_line(tmp_path: Path, rows: list[tuple[str, str, int]], says: str):
    old = [("a", "apple", NEW - 9), ("a", "pear", NEW - 8), ("b", "pear", NEW - 7), ("b", "apple", NEW - 6)]
    with pytest.raises(DataError, match=f"^{says}"):
        split(tmp_path, old + rows)
