"""The log-sum-exp over a target and its corrected negatives, and the gradient through it."""

import math

import pytest
import torch
from kernel_cases import DEVICES

from cce_kernels import BCE, Popularity, Softmax, draw_negatives, linear_cross_entropy, sampled_linear_cross_entropy

M, V, D, N = 4, 6, 16, 3
COUNTS = torch.arange(1, V + 1)
pytestmark = pytest.mark.usefixtures("bf16_of_hardware")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("impl", "dtype"), [("triton", torch.float32), ("reference", torch.float64)])
@pytest.mark.parametrize("sharing", ["none", "tile"])
def test_the_log_sum_exp_and_its_gradient_match_float64(device, impl, dtype, sharing):
    """Alone, added to the loss, and less the loss, which leaves the score of the target."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((M, D), (V, D)))
    leaves = [x.to(device).requires_grad_() for x in (hidden, weight)]
    targets = torch.randint(0, V, (M,), generator=generator).to(device)
    targets[2] = -100
    options = {
        "num_negatives": N, "seed": torch.tensor(3, device=device), "sharing": sharing,
        "sampler": Popularity(COUNTS.to(device), 0.5),
    }  # fmt: skip
    temperature = 0.7
    exact = [x.detach().double().requires_grad_() for x in leaves]
    ids, safe = draw_negatives(M, V, **options), targets.clamp(min=0)
    q = COUNTS.to(device).double().sqrt() / COUNTS.double().sqrt().sum()
    positive = (exact[0] * exact[1][safe]).sum(1) / temperature
    kept = ids != safe[:, None]
    correction = (1 - q[safe])[:, None] / (kept.sum(1, keepdim=True) * q[ids])
    scores = torch.einsum("md,mnd->mn", exact[0], exact[1][ids]) / temperature + correction.log()
    scores = scores.masked_fill(~kept, -torch.inf)
    truth = torch.where(targets >= 0, torch.cat((positive[:, None], scores), 1).logsumexp(1), 0)
    counted = targets >= 0
    losses = torch.where(counted, truth - positive, 0)

    loss, lse = sampled_linear_cross_entropy(
        *leaves, targets, objective=Softmax(temperature), impl=impl, return_lse=True, **options
    )
    bound = (M * N + D) * torch.finfo(dtype).eps * math.ceil(float(scores.detach().nan_to_num(neginf=0).abs().max()))
    if dtype == torch.float64:
        bound = max(bound, 8 * 2.0**-24)  # log q is fp32
    torch.testing.assert_close(lse.double(), truth, rtol=0, atol=bound)
    for ours, theirs in (
        (lse.mean(), truth.mean()),
        (loss + 0.1 * lse.square().mean(), losses.sum() / counted.sum() + 0.1 * truth.square().mean()),
        (lse.sum() - loss * counted.sum(), torch.where(counted, positive, 0).sum()),
    ):
        pairs = (torch.autograd.grad(x, y, retain_graph=True) for x, y in ((ours, leaves), (theirs, exact)))
        for gradient, expected in zip(*pairs, strict=True):
            torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=bound * float(expected.abs().max()))


def test_with_a_single_other_item_it_is_the_exact_loss_with_label_smoothing_too():
    """Every draw but the hits is the other of two items, and N draws are corrected to one."""
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(rows, D, generator=generator, dtype=torch.float64) for rows in (M, 2))
    leaves = [x.requires_grad_() for x in (hidden, weight)]
    targets = torch.tensor([0, 1, 1, 0])
    loss, lse = sampled_linear_cross_entropy(
        *leaves, targets, num_negatives=40, seed=1, reduction="none", return_lse=True
    )
    smoothed = (0.8 * loss + 0.2 * (lse - hidden @ weight.mean(0))).mean()
    exact, exact_lse = linear_cross_entropy(*leaves, targets, label_smoothing=0.2, return_lse=True)
    torch.testing.assert_close((smoothed, lse), (exact, exact_lse))
    torch.testing.assert_close(*(torch.autograd.grad(x, leaves) for x in (smoothed, exact)))


@pytest.mark.parametrize("impl", ["triton", "reference"])
def test_tokens_that_do_not_count_have_none(impl):
    hidden, weight = torch.ones(3, D, requires_grad=True), torch.ones(V, D, requires_grad=True)
    _, lse = sampled_linear_cross_entropy(
        hidden, weight, torch.tensor([1, -100, V]), num_negatives=N, seed=1, impl=impl, return_lse=True
    )
    torch.testing.assert_close(lse, torch.tensor([D + math.log(V), 0.0, torch.nan]), equal_nan=True)
    dhidden, dweight = torch.autograd.grad(lse[:2].sum(), (hidden, weight))
    torch.testing.assert_close(dhidden[:2], torch.tensor([[1.0], [0.0]]).expand(2, D))
    assert dhidden[2].isnan().all()
    torch.testing.assert_close(dweight.sum(0), torch.ones(D))


def test_a_loss_without_a_softmax_has_none():
    inputs = torch.ones(3, D), torch.ones(V, D), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="return_lse: found True with BCE, allowed: with Softmax only"):
        sampled_linear_cross_entropy(*inputs, num_negatives=N, seed=1, objective=BCE(), return_lse=True)
