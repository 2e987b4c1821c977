"""Intervals of means: those of rates are Wilson's, those of other metrics cover, and too few users have none."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rec_eval import evaluate, intervals, mean_interval
from rec_eval.metrics.intervals import END_WEIGHT, MIN_HITS, metric_interval, score_bounds

COVERAGE = Path(__file__).parents[3] / "packages" / "rec-eval" / "benchmarks" / "coverage.py"


@pytest.mark.parametrize(("hits", "users"), [(3, 30), (20, 100), (97, 100), (300, 1000), (100, 100)])
def test_the_interval_of_a_rate_is_close_to_wilson_s(hits: int, users: int):
    """The end of the range moves a bound by at most ``END_WEIGHT`` of a user, the shift by half a hit."""
    values = np.array([1.0] * hits + [0.0] * (users - hits) + [math.nan] * 5)
    found = metric_interval("hitrate", values)
    z, share = 1.959964, hits / users
    middle, half = share + z**2 / (2 * users), z * math.sqrt(share * (1 - share) / users + (z / (2 * users)) ** 2)
    wilson = [(middle + sign * half) / (1 + z**2 / users) for sign in (-1, 1)]
    assert (found.mean, found.users) == (share, users)
    assert (found.low, found.high) == pytest.approx(wilson, abs=(END_WEIGHT + 0.5) / users)
    narrow = metric_interval("hitrate", values, level=0.5)
    assert found.low < narrow.low < narrow.high <= found.high


def test_the_interval_of_many_normal_values_is_the_usual_one():
    values = np.random.default_rng(0).normal(5, 2, 4000)
    found, half = mean_interval(values), 1.959964 * values.std() / math.sqrt(4000)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03 * half)
    assert mean_interval(np.full(50, 0.3))[:3] == pytest.approx((0.3, 0.3, 0.3))


def test_precision_has_the_interval_of_its_hits():
    hits = np.array([0.1] * 20 + [0.0] * 80)
    found, rate = metric_interval("precision", hits), metric_interval("hitrate", 10 * hits)
    assert (10 * found.low, 10 * found.high) == pytest.approx((rate.low, rate.high))


@pytest.mark.parametrize(("hits", "users", "known"), [(2, 29, False), (0, 1000, False), (1, 30, True), (30, 30, True)])
def test_too_few_users_have_no_interval(hits: int, users: int, known: bool):
    found = metric_interval("ndcg", np.array([0.5] * hits + [0.0] * (users - hits)))
    assert (not math.isnan(found.low), not math.isnan(found.high)) == (known, known)
    assert found.mean == pytest.approx(0.5 * hits / users)


def test_equal_data_have_equal_intervals_and_every_interval_holds_its_mean():
    generator = np.random.default_rng(0)
    widths = set()
    for _ in range(50):
        values = generator.permutation([1.0] * 3 + [0.0] * 57)
        found = metric_interval("hitrate", values)
        assert found == metric_interval("hitrate", values)
        narrow = metric_interval("hitrate", values, level=0.1)
        assert narrow.low <= found.mean <= narrow.high
        widths.add(found.low)
    assert len(widths) == 50  # the part of a hit depends on who is hit
    lows = sorted(widths)
    assert lows[-1] - lows[0] < 1 / 60


def test_intervals_hold_every_metric_with_values_per_user():
    lists = np.tile([[0, 1], [1, 0], [0, 1]], (20, 1))
    result = evaluate(lists, np.tile([0, 0, 1], 20), [1, 2])
    rows = intervals(result)
    assert [(row.metric, row.k) for row in rows] == [(row.metric, row.k) for row in result.rows()]
    assert rows[0].value == result.summary()["ndcg@1"]
    assert all(row.low <= row.value <= row.high for row in rows)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="found no user with a value"):
        mean_interval(np.array([math.nan]))
    with pytest.raises(ValueError, match=r"level: found 1\.0, allowed: above 0"):
        mean_interval(np.ones(50), level=1.0)


def cases():
    spec = importlib.util.spec_from_file_location("coverage", COVERAGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("users", [30, 31, 50, 120])
def test_hit_rates_are_covered_at_every_single_rate(users: int):
    """The binomial probabilities of the intervals that hold the rate, over all parts of a hit; no simulation."""
    hits, rates = np.arange(users + 1), np.linspace(0.1, 0.97, 175)
    chances = stats.binom.pmf(hits, users, rates[:, None])  # [R, n + 1]
    counts = np.stack([users - hits, hits], axis=1).astype(np.float64)
    held = np.zeros(rates.size)
    for shift in np.linspace(-0.495, 0.495, 100):
        drawn = np.where((hits > 0) & (hits < users), shift, 0.0)
        low, high = score_bounds(np.array([[0.0, 1.0]]), counts, (0.0, 1.0), 0.95, drawn)
        shown = (low <= rates[:, None]) & (rates[:, None] <= high) & (hits >= MIN_HITS)
        held += (chances * shown).sum(axis=1) / 100
    covered = held / (1 - chances[:, 0])
    assert np.abs(covered - 0.95).max() < 0.016


@pytest.mark.parametrize(("rate", "users"), [(0.1, 30), (0.5, 50), (0.1, 35), (0.02, 100)])
def test_hit_rates_of_drawn_users_are_covered_at_every_single_rate(rate: float, users: int):
    """Four standard errors of 2,500 trials; without the part of a hit, the coverage jumps from rate to rate."""
    generator = np.random.default_rng(users)
    hits = (generator.random((2500, users)) < rate).astype(np.float64)
    found = [mean_interval(values, ends=(0.0, 1.0)) for values in hits]
    held = np.mean([row.low <= rate <= row.high for row in found])
    assert abs(held - 0.95) < 4 * math.sqrt(0.05 * 0.95 / 2500)


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say():
    """Within 1.5 points and four standard errors, wherever the hit rate is at least 0.1."""
    module = cases()
    rows = [row for row in module.single_means(np.random.default_rng(1), 4000) if row["hit_rate"] >= 0.1]
    assert len(rows) == 140
    allowed = 0.015 + 4 * math.sqrt(0.05 * 0.95 / 4000)
    assert all(abs(row["coverage_if_printed"] - 0.95) < allowed for row in rows)
    (pair, *_) = module.pairs(np.random.default_rng(1), 300, (100,))
    assert pair["rejected"] < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 300)
