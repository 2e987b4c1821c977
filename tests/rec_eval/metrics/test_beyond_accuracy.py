"""Metrics beyond accuracy: equal to RecTools and RePlay, and to their definitions in plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_eval import Baseline, LogCounts, evaluate

LISTS = np.array([[3, 1, 4, 0], [0, 2, 5, 1], [5, 4, 3, 2], [1, 0, 2, 4], [2, 3, 0, 5]])
TARGETS = np.array([4, 0, 2, 3, 3])
COUNTS = np.array([9, 6, 6, 3, 1, 0])
GROUPS = np.array([0, 0, 1, 2, 1, 2])
POPULAR = np.tile(np.argsort(-COUNTS, kind="stable")[:4], (5, 1))
RECTOOLS = {
    "serendipity@1": [0, 0, 0, 0, 0],
    "serendipity@2": [0, 0, 0, 0, 1 / 12],
    "serendipity@4": [1 / 24, 0, 0, 0, 1 / 24],
    "diversity@2": [1, 1, 1, 0, 1],
    "diversity@4": [5 / 6, 5 / 6, 2 / 3, 2 / 3, 5 / 6],
    "unexpectedness@1": [1, 0, 1, 1, 1],
    "unexpectedness@2": [0.5, 0.5, 1, 0, 1],
    "unexpectedness@4": [0.25, 0.25, 0.5, 0.25, 0.25],
}
"""What RecTools 0.19.0 gives per user: ``Serendipity``, ``IntraListDiversity`` with the Hamming distance of the group,
and 1 less ``Intersection`` with the ranking by popularity."""


@pytest.mark.parametrize("name", RECTOOLS)
def test_equal_to_rectools(name: str):
    found = evaluate(LISTS, TARGETS, (1, 2, 4), num_items=6, baseline=Baseline(POPULAR, COUNTS), groups=GROUPS)
    assert found.per_user[name] == pytest.approx(RECTOOLS[name])


def test_novelty_is_that_of_the_example_of_replay():
    """The example in the documentation of RePlay's ``Novelty``: at 2, 1 for the first query, 0 for the others."""
    lists = np.array([[3, 7, 10, 11, 2], [5, 8, 11, 1, 3], [4, 9, 2, -1, -1]])
    train = [[5, 6, 8, 9, 2], [5, 8, 11, 1, 3], [4, 9, 2]]
    history = np.cumsum([0, *map(len, train)]), np.concatenate(train)
    found = evaluate(lists, np.array([3, 3, 3]), (2, 5), history=history)
    assert found.per_user["novelty@2"].tolist() == [1.0, 0.0, 0.0]
    assert found.per_user["novelty@5"] == pytest.approx([0.8, 0.0, 0.0])  # an empty place is not new


@st.composite
def runs(draw):
    num_items = draw(st.integers(2, 12))
    width = draw(st.integers(1, num_items))
    users = draw(st.integers(1, 4))

    def lists():
        ranked = [draw(st.permutations(range(num_items)))[: draw(st.integers(0, width))] for _ in range(users)]
        return np.array([items + [-1] * (width - len(items)) for items in ranked])

    numbers = st.lists(st.integers(0, 3), min_size=num_items, max_size=num_items)
    counts, groups = np.array(draw(numbers)), np.array(draw(numbers)) - 1
    targets = np.array(draw(st.lists(st.integers(0, num_items - 1), min_size=users, max_size=users)))
    return lists(), lists(), counts, groups, targets


@given(runs())
@settings(max_examples=100, deadline=None)
def test_agrees_with_plain_python(run):
    lists, popular, counts, groups, targets = run
    size, ks = counts.size, tuple(range(1, lists.shape[1] + 1))
    distinct = sorted({-count for count in counts.tolist()})
    if (lists < 0).all() or (popular < 0).all():
        return
    found = evaluate(lists, targets, ks, num_items=size, baseline=Baseline(popular, counts), groups=groups)
    for user, target in enumerate(targets.tolist()):
        for k in ks:
            items = [item for item in lists[user, :k].tolist() if item >= 0]
            unexpected = set(items) - set(popular[user, :k].tolist())
            assert found.per_user[f"unexpectedness@{k}"][user] == pytest.approx(len(unexpected) / k)
            gain = 0.0
            if target in items:
                by_popularity = (size - distinct.index(-counts[target])) / size if counts[target] else 0
                gain = max((size - items.index(target)) / size - by_popularity, 0) / k
            assert found.per_user[f"serendipity@{k}"][user] == pytest.approx(gain)
            if k == 1:  # one item is no pair
                assert "diversity@1" not in found.per_user
                continue
            known = [groups[item] for item in items if groups[item] >= 0]
            pairs = [one != other for place, one in enumerate(known) for other in known[:place]]
            assert found.per_user[f"diversity@{k}"][user] == pytest.approx(np.mean(pairs) if pairs else 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": Baseline(POPULAR[:, :2], COUNTS)}, "baseline must have the shape"),
        ({"baseline": Baseline(POPULAR, COUNTS[:3])}, "a count for every item"),
        ({"groups": GROUPS[:3]}, "groups must hold a number for every item"),
        ({"history": (np.array([0, 1]), np.array([0]))}, "history offsets must be users"),
    ],
)
def test_what_does_not_fit_is_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        evaluate(LISTS, TARGETS, (1,), **options)


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
