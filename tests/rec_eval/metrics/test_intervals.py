"""Intervals of means: those of rates are Wilson's, those of other metrics cover, and too few users have none."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from rec_eval import evaluate, intervals, mean_interval
from rec_eval.metrics.intervals import END_WEIGHT, metric_interval

COVERAGE = Path(__file__).parents[3] / "packages" / "rec-eval" / "benchmarks" / "coverage.py"


@pytest.mark.parametrize(("hits", "users"), [(3, 30), (20, 100), (97, 100), (300, 1000), (100, 100)])
def test_the_interval_of_a_rate_is_close_to_wilson_s(hits: int, users: int):
    """The two ends of the range move the variance by at most ``2 END_WEIGHT`` of a user."""
    values = np.array([1.0] * hits + [0.0] * (users - hits) + [math.nan] * 5)
    found = metric_interval("hitrate", values)
    z, share = 1.959964, hits / users
    middle, half = share + z**2 / (2 * users), z * math.sqrt(share * (1 - share) / users + (z / (2 * users)) ** 2)
    wilson = [(middle + sign * half) / (1 + z**2 / users) for sign in (-1, 1)]
    assert (found.mean, found.users) == (share, users)
    assert (found.low, found.high) == pytest.approx(wilson, abs=2 * END_WEIGHT / users)
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


@pytest.mark.parametrize(("hits", "users", "known"), [(2, 29, False), (1, 1000, False), (2, 30, True), (30, 30, True)])
def test_too_few_users_have_no_interval(hits: int, users: int, known: bool):
    found = metric_interval("ndcg", np.array([0.5] * hits + [0.0] * (users - hits)))
    assert (not math.isnan(found.low), not math.isnan(found.high)) == (known, known)
    assert found.mean == pytest.approx(0.5 * hits / users)


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


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say():
    """Within 1.5 points and four standard errors of 4,000 trials."""
    spec = importlib.util.spec_from_file_location("coverage", COVERAGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = list(module.single_means(np.random.default_rng(1), 4000))
    assert len(rows) == 140
    allowed = 0.015 + 4 * math.sqrt(0.05 * 0.95 / 4000)
    assert all(abs(row["coverage"] - 0.95) < allowed for row in rows)
    (pair, *_) = module.pairs(np.random.default_rng(1), 300, (100,))
    assert pair["rejected"] < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 300)
