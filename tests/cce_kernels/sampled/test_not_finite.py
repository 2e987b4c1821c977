"""The sampled losses where scores are no numbers: nothing plausible comes of them, and of what is forbidden no NaN."""

import math

import pytest
import torch
from kernel_cases import DEVICES, INTERPRETED
from sampled_cases import Case, assert_true, make, ours, truth_of

from cce_kernels import Popularity
from cce_kernels.reduction import masks

pytestmark = pytest.mark.usefixtures("bf16_of_hardware")
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize("sharing", ["none", "tile"])
@pytest.mark.parametrize("impl", ["triton", "reference"])
@INTERPRETED
def test_out_of_range_target_is_nan_and_nothing_else(sharing, impl):
    case = Case(dim=16, tokens=5, items=6, negatives=3, bias=False, sharing=sharing)
    tensors, options = make(case, "cpu")
    clean = ours(case, tensors, options, impl)
    tensors["targets"][1], tensors["targets"][3] = 6, -7
    loss, d_hidden, d_weight = ours(case, tensors, options, impl)
    bad, impossible, _ = masks(tensors["targets"], -100, 6)
    assert torch.equal(impossible, ~bad)
    assert torch.equal(loss.isnan(), impossible)
    assert torch.equal(d_hidden.isnan().all(1), impossible)
    assert torch.equal(loss[bad], clean[0][bad])
    assert not d_weight.isnan().any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("sharing", "objective", "value", "place"),
    [
        ("none", "softmax", math.nan, "hidden"), ("tile", "softmax", math.inf, "hidden"),
        ("tile", "bce", math.nan, "hidden"), ("none", "softmax", math.inf, "weight"),
        ("tile", "softmax", math.nan, "weight"), ("none", "bce", math.nan, "weight"),
        ("tile", "softmax", math.inf, "bias"), ("none", "softmax", math.inf, "bias"), ("none", "bce", math.inf, "bias"),
        ("tile", "bce", math.nan, "bias"), ("tile", "bce", math.inf, "weight"), ("none", "softmax", math.nan, "bias"),
    ],
)  # fmt: skip
def test_what_is_not_finite_is_no_plausible_loss(device, sharing, objective, value, place):
    case = Case(dim=16, tokens=5, items=4, negatives=6, sharing=sharing, tile=3 if sharing == "tile" else 64)
    case.objective = objective
    tensors, options = make(case, device)
    with torch.no_grad():
        tensors[place][1] = value
    loss, *_ = ours(case, tensors, options, "triton")
    expected, *_ = ours(case, tensors, options, "reference")
    assert not expected.isfinite().all()
    assert torch.equal(loss.isfinite(), expected.isfinite())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("impl", "sharing", "dtype", "objective"),
    [
        ("triton", "none", FP32, "softmax"), ("triton", "none", BF16, "bce"), ("triton", "tile", FP32, "bce"),
        ("triton", "tile", BF16, "softmax"), ("triton", "tile", FP16, "softmax"), ("triton", "batch", FP16, "bce"),
        ("triton", "batch", FP32, "softmax"), ("triton", "none", FP16, "softmax"),
        ("reference", "none", FP32, "softmax"), ("reference", "tile", FP16, "bce"),
        ("reference", "batch", BF16, "softmax"), ("reference", "none", BF16, "bce"),
    ],
)  # fmt: skip
def test_items_that_a_bias_of_minus_infinity_forbids(device, impl, sharing, dtype, objective):
    """Each is still one of the N_m negatives left, and its share of loss and gradients is 0."""
    case = Case(dim=16, tokens=6, items=9, negatives=6, sharing=sharing, dtype=dtype, objective=objective)
    for allowed in (5, 1):  # with one, the target, every negative that is left is forbidden
        tensors, options = make(case, device)
        with torch.no_grad():
            tensors["bias"][allowed:] = -torch.inf
            tensors["targets"] %= allowed
        assert_true(case, tensors, options, device, impl)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("sharing", ["none", "tile"])
def test_scores_of_minus_infinity_without_a_bias(device, impl, sharing):
    case = Case(dim=16, tokens=6, items=9, negatives=6, sharing=sharing, bias=False)
    tensors, options = make(case, device)
    with torch.no_grad():
        tensors["hidden"][:, 0] = 1.0
        tensors["weight"][5:, 0] = -torch.inf
        tensors["targets"] %= 5
    loss, expected = ours(case, tensors, options, impl)[0], truth_of(case, tensors, options)[0]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("sharing", ["none", "tile"])
@pytest.mark.parametrize("dtype", [FP32, FP16])
def test_a_forbidden_target_has_no_plausible_loss(device, impl, sharing, dtype):
    case = Case(dim=16, tokens=12, items=9, negatives=6, sharing=sharing, dtype=dtype)
    tensors, options = make(case, device)
    with torch.no_grad():
        tensors["bias"][1:] = -torch.inf
    loss, forbidden = ours(case, tensors, options, impl)[0], tensors["targets"] > 0
    assert not loss[forbidden].isfinite().any()
    assert loss[~forbidden].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("sharing", ["none", "tile"])
@pytest.mark.parametrize("dtype", [FP32, FP16])
def test_a_target_that_is_no_number_shows_even_if_every_negative_is_a_hit(device, impl, sharing, dtype):
    case = Case(dim=16, tokens=3, items=4, sharing=sharing, dtype=dtype, bias=False)
    tensors, options = make(case, device)
    options["sampler"] = Popularity(torch.tensor([0, 0, 5, 0], device=device))  # every draw is item 2
    with torch.no_grad():
        tensors["targets"].fill_(2)
        tensors["hidden"][1] = torch.nan
    loss, d_hidden, _ = ours(case, tensors, options, impl)
    for found in (loss[:, None], d_hidden):
        assert found[1].isnan().all()
        assert not found[[0, 2]].any()
