import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rec_eval import (
    evaluate,
    long_tail,
    metrics_by_segment,
    popularity_profile,
    segment_edges,
)
from rec_eval.metrics.segments import entropy, gini

LISTS = np.array([[0, 1], [1, 2], [2, -1], [0, 3]])
RESULT = evaluate(LISTS, np.array([0, 0, 2, 3]), [1, 2])


def test_segments_by_hand():
    rows = metrics_by_segment(RESULT, "history", np.array([1, 4, 4, 9]), metrics=["mrr@2"], edges=[1, 3, 5])
    assert [(row.segment, row.start, row.users, row.value) for row in rows] == [
        ("1-2", 1, 1, 1.0),
        ("3-4", 3, 2, 0.5),
        ("5-9", 5, 1, 0.5),
    ]
    assert all(math.isnan(row.low) for row in rows)  # too few users
    assert rows[0][4:6] == ("mrr", 2)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 6))
@settings(deadline=None, max_examples=80)
def test_segments_part_all_users_and_never_equal_values(values, segments):
    values = np.array(values)
    edges = segment_edges(values, segments)
    assert edges[0] == values.min()
    assert len(edges) <= segments
    assert sorted(set(edges)) == edges
    lists = np.zeros((values.size, 1), dtype=int)
    result = evaluate(lists, np.arange(values.size) % 2, [1])
    rows = metrics_by_segment(result, "x", values, metrics=["ndcg@1", "recall@1"], edges=edges)
    assert sum(row.users for row in rows) == 2 * values.size
    mean = sum(row.users * row.value for row in rows if row.metric == "ndcg") / values.size
    assert mean == pytest.approx(result.summary()["ndcg@1"])


def test_default_segments_hold_about_equally_many():
    rows = metrics_by_segment(
        evaluate(np.zeros((100, 1), dtype=int), np.zeros(100, dtype=int), [1]),
        "history",
        np.arange(100) + 7,
        metrics=["ndcg@1"],
    )
    assert [(row.segment, row.users) for row in rows] == [
        ("7-26", 20), ("27-46", 20), ("47-66", 20), ("67-86", 20), ("87-106", 20),
    ]  # fmt: skip


def test_a_segment_without_relevant_items_is_left_out():
    result = evaluate(LISTS, (np.array([0, 0, 1, 1, 2]), np.array([1, 3])), [1])
    rows = metrics_by_segment(result, "x", np.array([1, 2, 3, 4]), metrics=["ndcg@1"], edges=[1, 2, 3, 4])
    assert [row.segment for row in rows] == ["2", "4"]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([1, 2, 3], {}, "one number for each of the 4 lists"),
        ([1.0, 2, 3, 4], {}, "must be integers"),
        ([1, 2, 3, 4], {"edges": [2, 3]}, "edges must ascend"),
        ([1, 2, 3, 4], {"edges": [1, 1]}, "edges must ascend"),
        ([1, 2, 3, 4], {"edges": []}, "edges must ascend"),
        ([1, 2, 3, 4], {"metrics": ["ndcg@7"]}, "no ndcg@7 per user"),
    ],
)
def test_bad_segments_are_named(values, options, message):
    with pytest.raises(ValueError, match=message):
        metrics_by_segment(RESULT, "x", np.array(values), **options)


def test_long_tail_by_hand():
    assert long_tail(np.array([1, 60, 20, 18, 1])).tolist() == [True, False, False, True, True]
    assert long_tail(np.array([5, 5, 5, 5]), 0.5).tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match="not all zero"):
        long_tail(np.array([0, 0]))
    with pytest.raises(ValueError, match="head_share"):
        long_tail(np.array([1]), 1.0)


def test_profile_by_hand():
    counts = np.array([80, 10, 6, 4])  # item 0 alone is the head
    rows = popularity_profile(LISTS, np.array([0, 0, 0, 1, 3]), counts, [1, 2])
    consumed, first, both = rows
    assert consumed[:3] == ("consumed", 0, 5)
    assert (consumed.mean_count, consumed.median_count, consumed.tail_share) == (254 / 5, 80, 0.4)
    assert consumed.distinct_items == 3
    assert first[:3] == ("recommended", 1, 4)  # items 0, 1, 2, 0
    assert (first.mean_count, first.median_count, first.tail_share) == (44.0, 10, 0.5)
    assert (first.gini, first.entropy) == (0.375, 1.5)  # shares 1/2, 1/4, 1/4 and 0
    assert both.events == 7  # the empty place is not an event
    assert both.tail_share == 5 / 7


def test_gini_by_hand():
    assert gini(np.array([2.0, 2.0, 2.0])) == 0.0
    assert gini(np.array([0.0, 0.0, 5.0, 0.0])) == 0.75
    values = np.array([1.0, 4.0, 2.0])
    assert gini(values) == pytest.approx(np.abs(values[:, None] - values).mean() / (2 * values.mean()))


def test_gini_and_entropy_are_those_of_other_libraries():
    """Gini as RecBole sums it, over the items that occur; entropy as scipy has it."""
    times = np.random.default_rng(0).poisson(1.0, 50).astype(np.float64)
    occurring = np.sort(times[times > 0])
    places = np.arange(51 - occurring.size, 51)
    assert gini(times) == pytest.approx(((2 * places - 51) * occurring).sum() / times.sum() / 50)
    assert entropy(times) == pytest.approx(stats.entropy(times, base=2))


@pytest.mark.parametrize(
    ("consumed", "ks", "message"),
    [([4], [1], r"consumed ids must lie in \[0, 4\)"), ([], [1], "consumed holds no item"), ([0], [3], "ks must lie")],
)
def test_bad_profiles_are_named(consumed, ks, message):
    with pytest.raises(ValueError, match=message):
        popularity_profile(LISTS, np.array(consumed, dtype=int), np.array([4, 3, 2, 1]), ks)
