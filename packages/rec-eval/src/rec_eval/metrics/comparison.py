"""Compare two runs user by user: a permutation test of their difference, and an interval by inversion of the test.

If the two runs were interchangeable, each user's difference could as well have the other sign. The test flips signs at
random and asks how often the sum is as large as the one found (Fisher, "The Design of Experiments", 1935, section 21;
for rankings: Smucker, Allan and Carterette, "A comparison of statistical significance tests for information retrieval
evaluation", CIKM 2007). Users without a difference do not matter. Signs whose sum is as large as the one found count
half, because few differing hits have few different sums: for hits this is the mid-p version of McNemar's test, whose
size is closer to its level than that of the exact one (Fagerland, Lydersen and Laake, "The McNemar test for binary
matched-pairs data: mid-p and asymptotic are better than exact conditional", BMC Medical Research Methodology 13, 2013).
"""

import math
from typing import NamedTuple

import numpy as np

from rec_eval.metrics.evaluate import Evaluation
from rec_eval.metrics.hits import Floats
from rec_eval.metrics.intervals import MIN_USERS, normal_quantile

MIN_DIFFERING = 10
"""With fewer users of different values in both runs there is no interval."""
MAX_FLIPPED = 4096
"""With more differing users, the sum of flipped differences is taken as normal."""
_CELLS_PER_BLOCK = 1 << 20


class Comparison(NamedTuple):
    """The change of one metric from run A to run B over the users of both; positive means that B is higher.

    low and high are NaN with too few users.
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
    differing: int
    resamples: int

    @property
    def different(self) -> bool:
        """Whether the test rejects, at the interval's level, that there is no difference."""
        return self.p_value < 1 - self.level

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        against = f"{self.name_a} has {self.metric} {self.mean_a:.4f}, {self.name_b} {self.mean_b:.4f}"
        share = f" ({self.difference / self.mean_a:+.1%})" if self.mean_a else ""
        at_least = "p <" if self.p_value == 0.5 / (self.resamples + 1) else "p ="
        interval = f"{self.level:.0%} interval {self.low:+.4f} to {self.high:+.4f}"
        if math.isnan(self.low):
            interval = f"too few users ({self.differing:,} of them differ) for an interval"
        evidence = f"{interval}, {at_least} {self.p_value:.2g}, permutation test over {self.users:,} users"
        if not self.different:
            change = f"from {self.name_a} to {self.name_b} {self.difference:+.4f}{share}"
            return f"{against}; they cannot be told apart: {change}, {evidence}."
        side = "better" if self.difference > 0 else "worse"
        if self.metric.startswith("surprisal"):
            side = "higher" if self.difference > 0 else "lower"
        return f"{against}: {self.name_b} is {side} by {abs(self.difference):.4f}{share}, {evidence}."


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
    """Compare two runs on the same users: difference B - A, interval, p-value of a permutation test, one sentence.

    The sign is that of ``dvc metrics diff A B``. Comparing many metrics or runs needs a stricter level (Bonferroni:
    divide ``1 - level`` by their number).

    The interval holds the shifts of all differences that the test does not reject, where the sum of flipped
    differences is taken as normal: ``mean +- z s / sqrt(U - z**2)`` with the standard deviation s. It holds 0 if the
    test by random signs does not reject 0. With fewer than `MIN_USERS` users or `MIN_DIFFERING` that differ there is
    no interval.

    Args:
        run_a: the baseline.
        run_b: the other run.
        metric: a key of ``per_user``.
        name_a: of run A, for the sentence.
        name_b: of run B.
        level: nominal coverage of the interval.
        resamples: number of random signs per user, at least 100; the p-value is at least ``0.5 / (resamples + 1)``.
        seed: equal seeds give equal p-values.

    Raises:
        ValueError: a run lacks the metric, the users differ, fewer than two have a value in both, or an option is out
            of range.
    """
    for name, run in ((name_a, run_a), (name_b, run_b)):
        if metric not in run.per_user:
            raise ValueError(f"{name} has no {metric} per user; it has {', '.join(run.per_user)}")
    values_a, values_b = run_a.per_user[metric], run_b.per_user[metric]
    if values_a.size != values_b.size:
        raise ValueError(f"both runs must rank the same users: {name_a} has {values_a.size}, {name_b} {values_b.size}")
    if run_a.user_ids is not None and run_b.user_ids is not None and (run_a.user_ids != run_b.user_ids).any():
        raise ValueError(f"both runs must rank the same users in the same order: ids of {name_a} and {name_b} differ")
    known = ~(np.isnan(values_a) | np.isnan(values_b))
    values_a, values_b = (run_a.user_means(np.where(known, values, np.nan)) for values in (values_a, values_b))
    both = ~np.isnan(values_a)
    if not both.any():
        raise ValueError("found no user with a value in both runs, allowed: at least 1")
    differences = values_b[both] - values_a[both]
    users, differing = differences.size, int(np.count_nonzero(differences))
    p_value = sign_flip_p_value(differences, resamples, seed)
    mean, low, high = float(differences.mean()), math.nan, math.nan
    z = normal_quantile(level)
    if users >= MIN_USERS and differing >= MIN_DIFFERING:
        half = z * float(differences.std()) / math.sqrt(users - z**2)
        low, high = mean - half, mean + half
        if p_value >= 1 - level:
            low, high = min(low, 0.0), max(high, 0.0)
    return Comparison(
        metric=metric,
        name_a=name_a,
        name_b=name_b,
        mean_a=float(values_a[both].mean()),
        mean_b=float(values_b[both].mean()),
        difference=mean,
        low=low,
        high=high,
        p_value=p_value,
        level=level,
        users=users,
        differing=differing,
        resamples=resamples,
    )


def sign_flip_p_value(differences: Floats, resamples: int, seed: int) -> float:
    """Two-sided mid-p-value of the sum of ``[U]`` differences under random signs, those found counted as one sample.

    Raises:
        ValueError: fewer than 100 resamples.
    """
    if resamples < 100:
        raise ValueError(f"resamples: found {resamples}, allowed: at least 100")
    changed = differences[differences != 0]
    total = abs(float(changed.sum()))
    if changed.size == 0:
        return 1.0
    if changed.size > MAX_FLIPPED:
        return max(math.erfc(total / math.sqrt(2 * float(changed @ changed))), 0.5 / (resamples + 1))
    generator = np.random.default_rng(seed)
    sizes, counts = np.unique(np.abs(changed), return_counts=True)
    step = max(1, _CELLS_PER_BLOCK // sizes.size)
    rounding = 1e-9 * float(np.abs(changed).sum())  # of sums in another order
    larger, equal = 0, 1  # the signs found
    for start in range(0, resamples, step):
        positive = generator.binomial(counts, 0.5, size=(min(step, resamples - start), sizes.size))
        sums = np.abs((2 * positive - counts) @ sizes)
        larger += int((sums > total + rounding).sum())
        equal += int((np.abs(sums - total) <= rounding).sum())
    return (larger + equal / 2) / (resamples + 1)
