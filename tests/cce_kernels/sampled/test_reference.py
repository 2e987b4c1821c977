"""The sampled reference against a loop over tokens, in float64."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from cce_kernels import (
    BCE,
    GBCE,
    InBatch,
    Mixed,
    Popularity,
    Softmax,
    Uniform,
    draw_negatives,
    sampled_linear_cross_entropy,
)

M, V, D, N = 23, 17, 6, 9
COUNTS = torch.tensor([0, 3, 1, 8, 2, 2, 5, 1, 1, 9, 0, 4, 4, 2, 7, 1, 3])


def naive(hidden, weight, targets, bias, ids, objective, q):
    """One token after the other, straight from the definitions."""
    scores = hidden @ weight.T + bias
    losses = []
    for m, target in enumerate(targets.tolist()):
        kept = ids[m][ids[m] != target]
        positive, negative = scores[m, target], scores[m, kept]
        if isinstance(objective, Softmax):
            if q is None:
                corrected = negative + math.log((V - 1) / max(len(kept), 1))
            else:
                corrected = negative - torch.log(len(kept) * q[kept] / (1 - q[target]))
            losses.append(torch.logsumexp(torch.cat((positive[None], corrected)), 0) - positive)
            continue
        beta, scale = 1.0, 1.0
        if isinstance(objective, GBCE):
            rate = N / (V - 1)
            beta, scale = rate * (objective.t * (1 - 1 / rate) + 1 / rate), 1 / (N + 1)
        losses.append(-scale * (beta * logsigmoid(positive) + logsigmoid(-negative).sum()))
    return torch.stack(losses)


@pytest.mark.parametrize("objective", [BCE(), GBCE(0.5)], ids=str)
def test_float64_keeps_what_a_softplus_adds_to_a_large_score(objective):
    """At a score of 20 it is 2e-9; the target, of score -20, adds the same."""
    hidden, weight = torch.full((1, 1), 20.5, dtype=torch.float64), torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    options = {"num_negatives": 1, "seed": 1, "sampler": Popularity(torch.tensor([0, 1]), logq=False)}
    loss = sampled_linear_cross_entropy(
        hidden, weight, torch.zeros(1, dtype=torch.int64), objective=objective, **options
    )
    scale = 1.0 if isinstance(objective, BCE) else 0.5  # one negative and two items: beta is 1
    expected = 2 * scale * (20.5 + math.log1p(math.exp(-20.5)))
    assert abs(loss.item() - expected) <= 4 * 2.0**-53 * expected


@pytest.mark.parametrize("sampler", [Popularity(COUNTS, 0.7), InBatch(), Mixed()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("sharing", ["none", "tile"])
def test_logq_has_the_gradient_of_the_corrected_logq_correction(sampler, sharing):
    """Khrylchenko et al., RecSys 2025 (arXiv 2507.09331): the positive is not sampled and takes no part in log q.

    Its loss is `-sg(1 - P_t) log(e^s_t / sum_n e^(s_n - log q'_n))`, with `q'_n = q_n / (1 - q_t)` over the negatives
    that are not the target, and `P_t = e^s_t / (e^s_t + mean_n e^(s_n - log q'_n))`.
    """
    generator = torch.Generator().manual_seed(0)
    leaves = hidden, weight = [
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((M, D), (V, D))
    ]
    targets = torch.randint(0, V, (M,), generator=generator)
    options = {"num_negatives": N, "seed": 5, "sampler": sampler, "sharing": sharing}
    ids = draw_negatives(M, V, targets=targets if isinstance(sampler, InBatch) else None, **options)
    q = sampler_share(sampler, targets).double()
    losses = []
    for m, target in enumerate(targets.tolist()):
        kept = ids[m][ids[m] != target]
        positive, negative = hidden[m] @ weight[target], weight[kept] @ hidden[m]
        rest = torch.logsumexp(negative - torch.log(q[kept] / (1 - q[target])), 0)
        wrong = torch.sigmoid(rest - math.log(len(kept)) - positive).detach()  # 1 - P_t
        losses.append(wrong * (rest - positive))
    expected = torch.autograd.grad(torch.stack(losses).mean(), leaves)
    loss = sampled_linear_cross_entropy(hidden, weight, targets, **options)
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), expected, strict=True):
        # log q and log(1 - q) are fp32, each below 8: off by up to 2^-22, and a probability by as much of itself.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2 * 2.0**-22 * float(theirs.abs().max()))


def sampler_share(sampler, targets):
    """The q that corrects the scores, or None."""
    if isinstance(sampler, Popularity) and sampler.logq is None:
        return COUNTS.double() ** sampler.alpha / (COUNTS.double() ** sampler.alpha).sum()
    if not isinstance(sampler, InBatch):
        return None
    batch = torch.bincount(targets, minlength=V).double() / M
    if not isinstance(sampler, Mixed):
        return batch
    others = 1 / V if isinstance(sampler.others, Uniform) else sampler_share(sampler.others, targets)
    return (1 - sampler.share) * batch + sampler.share * others


def test_mixed_negatives_by_hand():
    """Tokens with the targets 0, 1, 1 and 2 of four items, half of the draws uniform: q = (2, 3, 2, 1) / 8.

    All scores are 0, so a negative n of a token with the target t adds (1 - q_t) / (N_m q_n) to the sum beside e^0.
    """
    targets = torch.tensor([0, 1, 1, 2])
    zeros = torch.zeros(4, 2, dtype=torch.float64)
    options = {"num_negatives": 7, "seed": 3, "sampler": Mixed(share=0.5)}
    loss = sampled_linear_cross_entropy(zeros, zeros, targets, reduction="none", **options)
    inverse = {0: 8 / 2, 1: 8 / 3, 2: 8 / 2, 3: 8 / 1}
    rest = {0: 6 / 8, 1: 5 / 8, 2: 6 / 8}
    expected = []
    for target, ids in zip(targets.tolist(), draw_negatives(4, 4, targets=targets, **options).tolist(), strict=True):
        kept = [item for item in ids if item != target]
        expected.append(math.log(1 + rest[target] * sum(inverse[item] for item in kept) / len(kept)))
    # q is exact; log q and log(1 - q) are fp32 numbers below 4.
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2.0**-22)


@pytest.mark.parametrize("objective", [Softmax(), BCE(), GBCE(0.5)], ids=str)
@pytest.mark.parametrize(
    "sampler",
    [
        Uniform(),
        Popularity(COUNTS, 0.7),
        Popularity(COUNTS, logq=False),
        InBatch(),
        Mixed(others=Popularity(COUNTS, 0.7), share=0.8),
    ],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize(
    ("sharing", "tile", "offset"), [("none", 64, 0), ("none", 64, 5), ("tile", 5, 3), ("tile", 64, 0), ("batch", 64, 0)]
)
def test_loss_and_gradients_equal_the_definition(objective, sampler, sharing, tile, offset):
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((M, D), (V, D), (V,))
    )
    targets = torch.randint(0, V, (M,), generator=generator)
    upstream = torch.rand(M, generator=generator, dtype=torch.float64)
    options = {
        "num_negatives": N, "seed": 5, "step": 2, "row_offset": offset, "sampler": sampler, "sharing": sharing,
        "tile_tokens": tile,
    }  # fmt: skip
    ids = draw_negatives(M, V, targets=targets if isinstance(sampler, InBatch) else None, **options)
    expected = naive(hidden, weight, targets, bias, ids, objective, sampler_share(sampler, targets))
    got = sampled_linear_cross_entropy(
        hidden, weight, targets, bias=bias, objective=objective, reduction="none", **options
    )
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)  # log q is held in fp32
    leaves = (hidden, weight, bias)
    for ours, theirs in zip(
        torch.autograd.grad((got * upstream).sum(), leaves),
        torch.autograd.grad((expected * upstream).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
