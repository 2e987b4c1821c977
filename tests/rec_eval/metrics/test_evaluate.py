import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_eval import LogCounts, evaluate, rank_metrics, write_rows


def ragged(rows, dtype=np.int64):
    return np.cumsum([0, *map(len, rows)]), np.array([item for row in rows for item in row], dtype=dtype)


def test_hand_worked_many_relevant():
    lists = np.array([[3, 1, 4, 0], [0, 1, 2, 3]])
    result = evaluate(lists, ragged([[1, 0, 9, 1], [3]]), [2, 4])
    # User 0: hits at ranks 2 and 4, three distinct relevant items. User 1: hit at rank 4.
    gain = 1 / math.log2(3)
    ideal = 1 + gain + 0.5
    assert result.per_user["ndcg@2"] == pytest.approx([gain / (1 + gain), 0.0])
    assert result.per_user["ndcg@4"] == pytest.approx([(gain + 1 / math.log2(5)) / ideal, 1 / math.log2(5)])
    assert result.per_user["recall@4"] == pytest.approx([2 / 3, 1.0])
    assert result.per_user["hitrate@2"].tolist() == [1.0, 0.0]
    assert result.per_user["precision@4"].tolist() == [0.5, 0.25]
    assert result.per_user["map@2"].tolist() == [0.25, 0.0]
    assert result.per_user["map@4"] == pytest.approx([(1 / 2 + 2 / 4) / 3, 1 / 4])
    assert result.per_user["mrr@4"].tolist() == [0.5, 0.25]
    assert result.summary()["precision@4"] == 0.375


def test_hand_worked_reference():
    """Four users; item 0 known to all, 1 to two, 2 to one (twice), 3 to nobody."""
    reference = LogCounts.from_logs([ragged([[0, 1], [0, 1], [0, 2, 2], [0], []])], num_items=5)
    assert reference.num_users == 4
    assert reference.user_counts.tolist() == [4, 2, 1, 0, 0]
    assert reference.self_information.tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]
    result = evaluate(torch.tensor([[0, 1], [3, -1]]), torch.tensor([0, 0]), [1, 2], reference)
    assert result.per_user["surprisal@1"].tolist() == [0.0, 1.0]
    assert result.per_user["surprisal@2"].tolist() == [0.25, 0.5]
    assert result.summary()["coverage@1"] == 1 / 3
    assert result.summary()["coverage@2"] == 2 / 3  # item 3 is not of the log, item 2 is not reached


@st.composite
def runs(draw):
    num_items = draw(st.integers(2, 30))
    width = draw(st.integers(1, num_items))
    users = draw(st.integers(1, 6))
    catalogue = range(num_items)
    lists = [draw(st.permutations(catalogue))[: draw(st.integers(0, width))] for _ in range(users)]
    lists = [ranked + [-1] * (width - len(ranked)) for ranked in lists]
    relevant = draw(st.lists(st.lists(st.integers(0, num_items + 2), max_size=6), min_size=users, max_size=users))
    relevant[0] = relevant[0] or [0]
    log = draw(st.lists(st.lists(st.sampled_from(catalogue), min_size=1, max_size=5), min_size=2, max_size=5))
    ks = draw(st.lists(st.integers(1, width), min_size=1, max_size=3))
    return num_items, lists, relevant, log, ks


@given(runs())
@settings(max_examples=150, deadline=None)
def test_agrees_with_plain_python(oracle, run):
    num_items, lists, relevant, log, ks = run
    reference = LogCounts.from_logs([ragged(log)], num_items)
    result = evaluate(np.array(lists, dtype=np.int32), ragged(relevant), ks, reference)
    for k in ks:
        expected = [oracle.accuracy(ranked, set(items), k) for ranked, items in zip(lists, relevant, strict=True)]
        for name in expected[0]:
            np.testing.assert_allclose(result.per_user[f"{name}@{k}"], [row[name] for row in expected], atol=1e-12)
        np.testing.assert_allclose(
            result.per_user[f"surprisal@{k}"], [oracle.surprisal(ranked, log, k) for ranked in lists], atol=1e-12
        )
        assert result.catalogue[f"coverage@{k}"] == pytest.approx(oracle.coverage(lists, log, k))
    assert result.num_without_relevant == sum(not items for items in relevant)
    assert result.num_relevant_outside == sum(item >= num_items for items in relevant for item in set(items))


@given(runs())
@settings(max_examples=30, deadline=None)
def test_one_relevant_item_is_the_ragged_form_of_length_one(run):
    _, lists, relevant, _, ks = run
    targets = [items[0] if items else 1 for items in relevant]
    single = evaluate(np.array(lists), np.array(targets, dtype=np.int32), ks)
    many = evaluate(np.array(lists), ragged([[target] for target in targets]), ks)
    assert single.summary() == many.summary()
    assert all(single.summary()[f"map@{k}"] == single.summary()[f"mrr@{k}"] for k in ks)


