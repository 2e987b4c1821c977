"""Counts of the log that Coverage and Surprisal are relative to."""

import numpy as np
import pytest

from rec_eval import LogCounts


def ragged(rows, dtype=np.int64):
    return np.cumsum([0, *map(len, rows)]), np.array([item for row in rows for item in row], dtype=dtype)


def test_several_logs_count_as_one_and_blocks_change_nothing(monkeypatch):
    logs = [[[0, 1], [], [0, 2, 2], [3]], [[], [0, 1, 1]], [[]]]
    whole = LogCounts.from_logs([ragged([history for log in logs for history in log])], num_items=5)
    assert whole.num_users == 4
    for events in (1, 2, 3, 100):
        monkeypatch.setattr("rec_eval.metrics.beyond_accuracy._EVENTS_PER_BLOCK", events)
        parts = LogCounts.from_logs([ragged(log) for log in logs], num_items=5)
        assert parts.num_users == whole.num_users
        assert parts.user_counts.tolist() == whole.user_counts.tolist() == [3, 2, 1, 1, 0]


@pytest.mark.parametrize(
    ("counts", "users", "message"),
    [
        ([1], 1, "found 1, allowed: at least 2"),
        ([0, 0], 3, "no item with a user"),
        ([4], 3, "found 4 to 4, allowed: 0 to the 3"),
    ],
)
def test_bad_counts_are_named(counts, users, message):
    with pytest.raises(ValueError, match=message):
        LogCounts(np.array(counts), users)


@pytest.mark.parametrize(
    ("offsets", "items", "message"),
    [([0, 1, 2], [0, 5], r"items must lie in \[0, 2\)"), ([0, 1, 3], [0, 1], "ascend from 0 to the 2 items")],
)
def test_bad_sequences_are_named(offsets, items, message):
    with pytest.raises(ValueError, match=message):
        LogCounts.from_logs([(np.array(offsets), np.array(items))], 2)
