"""Confidence intervals of a mean over users, from four moments of their values and without resampling.

The interval holds every mean ``m`` that a score test does not reject: ``n (mean - m)**2 <= z**2 V(m)``. Wilson's
interval of a rate is the case ``V(m) = m (1 - m)``. For other metrics V is the quadratic variance function that fits
the moments of the sample: slope ``k3 / k2`` and half curvature ``(k4 / k2**2 - (k3 / k2)**2 / k2) / 2`` with the
cumulants k2 to k4 (Morris, "Natural exponential families with quadratic variance functions", Annals of Statistics
10(1), 1982; Brown, Cai and DasGupta, "Interval estimation in exponential families", Statistica Sinica 13, 2003: score
intervals of these families).

A few hits do not show how good a hit can be, nor a few misses how bad a miss. The largest possible value is therefore
added to the moments of the upper bound, and the smallest to those of the lower bound, each as `END_WEIGHT` of a user.

Hits are whole numbers, so the coverage of any interval that depends on their number alone jumps by several points from
one rate to the next. The bounds are those of the sum plus a part of a hit, from minus to plus one half, that is
drawn from a hash of which users are hit: equal data have equal intervals (Stevens, "Fiducial limits of the parameter
of a discontinuous distribution", Biometrika 37, 1950). METRICS.md has the coverage by simulation.
"""

import math
import zlib
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from rec_eval.metrics.accuracy import ACCURACY
from rec_eval.metrics.evaluate import Evaluation
from rec_eval.metrics.hits import Floats

MIN_USERS = 30
"""With fewer users there is no interval."""
MIN_HITS = 1
"""With fewer users whose value is above 0 there is no interval of an accuracy."""
END_WEIGHT = 0.5
"""Chosen by the simulation in benchmarks/coverage.py."""
MAX_LEVEL = 0.99999
"""Above it, 30 users would not be enough."""


class Interval(NamedTuple):
    """A mean over users and its confidence interval; low and high are NaN with too few users."""

    mean: float
    low: float
    high: float
    users: int


class IntervalRow(NamedTuple):
    """One row of results, with its interval; low and high are NaN with too few users."""

    metric: str
    k: int
    value: float
    low: float
    high: float
    users: int


def normal_quantile(level: float) -> float:
    """The number of standard deviations on either side of the mean that hold this share of a normal distribution.

    Raises:
        ValueError: the level is not above 0 and at most ``MAX_LEVEL``.
    """
    if not 0 < level <= MAX_LEVEL:
        raise ValueError(f"level: found {level}, allowed: above 0, at most {MAX_LEVEL}")
    return NormalDist().inv_cdf((1 + level) / 2)


def score_bounds(
    values: Floats, users: Floats, ends: tuple[float, float], level: float, shift: Floats
) -> tuple[Floats, Floats]:
    """Lower and upper bound of the mean of each of T samples, as the head of this file describes.

    Args:
        values: ``[T, n]`` or ``[1, n]`` float64.
        users: ``[T, n]`` how many users have each value.
        ends: the smallest and the largest possible value.
        level: nominal coverage.
        shift: ``[T]`` part of a hit that is added, from -1/2 to 1/2. It has no effect if all values are the smallest.

    Returns:
        ``[T]`` float64 each.
    """
    squared = normal_quantile(level) ** 2
    number = users.sum(axis=1)  # [T]
    gains = values - ends[0]
    total = (users * gains).sum(axis=1)
    hit = (users * gains**2).sum(axis=1) / np.where(total > 0, total, 1.0)  # the gain of a hit; 0 without hits
    mean = ends[0] + (total + shift * hit) / number
    low, high = (_bound(values, users, end, sign, mean, squared) for end, sign in zip(ends, (-1, 1), strict=True))
    return np.maximum(low, ends[0]), np.minimum(high, ends[1])


def _bound(values: Floats, users: Floats, end: float, sign: int, mean: Floats, squared: float) -> Floats:
    """The lower (sign -1) or upper bound around ``[T]`` means, from moments to which one end is added."""
    number = users.sum(axis=1)
    weight = number + END_WEIGHT
    middle = ((users * values).sum(axis=1) + END_WEIGHT * end) / weight
    deviations = values - middle[:, None]  # [T, n]
    k2, k3, m4 = (
        ((users * deviations**power).sum(axis=1) + END_WEIGHT * (end - middle) ** power) / weight for power in (2, 3, 4)
    )
    known = np.where(k2 > 0, k2, 1.0)  # 0 if all values and the end are equal; k3 and m4 are 0 then too
    slope = k3 / known
    curvature = np.minimum((m4 / known**2 - 3 - slope**2 / known) / 2, 1.0)
    # V as a polynomial of x = m - mean, and the roots of n x**2 = z**2 (constant + linear x + curvature x**2).
    away = mean - middle
    constant = np.maximum(k2 + slope * away + curvature * away**2, 0.0)
    linear = slope + 2 * curvature * away
    leading = number - squared * curvature
    root = np.sqrt((squared * linear) ** 2 + 4 * leading * squared * constant)
    bound: Floats = mean + (squared * linear + sign * root) / (2 * leading)
    return bound


def mean_interval(
    values: Floats, *, ends: tuple[float, float] | None = None, min_hits: int = 0, level: float = 0.95
) -> Interval:
    """Mean over users and its interval; NaN values (users without relevant items) are left out.

    Args:
        values: ``[U]`` float64.
        ends: the smallest and the largest value that a user can have; by default those found.
        min_hits: with fewer users above the smallest possible value there is no interval.
        level: nominal coverage of the interval, at most ``MAX_LEVEL``.

    Raises:
        ValueError: no user has a value, or the level is out of range.
    """
    known = values[~np.isnan(values)]
    if known.size == 0:
        raise ValueError("values: found no user with a value, allowed: at least 1")
    smallest, largest = (known.min(), known.max()) if ends is None else ends
    mean, hit = float(known.mean()), known > smallest
    if known.size < MIN_USERS or hit.sum() < min_hits:
        return Interval(mean, math.nan, math.nan, known.size)
    shift = 0.0 if hit.all() else zlib.crc32(np.packbits(hit).tobytes()) / 2**32 - 0.5
    ends = float(smallest), float(largest)
    low, high = score_bounds(known[None], np.ones((1, known.size)), ends, level, np.array([shift]))
    return Interval(mean, min(float(low[0]), mean), max(float(high[0]), mean), known.size)


def metric_interval(metric: str, values: Floats, level: float = 0.95) -> Interval:
    """`mean_interval` of a metric such as ``ndcg``: an accuracy lies between 0 and 1 and needs `MIN_HITS` hits.

    The largest possible precision and serendipity are not known here; their largest value found is taken.
    """
    if metric not in (*ACCURACY, "serendipity"):
        return mean_interval(values, level=level)
    largest = float(np.nanmax(values)) if metric in ("precision", "serendipity") else 1.0
    return mean_interval(values, ends=(0.0, largest), min_hits=MIN_HITS, level=level)


def intervals(evaluation: Evaluation, *, level: float = 0.95) -> list[IntervalRow]:
    """Mean and interval of every metric with one value per user, in the order of ``Evaluation.rows``.

    Coverage is a property of all lists together, so it has no interval and is left out.

    Raises:
        ValueError: the level is out of range.
    """
    return [
        IntervalRow(
            metric, k, *metric_interval(metric, evaluation.user_means(evaluation.per_user[f"{metric}@{k}"]), level)
        )
        for metric, k, _ in evaluation.rows()
        if f"{metric}@{k}" in evaluation.per_user
    ]