def test_blocks_of_users_change_nothing(monkeypatch):
    generator = np.random.default_rng(0)
    lists = np.argsort(generator.random((40, 25)), axis=1)
    relevant = ragged([generator.integers(0, 25, generator.integers(0, 5)).tolist() for _ in range(40)])
    reference = LogCounts(np.arange(1, 26), 30)
    whole = evaluate(lists, relevant, [3, 10], reference)
    monkeypatch.setattr("rec_eval.metrics.hits._CELLS_PER_BLOCK", 70)
    blocks = evaluate(lists, relevant, [3, 10], reference)
    assert whole.catalogue == blocks.catalogue
    for name, values in whole.per_user.items():
        np.testing.assert_array_equal(values, blocks.per_user[name])


def test_users_without_relevant_items_have_no_value():
    result = evaluate(np.array([[1], [1]]), ragged([[], [1]]), [1])
    assert math.isnan(result.per_user["ndcg@1"][0])
    assert result.summary()["ndcg@1"] == 1.0
    assert result.num_without_relevant == 1


def test_table_and_csv(tmp_path):
    result = evaluate(np.array([[1, 0], [0, 1]]), np.array([1, 1]), [2, 1, 2], LogCounts(np.array([2, 1]), 2))
    assert [row.metric for row in result.rows()[::2]] == [
        "ndcg", "recall", "hitrate", "precision", "map", "mrr", "coverage", "surprisal",
    ]  # fmt: skip
    write_rows(result.rows(), tmp_path / "metrics.csv")
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "metric,k,value"
    assert lines[3:5] == ["recall,1,0.5", "recall,2,1.0"]
    assert set(result.summary()) == {f"{row.metric}@{row.k}" for row in result.rows()}


def test_several_lists_of_a_user_are_one_value():
    """User a has two lists, of which one hits at rank 1; b hits at rank 2, c not at all and d in both lists."""
    lists = [[1, 2], [3, 2], [4, 1], [1, 2], [1, 2], [1, 2]]
    users, targets = np.array(["a", "a", "b", "c", "d", "d"]), [1, 1, 1, 3, 1, 2]
    run = evaluate(lists, targets, [1, 2], num_items=5, user_ids=users)
    assert run.num_users == 4
    assert run.summary()["hitrate@1"] == pytest.approx((0.5 + 0 + 0 + 0.5) / 4)
    assert run.summary()["hitrate@2"] == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    ranks = torch.tensor([1, 3, 2, 3, 1, 2])
    found = rank_metrics(ranks, [1, 2], user_ids=torch.tensor([0, 0, 1, 2, 3, 3]))
    assert found == pytest.approx({name: run.summary()[name] for name in found})
    assert run.per_user["ndcg@2"].size == 6
    assert run.user_means(np.array([np.nan, 1, np.nan, 2, 3, 5]))[[0, 2, 3]].tolist() == [1, 2, 4]


def test_rank_metrics_agree_with_lists():
    generator = np.random.default_rng(1)
    lists = np.argsort(generator.random((200, 50)), axis=1)
    targets = generator.integers(0, 50, 200)
    ranks = torch.from_numpy((lists == targets[:, None]).argmax(axis=1) + 1)
    summary = evaluate(lists, targets, [1, 10]).summary()
    got = rank_metrics(ranks, [1, 10])
    assert len(got) == 6
    for name, value in got.items():
        assert value == pytest.approx(summary[name])


GOOD = {"recommended": np.array([[0, 1], [2, -1]]), "relevant": np.array([0, 1]), "ks": [1, 2], "num_items": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recommended": np.array([[0, 1], [2, 2]])}, "item 2 twice in the list of row 1"),
        ({"recommended": np.array([[0, 1], [2, 3]])}, r"recommended ids must lie in \[0, 3\)"),
        ({"recommended": np.array([[0, 1], [2, -2]])}, "recommended ids must lie"),
        ({"recommended": np.array([[0.0, 1.0]])}, "recommended must be integers"),
        ({"recommended": np.zeros((0, 2), dtype=int)}, "recommended is empty"),
        ({"relevant": np.array([0])}, "one item for each of the 2 users"),
        ({"relevant": np.array([0, -1])}, "must not be negative"),
        ({"relevant": ([0, 0, 0], np.zeros(0, dtype=int))}, "empty for every user"),
        ({"relevant": ([0, 1], [1])}, r"users \+ 1 = 3"),
        ({"relevant": ([0, 2, 1], [1])}, "ascend from 0"),
        ({"ks": [3]}, "ks must lie between 1 and the 2 places"),
        ({"ks": [0]}, "ks must lie"),
        ({"ks": []}, "ks must lie"),
        ({"log": LogCounts(np.array([1, 1]), 2)}, "num_items is 3, but the log has 2"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(**{**GOOD, **change})


def test_ranks_of_nobody_are_refused():
    with pytest.raises(ValueError, match="ranks is empty"):
        rank_metrics(torch.empty(0, dtype=torch.int64), [10])


def test_names_must_fit_the_users():
    with pytest.raises(ValueError, match="user_ids must hold 4 ids, one per list"):
        evaluate(np.array([[0, 1], [1, 2], [2, -1], [0, 3]]), np.array([0, 0, 2, 3]), [1], user_ids=[1, 2])
