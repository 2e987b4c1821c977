"""The full loss from scores that exist, against float64: its kernels in the interpreter, all of it on a GPU."""

import pytest
import torch
from full_cases import Case, errors, make, score_size, truth_of, worst_row
from kernel_cases import DEVICES
from rounding import UNIT, allowed_error, allowed_row_error

from cce_kernels import linear_cross_entropy
from cce_kernels.full import tuning
from cce_kernels.full.call import FullCall
from cce_kernels.full.small_impl import full_small

BF16, FP32 = torch.bfloat16, torch.float32
pytestmark = pytest.mark.usefixtures("bf16_of_hardware")


def losses(inputs, temperature=1.0):
    call = FullCall(
        inputs.hidden, inputs.weight, None, inputs.targets, inputs.ignore_index, None, temperature, None, True
    )
    return full_small(call, "none")[:2]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "case",
    [
        Case(1, 2, 16, BF16),
        Case(34, 33, 64, BF16, per_token=True),
        Case(17, 5000, 16, BF16, weight_dtype=FP32, scores="peaked"),
        Case(34, 20, 100, BF16, scores="fitted", ignore_index=0),
        Case(70, 1030, 256, BF16, scores="fitted", per_token=True),
    ],
    ids=str,
)
def test_small_batches(device, case):
    inputs = make(case, device)
    loss, lse = losses(inputs)
    pulls = torch.linspace(-0.5, 0.5, case.tokens, device=device) * (inputs.targets != case.ignore_index)
    gradients = torch.autograd.grad((loss * inputs.grad).sum(), inputs.leaves(), retain_graph=True)
    truth = truth_of(inputs)
    sizes = score_size(inputs), case.dim, max(case.items, case.tokens), device
    for name, error in errors([loss, *gradients], truth).items():
        assert error <= allowed_error(*sizes, FP32 if name == "loss" else BF16), (name, error)
    if case.scores == "fitted":
        assert worst_row(loss, truth[0]) <= allowed_row_error(*sizes)
        # The coefficient of the target is rounded to 16 bits too, as in eager torch: one unit more.
        assert worst_row(gradients[0], truth[1]) <= allowed_row_error(*sizes, BF16) + UNIT[BF16]
    exact = [x.detach().to(BF16).double().requires_grad_() for x in inputs.leaves()]
    true_lse = (exact[0] @ exact[1].T).logsumexp(1)
    found = torch.autograd.grad((lse * pulls).sum(), inputs.leaves())
    for x, y in zip(found, torch.autograd.grad((true_lse * pulls).sum(), exact), strict=True):
        assert (x.double() - y).norm() <= allowed_error(*sizes, BF16) * y.norm()


@pytest.mark.parametrize("device", DEVICES)
def test_temperature_and_targets_that_do_not_count(device):
    inputs = make(Case(9, 20, 16, BF16, per_token=True), device)
    inputs.targets.copy_(torch.tensor([3, 3, -7, 1, 20, -100, 2**40, 19, 0]))
    loss, lse = losses(inputs, temperature=0.5)
    invalid, good = torch.tensor([2, 4, 6], device=device), torch.tensor([0, 1, 3, 7, 8], device=device)
    assert loss[invalid].isnan().all()
    assert lse[invalid].isnan().all()
    assert loss[5] == lse[5] == 0
    d_hidden, d_weight = torch.autograd.grad((loss * inputs.grad).sum(), inputs.leaves())
    assert d_hidden[invalid].isnan().all()
    assert (d_hidden[5] == 0).all()
    hidden, weight = inputs.hidden.detach()[good].double(), inputs.weight.detach().double()
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T / 0.5, inputs.targets[good], reduction="none")
    torch.testing.assert_close(loss[good].double(), expected, rtol=1e-5, atol=1e-6)
    truth = torch.autograd.grad((expected * inputs.grad[good]).sum(), (hidden, weight))
    for x, y in ((d_hidden[good], truth[0]), (d_weight, truth[1])):
        assert (x.double() - y).norm() <= 2 * UNIT[BF16] * y.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [7, 5000])
def test_auto_chooses_by_size(tokens, monkeypatch):
    inputs = make(Case(tokens, 4000, 64, BF16), "cuda")
    seen = []
    monkeypatch.setattr(tuning, "is_small", lambda call, true=tuning.is_small: seen.append(true(call)) or seen[-1])
    chosen = linear_cross_entropy(inputs.hidden, inputs.weight, inputs.targets)
    fused = linear_cross_entropy(inputs.hidden, inputs.weight, inputs.targets, impl="triton")
    assert seen == [tokens == 7]
    torch.testing.assert_close(chosen, fused)
