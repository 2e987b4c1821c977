"""What is made of the losses of single targets: label smoothing, several targets. Against float64."""

import pytest
import torch
from full_cases import Case, Inputs, make, score_size
from kernel_cases import DEVICES
from rounding import allowed_error
from torch import Tensor

from cce_kernels import linear_cross_entropy

BF16, FP32 = torch.bfloat16, torch.float32
pytestmark = pytest.mark.usefixtures("bf16_of_hardware")


def check(inputs: Inputs, found: Tensor, exact: list[Tensor], truth: Tensor, allowed: float) -> None:
    """Compare a loss and its gradients with those of the float64 leaves `exact`, in relative norm."""
    gradients = [
        torch.autograd.grad((loss * inputs.grad.to(loss.dtype)).sum(), leaves)
        for loss, leaves in ((found, inputs.leaves()), (truth, exact))
    ]
    for x, y in zip((found, *gradients[0]), (truth, *gradients[1]), strict=True):
        assert ((x.double() - y).norm() / y.norm()).item() <= allowed


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_label_smoothing_is_that_of_torch(device: str, impl: str, reduction: str) -> None:
    inputs = make(Case(18, 40, 64, FP32, bias=True, scores="fitted"), device)
    found = linear_cross_entropy(
        inputs.hidden, inputs.weight, inputs.targets, bias=inputs.bias, temperature=2.0, label_smoothing=0.2,
        reduction=reduction, impl=impl,
    )  # fmt: skip
    exact = [x.detach().double().requires_grad_() for x in inputs.leaves()]
    truth = torch.nn.functional.cross_entropy(
        (exact[0] @ exact[1].T + exact[2]) / 2, inputs.targets, label_smoothing=0.2, reduction=reduction
    )
    check(inputs, found, exact, truth, allowed_error(score_size(inputs), 64, 40, device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize(
    ("dtype", "reduction", "smoothing"), [(FP32, "mean", 0.0), (BF16, "none", 0.0), (FP32, "sum", 0.1)]
)
def test_several_targets_share_the_distribution(
    device: str, impl: str, dtype: torch.dtype, reduction: str, smoothing: float
) -> None:
    inputs = make(Case(18, 40, 64, dtype, weight_dtype=FP32, bias=True, scores="fitted"), device)
    sets = torch.randint(0, 40, (18, 4), generator=torch.Generator().manual_seed(1)).to(device)
    sets[1, 2:], sets[2, 0], sets[3], sets[4, 1] = -100, -100, -100, sets[4, 0]  # fewer, none, the same twice
    options = {"bias": inputs.bias, "temperature": 2.0, "label_smoothing": smoothing}
    found = linear_cross_entropy(inputs.hidden, inputs.weight, sets, reduction=reduction, impl=impl, **options)
    exact = [x.detach().double() for x in inputs.leaves()]
    exact[1] = inputs.weight.detach().to(dtype).double()
    exact = [x.requires_grad_() for x in exact]
    counted = sets >= 0
    share = counted / counted.sum(1, keepdim=True).clamp(min=1)
    spread = torch.zeros(18, 40, dtype=torch.float64, device=device).scatter_add_(1, sets.clamp(min=0), share.double())
    spread = (1 - smoothing) * spread + smoothing / 40
    scores = (exact[0] @ exact[1].T + exact[2]) / 2
    truth = torch.nn.functional.cross_entropy(scores, spread, reduction="none") * counted.any(1)
    truth = {"none": truth, "sum": truth.sum(), "mean": truth.sum() / 17}[reduction]
    # Two gradients are added, each rounded to its dtype.
    check(inputs, found, exact, truth, 2 * allowed_error(score_size(inputs), 64, 40, device, dtype))
    sets[5, 1] = 40
    wrong = linear_cross_entropy(inputs.hidden, inputs.weight, sets, reduction="none", impl=impl, **options)
    assert wrong.isnan().nonzero().tolist() == [[5]]
