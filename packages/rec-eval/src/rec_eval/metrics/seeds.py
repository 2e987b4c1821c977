"""Compare two settings over several seeds of each: users and seeds are two random effects.

The value of user u under seed s is ``mean + user_u + seed_s + rest_us``. The difference of the means over all users and
seeds then varies by the choice of users and by that of seeds, and its variance is estimated from the mean squares:

    users     variance over users of their difference of means over seeds, / U
    seeds     variance over seeds of the means over users, / S, of A plus that of B, less the part that ``rest``
              explains (its mean square / (U S)), at least 0

``rest`` is thus counted once. The interval takes Student's t with the degrees of freedom of Satterthwaite ("An
approximate distribution of estimates of variance components", Biometrics Bulletin 2(6), 1946). Source: the crossed
random effects and quasi F ratio of Clark, "The language-as-fixed-effect fallacy", Journal of Verbal Learning and Verbal
Behavior 12(4), 1973. METRICS.md has the coverage by simulation.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from rec_eval.metrics.comparison import verdict
from rec_eval.metrics.evaluate import Evaluation
from rec_eval.metrics.hits import Floats
from rec_eval.metrics.intervals import MIN_USERS, normal_quantile


class SeedComparison(NamedTuple):
    """The change of one metric from setting A to setting B, over users and seeds; positive means that B is higher.

    low and high are NaN with too few users, or if all differences are equal.
    """

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
    seeds_a: int
    seeds_b: int
    error_users: float
    """Standard error of the difference from the choice of users."""
    error_seeds: float
    """Standard error of the difference from the choice of seeds; 0 if it is too small to be seen with these seeds."""

    @property
    def different(self) -> bool:
        """Whether the test rejects, at the interval's level, that there is no difference."""
        return self.p_value < 1 - self.level

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        interval = f"{self.level:.0%} interval {self.low:+.4f} to {self.high:+.4f}"
        if math.isnan(self.low):
            interval = "too few users for an interval"
        of_seeds = f"and {self.error_seeds:.4f} from the seeds"
        if self.error_seeds == 0:
            of_seeds = f"(that of the seeds is too small to be seen with {self.seeds_a} and {self.seeds_b} of them)"
        evidence = (
            f"{interval} over other users and other seeds, p = {self.p_value:.2g}; standard error "
            f"{self.error_users:.4f} from {self.users:,} users {of_seeds}"
        )
        a, b = f"{self.name_a} ({self.seeds_a} seeds)", f"{self.name_b} ({self.seeds_b} seeds)"
        return verdict(self.metric, (a, b), (self.mean_a, self.mean_b), self.different, evidence=evidence)


def compare_seeds(
    runs_a: Sequence[Evaluation],
    runs_b: Sequence[Evaluation],
    metric: str = "ndcg@10",
    *,
    name_a: str = "A",
    name_b: str = "B",
    level: float = 0.95,
) -> SeedComparison:
    """Compare two settings, each trained with several seeds, on the same users: difference B - A and its interval.

    The head of this file has the method. Unlike ``compare``, the result is about other seeds too. Seeds of A and of B
    count as independent even if they have the same numbers.

    Args:
        runs_a: at least two runs of the baseline that differ in their seeds, with the same users in the same order.
        runs_b: those of the other setting.
        metric: a key of ``per_user``.
        name_a: of setting A, for the sentence.
        name_b: of setting B.
        level: nominal coverage of the interval.

    Raises:
        ValueError: a side has fewer than two runs, a run lacks the metric, the users differ, fewer than two have a
            value in all runs, or the level is out of range.
    """
    normal_quantile(level)  # refuses levels out of range
    runs = [*runs_a, *runs_b]
    for name, side in ((name_a, runs_a), (name_b, runs_b)):
        if len(side) < 2:
            raise ValueError(f"{name}: found {len(side)} run, allowed: at least 2, with different seeds")
        if any(metric not in run.per_user for run in side):
            raise ValueError(f"a run of {name} has no {metric} per user")
    if len({run.num_users for run in runs}) > 1:
        raise ValueError(f"all runs must rank the same users: found {sorted({run.num_users for run in runs})}")
    values = np.stack([run.user_means(run.per_user[metric]) for run in runs])  # [S, U]
    values = values[:, ~np.isnan(values).any(axis=0)]
    users = values.shape[1]
    if users < 2:
        raise ValueError(f"found {users} users with a value in all runs, allowed: at least 2")
    a, b = values[: len(runs_a)], values[len(runs_a) :]
    means = float(a.mean()), float(b.mean())
    difference = means[1] - means[0]
    of_users = float((b.mean(axis=0) - a.mean(axis=0)).var(ddof=1)) / users
    sides = [_of_seeds(side) for side in (a, b)]
    of_seeds = max(0.0, sum(total - rest for total, rest in sides))
    variance = of_users + of_seeds
    low, high, p_value = math.nan, math.nan, 1.0
    if variance > 0:
        parts = [(of_users, users - 1)]
        if of_seeds > 0:
            parts += [(total, len(side) - 1) for (total, _), side in zip(sides, (a, b), strict=True)]
        freedom = variance**2 / sum(part**2 / number for part, number in parts)
        half = student_quantile(level, freedom) * math.sqrt(variance)
        p_value = 2 * float(stdtr(freedom, -abs(difference) / math.sqrt(variance)))
        if users >= MIN_USERS:
            low, high = difference - half, difference + half
    return SeedComparison(
        metric=metric,
        name_a=name_a,
        name_b=name_b,
        mean_a=means[0],
        mean_b=means[1],
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        level=level,
        users=users,
        seeds_a=len(runs_a),
        seeds_b=len(runs_b),
        error_users=math.sqrt(of_users),
        error_seeds=math.sqrt(of_seeds),
    )


def student_quantile(level: float, freedom: float) -> float:
    """The t for which Student's distribution with these degrees of freedom has the probability `level` in -t to t."""
    return float(stdtrit(freedom, (1 + level) / 2))


def _of_seeds(values: Floats) -> tuple[float, float]:
    """Of ``[S, U]`` values: the variance of their mean over seeds, and the part of it that is not of the seeds."""
    seeds, users = values.shape
    means = values.mean(axis=1)
    rest = values - values.mean(axis=0) - means[:, None] + values.mean()
    square = float((rest**2).sum()) / ((seeds - 1) * (users - 1))
    return float(means.var(ddof=1)) / seeds, square / (users * seeds)
