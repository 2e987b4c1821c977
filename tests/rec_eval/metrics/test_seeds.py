"""Two settings over several seeds: the variance by hand, its parts, and the coverage of the interval."""

import math

import numpy as np
import pytest

from rec_eval import Evaluation, compare_seeds


def runs_of(values: np.ndarray) -> list[Evaluation]:
    """One run per row."""
    return [Evaluation((10,), {"ndcg@10": row}, {}, row.size, 0, 0) for row in values]


def test_by_hand():
    """Seed means 1, 2 and 4, 6; the rest is 0, so that users do not differ in their differences."""
    users = np.tile([0.0, 0.5, -0.5], 10)
    found = compare_seeds(runs_of(users + np.array([[1.0], [2.0]])), runs_of(users + np.array([[4.0], [6.0]])))
    assert (found.mean_a, found.mean_b, found.difference) == pytest.approx((1.5, 5.0, 3.5))
    # Variances of two values 1 and 2 apart: 1/2 and 2, each over 2 seeds.
    assert (found.error_users, found.error_seeds) == pytest.approx((0.0, math.sqrt(1.25)))
    freedom = 1.25**2 / (0.25**2 + 1.0**2)  # Satterthwaite, one degree each: 1.47
    assert 12.71 > (found.high - found.difference) / math.sqrt(1.25) > 4.30  # Student's t of 1 and of 2 degrees
    assert 1 < freedom < 2
    assert not found.different


def test_without_an_effect_of_seeds_the_error_is_that_of_users():
    generator = np.random.default_rng(0)
    users = generator.random(400)
    gain = generator.normal(0.1, 0.2, 400)
    found = compare_seeds(runs_of(np.stack([users, users])), runs_of(np.stack([users + gain, users + gain])))
    assert found.error_seeds == 0
    assert found.error_users == pytest.approx(gain.std(ddof=1) / 20)
    assert (found.low, found.high) == pytest.approx(
        (gain.mean() - 1.966 * found.error_users, gain.mean() + 1.966 * found.error_users), rel=1e-3
    )
    assert found.sentence.startswith("A (2 seeds) has ndcg@10")
    assert "B (2 seeds) is better by" in found.sentence
    unseen = "(that of the seeds is too small to be seen with 2 and 2 of them)"
    assert found.sentence.endswith(f"error {found.error_users:.4f} from 400 users {unseen}.")


def test_the_interval_covers_where_that_of_users_alone_does_not():
    """Equal settings whose seeds matter: 300 trials, four standard errors around 95 %."""
    generator = np.random.default_rng(1)
    held = alone = 0
    for _ in range(300):
        users = generator.normal(size=200)

        def runs(users: np.ndarray = users) -> list[Evaluation]:
            return runs_of(users + generator.normal(size=(3, 200)) + 0.1 * generator.normal(size=(3, 1)))

        found = compare_seeds(runs(), runs())
        held += found.low <= 0 <= found.high
        alone += abs(found.difference) <= 1.96 * found.error_users
    assert abs(held / 300 - 0.95) < 4 * math.sqrt(0.05 * 0.95 / 300)
    assert alone / 300 < 0.85


def test_several_lists_of_a_user_are_one_value():
    values = np.random.default_rng(3).random((4, 80))
    ids = np.repeat(np.arange(40), 2)
    lists = [Evaluation((10,), {"ndcg@10": row}, {}, 40, 0, 0, user_ids=ids) for row in values]
    means = runs_of(values.reshape(4, 40, 2).mean(axis=2))
    assert compare_seeds(lists[:2], lists[2:]) == pytest.approx(compare_seeds(means[:2], means[2:]))


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (np.ones((1, 40)), np.ones((2, 40)), {}, "A: found 1 run, allowed: at least 2"),
        (np.ones((2, 40)), np.ones((2, 41)), {}, "the same users"),
        (np.ones((2, 40)), np.ones((2, 40)), {"metric": "mrr@10"}, "a run of A has no mrr@10"),
        (np.full((2, 40), np.nan), np.ones((2, 40)), {}, "found 0 users"),
        (np.ones((2, 40)), np.ones((2, 40)), {"level": 1.0}, "level: found"),
    ],
)
def test_what_cannot_be_compared_is_named(a: np.ndarray, b: np.ndarray, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        compare_seeds(runs_of(a), runs_of(b), **options)


def test_too_few_users_and_equal_values_have_no_interval():
    few = np.random.default_rng(2).random((4, 29))
    assert math.isnan(compare_seeds(runs_of(few[:2]), runs_of(few[2:])).low)
    equal = compare_seeds(runs_of(np.ones((2, 40))), runs_of(np.ones((2, 40))))
    assert (equal.difference, equal.p_value, math.isnan(equal.low)) == (0.0, 1.0, True)
    assert "cannot be told apart" in equal.sentence
