"""Logs that are split in one part and in several, and whether both splits are the same."""

import json
from itertools import pairwise

import numpy as np
import polars as pl

from rec_data.config import Split
from rec_data.ids import read_ids
from rec_data.sequences.subsets import open_stores

DAY = 86_400
TEXTS = ["", "a", "aa", "é", "z", "Z", "\ufb00", "\U0001f600", "10", "9"]
"""Of those that are no ASCII, two have another order in UTF-16, which Java holds text in, than in UTF-8."""

CASES = {
    "texts": ({"texts": True}, Split(), 3, {}),
    "by time, a part without users": (
        {"users": 12},
        Split(validation="time", test_until=1_606_000_000, min_item_count=20, min_user_count=40),
        16,
        {"seed": 3, "filter_seen": False},
    ),
    "leave one out, order of rows": (
        {"texts": True},
        Split(strategy="leave_one_out", holdout=2, target="random"),
        4,
        {"tie_seed": None},
    ),
    "several targets": ({}, Split(target="successive", seen_targets="drop", min_item_count=None), 2, {"tie_seed": 7}),
}


def write_log(folder, *, texts=False, rows=1500, users=60, seed=0):
    """Times of days, so that many are equal, and duplicates; users begin at different times."""
    random = np.random.default_rng(seed)
    who, what = random.integers(0, users, rows), (40 * random.random(rows) ** 2).astype(int)
    when = 1_600_000_000 // DAY * DAY + (random.integers(0, 60, rows) + who % 30) * DAY
    if texts:
        users, items = (
            [f"{TEXTS[code % len(TEXTS)]}{code // len(TEXTS) or ''}" for code in ids] for ids in (who, what)
        )
    else:
        users, items = who.astype(np.int32) - 20, what * 10**15 - 10**16
    log = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": when})
    log.write_parquet(folder / "log.parquet", row_group_size=400)
    return folder / "log.parquet"


def histories(folder, name):
    """All stores of a subset as (user, history, target), in the order of users."""
    hashes = {what: read_ids(folder / f"{what}.parquet").hash for what in ("users", "items")}
    rows = []
    for store in open_stores(folder / "sequences", name, hashes=hashes):
        targets = [None] * len(store) if store.targets is None else store.targets.tolist()
        ends = store.offsets.tolist()
        items = [store.items[begin:end].tolist() for begin, end in pairwise(ends)]
        rows += zip(store.user_ids.tolist(), items, targets, strict=True)
    return sorted(rows, key=lambda row: row[0])


def check_equal(folders, expected, found, parts):
    """Compare a split in one part and its summary with one in several parts."""
    assert found.pop("parts") == parts
    assert json.dumps(found) == json.dumps(expected)
    assert json.loads((folders[1] / "summary.json").read_text()) == {**expected, "parts": parts}
    for what in ("users", "items"):
        one, other = (pl.read_parquet(folder / f"{what}.parquet") for folder in folders)
        assert one.cast(other.schema).equals(other)
    for name in ("train", "validation", "test"):
        one, other = (histories(folder, name) for folder in folders)
        assert one
        assert one == other
        whole, divided = pl.read_parquet(folders[0] / f"{name}.parquet"), pl.read_parquet(folders[1] / name)
        assert whole.equals(divided.sort("user_id", maintain_order=True))
