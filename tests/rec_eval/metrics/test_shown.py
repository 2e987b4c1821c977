"""Lists that are counted and measured part by part, as if they were one."""

import numpy as np
import pytest

from rec_eval import LogCounts, ShownItems, coverage, evaluate, join_evaluations

LISTS = np.array([[0, 1, 2], [0, 3, -1], [2, 0, 1], [4, -1, -1]])
TARGETS = np.array([1, 0, 5, 4])
LOG = LogCounts(np.array([3, 2, 2, 1, 1, 0]), 4)


def test_how_often_items_are_shown_at_each_k():
    shown = ShownItems.of(LISTS, [3, 1], num_items=6)
    assert shown.ks == (1, 3)
    assert shown.times.tolist() == [[2, 0, 1, 0, 1, 0], [3, 2, 2, 1, 1, 0]]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_parts_in_any_order_are_joined_to_the_whole(order: list[int]):
    """Two lists of user 7; item 5 is in no log."""
    users = np.array([3, 5, 7, 7])
    whole = evaluate(LISTS, TARGETS, [1, 3], LOG, user_ids=users, targets=TARGETS)
    parts, shown = [], ShownItems.none([1, 3], 6)
    for rows in (order[:1], order[1:]):
        parts.append(evaluate(LISTS[rows], TARGETS[rows], [1, 3], LOG))
        shown.add(LISTS[rows])
    shares = {f"coverage@{k}": share for k, share in coverage(shown, LOG).items()}
    found = join_evaluations(parts, np.argsort(order), shares, user_ids=users, targets=TARGETS)
    assert found.rows() == whole.rows()
    assert (found.num_users, found.num_relevant_outside) == (3, whole.num_relevant_outside)
    assert all(np.array_equal(found.per_user[name], values) for name, values in whole.per_user.items())
