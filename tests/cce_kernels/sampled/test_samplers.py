"""Distributions of the draws, alias tables, and that streams do not overlap."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cce_kernels import (
    InBatch,
    Mixed,
    Popularity,
    Uniform,
    draw_negatives,
    linear_cross_entropy,
    sampled_linear_cross_entropy,
)
from cce_kernels.sampled.samplers import build_alias_table


def table_distribution(table):
    """The distribution that an alias table draws from, exactly."""
    size = table.numel()
    threshold = (table & 0xFFFFFFFF).double() / 2**32
    q = threshold.clone()
    q.index_add_(0, table >> 32, 1 - threshold)
    return q / size


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60).filter(lambda weights: sum(weights) > 0))
@settings(max_examples=60, deadline=None)
def test_alias_table_holds_the_distribution(weights):
    q = torch.tensor(weights, dtype=torch.float64)
    q /= q.sum()
    table = build_alias_table(q)
    torch.testing.assert_close(table_distribution(table), q, rtol=0, atol=2e-9)
    assert (table_distribution(table)[q == 0] == 0).all()


def test_alias_table_of_a_large_skewed_catalogue():
    q = 1 / torch.arange(1, 300_001, dtype=torch.float64) ** 1.2
    q /= q.sum()
    torch.testing.assert_close(table_distribution(build_alias_table(q)), q, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
@pytest.mark.parametrize("name", ["uniform", "popularity", "in_batch"])
def test_draws_follow_q(name, sharing):
    items = 30
    counts = torch.arange(items)
    targets = torch.randint(0, items, (640,), generator=torch.Generator().manual_seed(0))
    sampler = {"uniform": Uniform(), "popularity": Popularity(counts, 0.5), "in_batch": InBatch()}[name]
    q = {
        "uniform": torch.ones(items),
        "popularity": counts.double() ** 0.5,
        "in_batch": torch.bincount(targets, minlength=items),
    }[name].double()
    q /= q.sum()
    seen = torch.zeros(items, dtype=torch.float64)
    draws = 0
    for step in range(64 if sharing == "batch" else 8):
        ids = draw_negatives(
            640, items, num_negatives=400, seed=11, step=step, sharing=sharing, sampler=sampler,
            targets=targets if name == "in_batch" else None,
        )  # fmt: skip
        assert ids.shape == (640, 400)
        independent = ids[:: {"none": 1, "tile": 64, "batch": 640}[sharing]]
        seen += torch.bincount(independent.flatten(), minlength=items)
        draws += independent.numel()
    expected = q * draws
    drawn = expected > 0
    assert (seen[~drawn] == 0).all()
    statistic = float(((seen - expected)[drawn] ** 2 / expected[drawn]).sum())
    freedom = int(drawn.sum()) - 1
    # The statistic has mean `freedom` and standard deviation sqrt(2 freedom): 5 of them on either side.
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("share", [0.2, 0.75])
@pytest.mark.parametrize("others", [Uniform(), Popularity(torch.arange(30), 0.5)], ids=lambda s: type(s).__name__)
def test_mixed_draws_follow_the_mixture(others, share):
    targets = torch.randint(0, 12, (640,), generator=torch.Generator().manual_seed(0))
    q = torch.ones(30, dtype=torch.float64) if isinstance(others, Uniform) else torch.arange(30).double() ** 0.5
    q = share * q / q.sum() + (1 - share) * torch.bincount(targets, minlength=30) / 640
    seen = torch.zeros(30, dtype=torch.float64)
    for step in range(8):
        ids = draw_negatives(
            640, 30, num_negatives=400, seed=11, step=step, sharing="tile", sampler=Mixed(others=others, share=share),
            targets=targets,
        )  # fmt: skip
        seen += torch.bincount(ids[::64].flatten(), minlength=30)
    expected = q * 8 * 10 * 400
    drawn = expected > 0
    assert (seen[~drawn] == 0).all()
    statistic = float(((seen - expected)[drawn] ** 2 / expected[drawn]).sum())
    freedom = int(drawn.sum()) - 1
    # As above. A step's 4,000 draws share its items, of which there are at least 2^15 * share: a tenth more variance.
    assert abs(statistic - freedom) < 5 * (2 * 1.1 * freedom) ** 0.5


def test_mixed_draws_for_parts_of_a_batch_what_it_draws_for_the_whole():
    """With the targets of all parts, as ranks give them: places without one do not change what is drawn among."""
    targets = torch.arange(10)
    options = {"num_negatives": 50, "seed": 1, "step": 3}
    whole = draw_negatives(10, 1000, targets=targets, sampler=Mixed(), **options)
    assert ((whole < 10).sum() > 150) & ((whole >= 10).sum() > 150)
    pool = torch.cat((targets[:4], torch.full((3,), -100), targets[4:], torch.full((3,), -100)))
    for part in (slice(0, 4), slice(4, 10)):
        ids = draw_negatives(
            part.stop - part.start, 1000, targets=targets[part], row_offset=part.start, sampler=Mixed(pool=pool),
            **options,
        )  # fmt: skip
        assert torch.equal(ids, whole[part])


def test_who_shares():
    ids = draw_negatives(10, 1000, num_negatives=4, seed=1, sharing="tile", tile_tokens=4, row_offset=2)
    # Rows 2 .. 11 of the large batch: tiles are rows 0-3, 4-7 and 8-11.
    assert (ids[0] == ids[1]).all()
    assert (ids[2] == ids[2:6]).all()
    assert (ids[6] == ids[6:]).all()
    assert not (ids[1] == ids[2]).all()


def test_a_batch_shares_one_set_on_every_rank():
    options = {"num_negatives": 4, "seed": 1, "sharing": "batch"}
    batch = draw_negatives(130, 1000, **options)  # three of the groups of 64 that are worked on together
    assert (batch == batch[0]).all()
    assert (draw_negatives(130, 1000, row_offset=130, **options) == batch[0]).all()
    assert not (draw_negatives(130, 1000, step=1, **options)[0] == batch[0]).all()


def test_in_batch_draws_among_the_targets_of_the_call():
    targets = torch.arange(10)
    options = {"num_negatives": 50, "seed": 1, "sampler": InBatch()}
    for part in (slice(0, 5), slice(5, 10), slice(0, 10)):
        own = targets[part]
        ids = draw_negatives(len(own), 10, targets=own, row_offset=part.start, **options)
        assert torch.equal(ids.unique(), own)


def test_streams_do_not_overlap():
    """Ids of a huge catalogue are as good as the random words themselves: none may occur twice."""
    items = 2**31 - 1
    rows = [
        draw_negatives(50, items, num_negatives=40, seed=seed, step=step, row_offset=offset).flatten()
        for seed in (0, 1) for step in (0, 1, 2**32 - 1) for offset in (0, 50, 2**31)
    ]  # fmt: skip
    ids = torch.cat(rows)
    repeated = ids.numel() - ids.unique().numel()
    # 36,000 draws from 2^31 collide 0.3 times on average; one repeated stream would be 2,000 collisions.
    assert repeated < 10


def test_sampled_gradient_approaches_the_full_one():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(40, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 40, (8,), generator=generator)
    (exact,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets), weight)
    counts = torch.randint(1, 9, (40,), generator=generator)
    for sampler in (Uniform(), Popularity(counts), Mixed()):
        errors = []
        for negatives in (8, 128, 2048):
            mean = torch.zeros_like(exact)
            for step in range(20):
                loss = sampled_linear_cross_entropy(
                    hidden,
                    weight,
                    targets,
                    num_negatives=negatives,
                    seed=2,
                    step=step,
                    sampler=sampler,
                )
                mean += torch.autograd.grad(loss, weight)[0] / 20
            errors.append(float((mean - exact).norm() / exact.norm()))
        assert errors[2] < errors[1] < errors[0]
        assert errors[2] < 0.02
