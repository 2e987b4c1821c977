"""The predicted item: the highest score of each token, the lowest id among equals."""

import pytest
import torch
from kernel_cases import DEVICES

from cce_kernels import linear_cross_entropy
from cce_kernels.full import tuning
from cce_kernels.full.call import FullCall
from cce_kernels.full.small_impl import full_small

M, V, D = 18, 45, 20  # three tiles of items in the interpreter, the last one ragged
pytestmark = pytest.mark.usefixtures("bf16_of_hardware")


def integers(device, dtype, peak=1.0):
    """Vectors of few integers, so that scores are exact and many are equal, and targets of every kind."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randint(-1, 2, (rows, D), generator=generator).to(device, dtype) for rows in (M, V))
    weight[V - 1] = weight[2]
    hidden[0] = weight[2]
    bias = torch.randint(-1, 2, (V,), generator=generator).to(device, torch.float32)
    targets = torch.randint(0, V, (M,), generator=generator).to(device)
    targets[3], targets[4] = -100, V
    leaves = [(hidden * peak).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    return leaves, targets


def expected(scores):
    return [row.index(max(row)) for row in scores.tolist()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("impl", "dtype", "splits", "peak"),
    [
        ("triton", torch.float32, 1, 1.0),
        ("triton", torch.bfloat16, 1, 64.0),  # so high that sums are computed again
        ("triton", torch.float16, 3, 1.0),
        ("reference", torch.float64, 1, 1.0),
    ],
    ids=str,
)
def test_the_highest_score_and_the_lowest_id(device, impl, dtype, splits, peak, monkeypatch):
    monkeypatch.setattr(tuning, "full_splits", lambda *_: splits)
    (hidden, weight, bias), targets = integers(device, dtype, peak)
    options = {"bias": bias, "softcap": 1e4, "temperature": 2.0, "impl": impl}
    loss, lse, predicted = linear_cross_entropy(
        hidden.view(3, 6, D), weight, targets.view(3, 6), return_lse=True, return_predicted=True, **options
    )
    assert predicted.shape == (3, 6)
    scores = (hidden.double() @ weight.double().T + bias.double()).detach()
    assert predicted.flatten().tolist() == expected(scores)
    plain = linear_cross_entropy(hidden, weight, targets, **options)
    torch.testing.assert_close(loss, plain, rtol=0, atol=0, equal_nan=True)
    counted = lse.flatten()[:3].sum()
    torch.testing.assert_close(
        counted, linear_cross_entropy(hidden, weight, targets, return_lse=True, **options)[1][:3].sum()
    )
    assert torch.autograd.grad(counted, hidden)[0].isfinite()[:3].all()


@pytest.mark.parametrize("device", DEVICES)
def test_scores_that_are_stored(device):
    (hidden, weight, _), targets = integers(device, torch.bfloat16)
    call = FullCall(hidden, weight, None, targets, -100, None, 1.0, None, True, True)
    assert full_small(call, "none")[2].tolist() == expected((hidden.double() @ weight.double().T).detach())
