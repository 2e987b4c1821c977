"""Confidence intervals of a mean over users, and the comparison of two runs, by the bootstrap.

Resampling users only needs the number of draws of each distinct value, which is one multinomial draw. Per-user metrics
of single targets take a few dozen values, so thousands of resamples of a million users are cheap. Source: Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 (percentile intervals) and 15; Sakai, "Evaluating
evaluation metrics based on the bootstrap", SIGIR 2006 (paired over queries).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rec_eval.metrics.evaluate import Evaluation
from rec_eval.metrics.hits import Floats

MAX_GROUPS = 4096
"""With more distinct values than this, users are first divided into this many random groups."""


class Interval(NamedTuple):
    """A mean over users and its confidence interval."""

    mean: float
    low: float
    high: float
    users: int


class IntervalRow(NamedTuple):
    """One row of results, with its interval."""

    metric: str
    k: int
    value: float
    low: float
    high: float
    users: int


class Comparison(NamedTuple):
    """The change of one metric from run A to run B over the users of both; positive means that B is higher."""

    metric: str
    name_a: str
    name_b: str
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float
    level: float
    users: int
    resamples: int

    @property
    def different(self) -> bool:
        """Whether the difference is significant at the interval's level."""
        return self.p_value < 1 - self.level

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        against = f"{self.name_a} has {self.metric} {self.mean_a:.4f}, {self.name_b} {self.mean_b:.4f}"
        share = f" ({self.difference / self.mean_a:+.1%})" if self.mean_a else ""
        at_least = "p <" if self.p_value <= 2 / (self.resamples + 1) else "p ="
        evidence = (
            f"{self.level:.0%} interval {self.low:+.4f} to {self.high:+.4f}, {at_least} {self.p_value:.2g}, "
            f"paired bootstrap over {self.users:,} users"
        )
        if not self.different:
            change = f"from {self.name_a} to {self.name_b} {self.difference:+.4f}{share}"
            return f"{against}; they cannot be told apart: {change}, {evidence}."
        side = "better" if self.difference > 0 else "worse"
        if self.metric.startswith("surprisal"):
            side = "higher" if self.difference > 0 else "lower"
        return f"{against}: {self.name_b} is {side} by {abs(self.difference):.4f}{share}, {evidence}."


def bootstrap_means(values: Floats, resamples: int, seed: int) -> Floats:
    """Compute the means of resampled users, ``[resamples]`` float64.

    The time is proportional to ``resamples`` times the number of distinct values. With more than ``MAX_GROUPS`` values,
    users are divided into that many random groups of nearly equal size, and groups are resampled: the variance of the
    mean stays the same to within 2 %. Values are ``[U]`` float64 without NaN, U >= 1.
    """
    generator = np.random.default_rng(seed)
    distinct, counts = np.unique(values, return_counts=True)
    if distinct.size <= MAX_GROUPS:
        draws = _draws(generator, values.size, counts / values.size, resamples)
        return np.concatenate([block @ distinct for block in draws]) / values.size
    starts = np.arange(MAX_GROUPS) * values.size // MAX_GROUPS
    sums = np.add.reduceat(generator.permutation(values), starts)
    sizes = np.diff(np.append(starts, values.size))
    draws = _draws(generator, MAX_GROUPS, np.full(MAX_GROUPS, 1 / MAX_GROUPS), resamples)
    return np.concatenate([(block @ sums) / (block @ sizes) for block in draws])


def _draws(generator: np.random.Generator, trials: int, shares: Floats, resamples: int) -> list[npt.NDArray[np.int64]]:
    """Draw multinomial counts ``[resamples, groups]``, in blocks of a few megabytes."""
    step = max(1, (1 << 20) // shares.size)
    return [
        generator.multinomial(trials, shares, size=min(step, resamples - start)) for start in range(0, resamples, step)
    ]


def mean_interval(values: Floats, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean over users and its percentile bootstrap interval; NaN values (users without relevant items) are left out.

    Args:
        values: ``[U]`` float64, for example ``evaluation.per_user["ndcg@10"]``.
        level: nominal coverage of the interval, between 0 and 1.
        resamples: number of resamples, at least 100.
        seed: equal seeds give equal intervals.

    Raises:
        ValueError: fewer than two users have a value, or an option is out of range.
    """
    known = values[~np.isnan(values)]
    if known.size < 2:
        raise ValueError(f"an interval needs at least 2 users with a value, got {known.size}")
    _, low, high = _resample(known, level, resamples, seed)
    return Interval(float(known.mean()), low, high, known.size)


def intervals(
    evaluation: Evaluation, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> list[IntervalRow]:
    """Mean and interval of every metric with one value per user, in the order of ``Evaluation.rows``.

    Coverage is a property of all lists together, so it has no interval and is left out.

    The other arguments and errors are those of ``mean_interval``.
    """
    rows = []
    for metric, k, _ in evaluation.rows():
        values = evaluation.per_user.get(f"{metric}@{k}")
        if values is not None:
            found = mean_interval(values, level=level, resamples=resamples, seed=seed)
            rows.append(IntervalRow(metric, k, *found))
    return rows


def compare(
    run_a: Evaluation,
    run_b: Evaluation,
    metric: str = "ndcg@10",
    *,
    name_a: str = "A",
    name_b: str = "B",
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two runs on the same users by the paired bootstrap: difference B - A, interval, p-value, one sentence.

    The sign is that of ``dvc metrics diff A B``.

    Users are resampled together with both of their values, so common variation cancels. The two-sided p-value is
    consistent with the interval: it is below ``1 - level`` if the percentile interval excludes 0. It is never below
    ``2 / (resamples + 1)``. Comparing many metrics or runs needs a stricter level (Bonferroni: divide by their number).

    ``run_a`` is the baseline, and ``metric`` a key of ``per_user``; ``level``, ``resamples`` and ``seed`` are those of
    ``mean_interval``.

    Raises:
        ValueError: a run lacks the metric, the users differ, fewer than two have a value in both, or an option is out
            of range.
    """
    for name, run in ((name_a, run_a), (name_b, run_b)):
        if metric not in run.per_user:
            raise ValueError(f"{name} has no {metric} per user; it has {', '.join(run.per_user)}")
    if run_a.num_users != run_b.num_users:
        raise ValueError(
            f"both runs must rank the same users: {name_a} has {run_a.num_users}, {name_b} {run_b.num_users}"
        )
    if run_a.user_ids is not None and run_b.user_ids is not None and (run_a.user_ids != run_b.user_ids).any():
        raise ValueError(f"both runs must rank the same users in the same order: ids of {name_a} and {name_b} differ")
    values_a, values_b = run_a.per_user[metric], run_b.per_user[metric]
    both = ~(np.isnan(values_a) | np.isnan(values_b))
    users = int(both.sum())
    if users < 2:
        raise ValueError(f"a comparison needs at least 2 users with a value in both runs, got {users}")
    differences = values_b[both] - values_a[both]
    means, low, high = _resample(differences, level, resamples, seed)
    against = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Comparison(
        metric=metric,
        name_a=name_a,
        name_b=name_b,
        mean_a=float(values_a[both].mean()),
        mean_b=float(values_b[both].mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_value=min(1.0, 2 * (against + 1) / (resamples + 1)),
        level=level,
        users=users,
        resamples=resamples,
    )


def _resample(values: Floats, level: float, resamples: int, seed: int) -> tuple[Floats, float, float]:
    """Compute the means of resampled users, and their percentile interval."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if resamples < 100:
        raise ValueError(f"resamples must be at least 100, got {resamples}")
    means = bootstrap_means(values, resamples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return means, float(low), float(high)
