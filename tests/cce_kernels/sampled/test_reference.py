"""The sampled reference against a loop over tokens, in float64."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from cce_kernels import (
    BCE,
    GBCE,
    InBatch,
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


def sampler_share(sampler, targets):
    """The q that corrects the scores, or None."""
    if isinstance(sampler, Popularity) and sampler.logq is None:
        return COUNTS.double() ** sampler.alpha / (COUNTS.double() ** sampler.alpha).sum()
    return torch.bincount(targets, minlength=V) / M if isinstance(sampler, InBatch) else None


@pytest.mark.parametrize("objective", [Softmax(), BCE(), GBCE(0.5)], ids=str)
@pytest.mark.parametrize(
    "sampler",
    [Uniform(), Popularity(COUNTS, 0.7), Popularity(COUNTS, logq=False), InBatch()],
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
