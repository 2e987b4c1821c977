import math

import numpy as np
import pytest

from rec_eval import Evaluation, compare, intervals, mean_interval, metrics_by_segment
from rec_eval.metrics.comparison import MAX_FLIPPED, sign_flip_p_value


def run_of(values, metric="ndcg@10", user_ids=None):
    values = np.asarray(values, dtype=np.float64)
    return Evaluation((10,), {metric: values}, {}, values.size, int(np.isnan(values).sum()), 0, user_ids)


def test_pairing_finds_a_small_but_constant_gain():
    generator = np.random.default_rng(2)
    base = generator.random(500)
    better = base + 0.001 + 0.002 * generator.standard_normal(500)
    result = compare(run_of(base), run_of(better), name_a="old", name_b="new", resamples=2000)
    assert result.low > 0
    assert result.p_value == pytest.approx(0.5 / 2001)
    assert result.different
    assert result.difference == pytest.approx(result.mean_b - result.mean_a)
    unpaired = mean_interval(base)
    assert unpaired.high - unpaired.low > 10 * (result.high - result.low)
    assert result.sentence == (
        f"old has ndcg@10 {result.mean_a:.4f}, new {result.mean_b:.4f}: new is better by {result.difference:.4f} "
        f"({result.difference / result.mean_a:+.1%}), 95% interval {result.low:+.4f} to {result.high:+.4f}, "
        "p < 0.00025, permutation test over 500 users."
    )


def test_comparison_turned_round():
    generator = np.random.default_rng(3)
    a, b = run_of(generator.random(80) * 0.9), run_of(generator.random(80))
    there, back = compare(a, b, resamples=4000), compare(b, a, resamples=4000)
    assert there.difference == pytest.approx(-back.difference)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p_value == back.p_value


def test_no_difference_says_so():
    values = np.random.default_rng(4).random(50)
    same = compare(run_of(values), run_of(values))
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert math.isnan(same.low)
    assert "cannot be told apart: from A to B +0.0000 (+0.0%), too few users (0 of them differ) for an" in same.sentence


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
        (run_of([0, math.nan]), run_of([math.nan, 1]), {}, "no user with a value in both"),
        (run_of([0, 1]), run_of([0, 1]), {"level": 1.0}, "level: found 1.0, allowed"),
        (run_of([0, 1]), run_of([0, 1]), {"resamples": 99}, "resamples: found 99, allowed"),
    ],
)
def test_bad_comparisons_are_named(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        compare(a, b, **options)


@pytest.mark.parametrize(("better", "worse", "p_value"), [(5, 0, 1 / 32), (9, 1, 12 / 1024), (3, 3, 1 - 10 / 64)])
def test_the_test_of_hits_is_the_mid_p_version_of_mcnemar_s(better, worse, p_value):
    """Of 10 users with hits of one run only: 10 on one side in 2, 9 in 20 of 2**10 sign patterns, the latter half."""
    differences = np.array([1.0] * better + [-1.0] * worse + [0.0] * 50)
    assert sign_flip_p_value(differences, 100_000, seed=0) == pytest.approx(p_value, abs=4 * 0.5 / math.sqrt(100_000))


def test_the_normal_sum_of_many_flips_is_that_of_flips():
    changed = np.random.default_rng(0).random(MAX_FLIPPED) - 0.49
    many = sign_flip_p_value(np.append(changed, 1e-9), 20_000, seed=0)
    assert many == pytest.approx(sign_flip_p_value(changed, 20_000, seed=0), abs=0.015)


def test_an_interval_needs_users_who_differ():
    few = np.array([0.0] * 91 + [1.0] * 9)
    assert math.isnan(compare(run_of(np.zeros(100)), run_of(few)).low)
    found = compare(run_of(np.zeros(100)), run_of(np.array([0.0] * 90 + [1.0] * 10)))
    half = 1.959964 * 0.3 / math.sqrt(100 - 1.959964**2)
    assert (found.low, found.high) == pytest.approx((0.1 - half, 0.1 + half))
    assert math.isnan(compare(run_of(np.zeros(29)), run_of(np.ones(29))).low)


def test_lists_of_one_user_are_not_independent():
    """Forty lists per user that all agree are worth one: intervals and tests are those of the users' means."""
    generator = np.random.default_rng(9)
    a, b = generator.random(60), generator.random(60)
    ids, repeat = np.arange(60), np.repeat(np.arange(60), 40)
    alone = compare(run_of(a, user_ids=ids), run_of(b, user_ids=ids), resamples=1000)
    often = compare(run_of(a[repeat], user_ids=repeat), run_of(b[repeat], user_ids=repeat), resamples=1000)
    assert often.users == 60
    assert often[3:9] == pytest.approx(alone[3:9])
    assert intervals(run_of(a[repeat], user_ids=repeat))[0][2:] == pytest.approx(intervals(run_of(a))[0][2:])
    segments = metrics_by_segment(run_of(a[repeat], user_ids=repeat), "half", np.arange(2400) % 2)
    assert [row.users for row in segments] == [60, 60]
    assert segments[0].value == pytest.approx(a.mean())
