"""hidden and weight of two dtypes: the kernels and the reference read the same numbers from the table."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from cce_kernels import linear_cross_entropy, sampled_linear_cross_entropy

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
LOSSES = {
    "full": linear_cross_entropy,
    "none": lambda *x, **options: sampled_linear_cross_entropy(*x, num_negatives=7, seed=1, **options),
    "tile": lambda *x, **options: sampled_linear_cross_entropy(*x, num_negatives=7, seed=1, sharing="tile", **options),
}
PAIRS = list(itertools.product((FP32, BF16, FP16), repeat=2))
pytestmark = pytest.mark.usefixtures("bf16_of_hardware")


def tensors(hidden_dtype, weight_dtype):
    """Rows of 1e-4 and less: fp16 holds fewer digits of them than bf16 does of any number."""
    generator = torch.Generator().manual_seed(0)
    hidden = (2e3 * torch.randn(20, 16, generator=generator).clamp(-3, 3)).to(DEVICE, hidden_dtype).requires_grad_()
    weight = (1e-4 * torch.randn(24, 16, generator=generator)).to(DEVICE, weight_dtype).requires_grad_()
    return hidden, weight, torch.randint(0, 24, (20,), generator=generator).to(DEVICE)


@pytest.mark.parametrize(
    ("name", "hidden_dtype", "weight_dtype"),
    [("full", *pair) for pair in PAIRS] + [(("none", "tile")[i % 2], *pair) for i, pair in enumerate(PAIRS)],
)
def test_the_kernels_and_the_reference_agree(name, hidden_dtype, weight_dtype):
    hidden, weight, targets = tensors(hidden_dtype, weight_dtype)
    results = []
    for impl in ("triton", "reference"):
        loss = LOSSES[name](hidden, weight, targets, reduction="none", impl=impl)
        results.append((loss, *torch.autograd.grad(loss.sum(), (hidden, weight))))
    (loss, *gradients), (expected, *expected_gradients) = results
    # A loss is an fp32 sum of products that are exact in fp32: what dtypes change is how rows are rounded.
    close = 1e-5 if DEVICE == "cpu" or hidden_dtype == FP32 else 1e-4  # tensor cores cut off the last digits of sums
    assert_close(loss, expected, rtol=close, atol=close)
    rough = {FP32: 1e-5, FP16: 6e-3, BF16: 1e-2}
    for got, wanted, dtype in zip(gradients, expected_gradients, (hidden_dtype, weight_dtype), strict=True):
        assert got.dtype == wanted.dtype == dtype
        error = (got.double() - wanted.double()).norm() / wanted.double().norm()
        assert error < max(rough[hidden_dtype], rough[dtype])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("hidden_dtype", "weight_dtype"), list(itertools.permutations((FP32, BF16, FP16), 2)))
def test_rows_are_rounded_to_the_dtype_of_hidden(name, hidden_dtype, weight_dtype):
    hidden, weight, targets = tensors(hidden_dtype, weight_dtype)
    options = {"reduction": "none", "impl": "reference"}
    got = LOSSES[name](hidden, weight, targets, **options)
    assert torch.equal(got, LOSSES[name](hidden, weight.to(hidden_dtype), targets, **options))
    if hidden_dtype != FP32:  # ... and the rounding is seen
        exact = LOSSES[name](hidden.float(), weight.float(), targets, **options)
        assert (got - exact).abs().max() > 3e-5


@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_bf16_number_that_fp16_cannot_hold_is_no_plausible_loss(name, impl):
    hidden, weight, targets = tensors(FP16, BF16)
    with torch.no_grad():
        weight[targets[0]] = 1e5
    loss = LOSSES[name](hidden, weight, targets, reduction="none", impl=impl)
    assert loss[0].isnan()
