import math

import numpy as np
import pytest

from rec_eval import Evaluation, compare, evaluate, intervals, mean_interval
from rec_eval.metrics.bootstrap import MAX_GROUPS, bootstrap_means


def run_of(values, metric="ndcg@10", user_ids=None):
    values = np.asarray(values, dtype=np.float64)
    return Evaluation((10,), {metric: values}, {}, values.size, int(np.isnan(values).sum()), 0, user_ids)


def test_resamples_have_the_variance_of_the_mean():
    values = np.random.default_rng(0).choice([0.0, 0.5, 1.0], size=400, p=[0.7, 0.2, 0.1])
    means = bootstrap_means(values, 20_000, seed=1)
    assert means.mean() == pytest.approx(values.mean(), abs=4 * values.std() / 20 / math.sqrt(20_000))
    assert means.std() == pytest.approx(values.std() / 20, rel=0.03)


def test_groups_of_users_keep_the_variance_of_the_mean():
    values = 5 + np.random.default_rng(0).random(MAX_GROUPS + 2000) ** 4  # all distinct, groups of one or two
    means = bootstrap_means(values, 2000, seed=1)
    assert means.mean() == pytest.approx(values.mean(), abs=0.1 * values.std() / math.sqrt(values.size))
    assert means.std() == pytest.approx(values.std() / math.sqrt(values.size), rel=0.08)


def test_interval_of_a_share_is_that_of_the_binomial():
    """Of 100 users 30 hit: the bootstrap is Binomial(100, 0.3) / 100, with quantiles 0.21 and 0.39."""
    values = np.array([1.0] * 30 + [0.0] * 70 + [math.nan] * 5)
    found = mean_interval(values, resamples=40_000)
    assert found.users == 100
    assert found.mean == 0.3
    assert found.low == pytest.approx(0.21, abs=0.011)
    assert found.high == pytest.approx(0.39, abs=0.011)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    narrow = mean_interval(values, level=0.5)
    assert found.low < narrow.low < 0.3 < narrow.high < found.high


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        sample = generator.choice([0.0, 1 / 3, 1.0], size=150, p=[0.5, 0.3, 0.2])  # mean 0.3
        found = mean_interval(sample, level=0.9, resamples=400, seed=trial)
        hits += found.low <= 0.3 <= found.high
    assert 0.84 <= hits / 300 <= 0.95


def test_intervals_hold_every_metric_with_values_per_user():
    result = evaluate(np.array([[0, 1], [1, 0], [0, 1]]), np.array([0, 0, 1]), [1, 2])
    rows = intervals(result, resamples=100)
    assert [(row.metric, row.k) for row in rows] == [(row.metric, row.k) for row in result.rows()]
    assert rows[0].value == result.summary()["ndcg@1"]
    assert all(row.low <= row.value <= row.high for row in rows)


def test_pairing_finds_a_small_but_constant_gain():
    generator = np.random.default_rng(2)
    base = generator.random(500)
    better = base + 0.001 + 0.002 * generator.standard_normal(500)
    result = compare(run_of(base), run_of(better), name_a="old", name_b="new", resamples=2000)
    assert result.low > 0
    assert result.p_value == pytest.approx(2 / 2001)
    assert result.different
    assert result.difference == pytest.approx(result.mean_b - result.mean_a)
    unpaired = mean_interval(base)
    assert unpaired.high - unpaired.low > 10 * (result.high - result.low)
    assert result.sentence == (
        f"old has ndcg@10 {result.mean_a:.4f}, new {result.mean_b:.4f}: new is better by {result.difference:.4f} "
        f"({result.difference / result.mean_a:+.1%}), 95% interval {result.low:+.4f} to {result.high:+.4f}, "
        "p < 0.001, paired bootstrap over 500 users."
    )


def test_comparison_turned_round():
    generator = np.random.default_rng(3)
    a, b = run_of(generator.random(80) * 0.9), run_of(generator.random(80))
    there, back = compare(a, b, resamples=4000), compare(b, a, resamples=4000)
    assert there.difference == pytest.approx(-back.difference)
    assert there.low == pytest.approx(-back.high, abs=0.01)
    assert there.p_value == pytest.approx(back.p_value, abs=0.03)


def test_no_difference_says_so():
    values = np.random.default_rng(4).random(50)
    same = compare(run_of(values), run_of(values))
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert "cannot be told apart" in same.sentence


def test_false_alarms_are_as_rare_as_the_level_says():
    generator = np.random.default_rng(6)
    alarms = sum(
        compare(run_of(generator.random(60)), run_of(generator.random(60)), resamples=300, seed=trial).different
        for trial in range(300)
    )
    assert 0.02 <= alarms / 300 <= 0.10


def test_only_users_with_both_values_count():
    result = compare(run_of([0.0, 1.0, math.nan, 0.0]), run_of([0.5, math.nan, 1.0, 0.0]), resamples=100)
    assert (result.users, result.mean_a, result.mean_b, result.difference) == (2, 0.0, 0.25, 0.25)
    assert "%)" not in result.sentence.split("interval")[0]  # no share of zero


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (run_of([0, 1]), run_of([0, 1]), {"metric": "ndcg@5"}, "A has no ndcg@5 per user; it has ndcg@10"),
        (run_of([0, 1]), run_of([0, 1, 2]), {}, "A has 2, B 3"),
        (run_of([0, 1], user_ids=np.array([1, 2])), run_of([0, 1], user_ids=np.array([2, 1])), {}, "same order"),
        (run_of([0, math.nan]), run_of([0, 1]), {}, "at least 2 users with a value in both"),
        (run_of([0, 1]), run_of([0, 1]), {"level": 1.0}, "level must lie between 0 and 1"),
        (run_of([0, 1]), run_of([0, 1]), {"resamples": 99}, "resamples must be at least 100"),
    ],
)
def test_bad_comparisons_are_named(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        compare(a, b, **options)


def test_interval_of_one_user_is_refused():
    with pytest.raises(ValueError, match="at least 2 users"):
        mean_interval(np.array([1.0, math.nan]))
