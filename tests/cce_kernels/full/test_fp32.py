"""fp32 in the full loss: three bf16 parts a number, a run of the table at a time, the reference for wide vectors."""

import pytest
import torch
from full_cases import Case, backward, errors, make, run, score_size, truth_of
from kernel_cases import DEVICES, INTERPRETED
from rounding import allowed_error

from cce_kernels import linear_cross_entropy
from cce_kernels.full import tuning
from cce_kernels.full.kernels import backward as full_backward
from cce_kernels.full.kernels.tiles import split_parts

BF16, FP32 = torch.bfloat16, torch.float32
pytestmark = pytest.mark.usefixtures("bf16_of_hardware")


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [320, 600])
def test_fp32_vectors_too_wide_for_the_kernels_take_the_reference(dim: int) -> None:
    inputs = make(Case(40, 300, dim, bias=True), "cuda")
    loss = linear_cross_entropy(inputs.hidden, inputs.weight, inputs.targets, bias=inputs.bias, reduction="none")
    allowed = allowed_error(score_size(inputs), dim, 300, "cuda")
    assert max(errors(backward(loss, inputs), truth_of(inputs)).values()) <= allowed
    with pytest.raises(ValueError, match=f"{dim} columns of torch.float32"):
        linear_cross_entropy(inputs.hidden, inputs.weight, inputs.targets, impl="triton")
    with torch.autocast("cuda", dtype=BF16):
        if dim <= tuning.widest(BF16):  # products are made in bf16
            linear_cross_entropy(inputs.hidden, inputs.weight, inputs.targets, impl="triton")


@INTERPRETED
@pytest.mark.parametrize("bias", [False, True])
def test_a_table_split_into_parts_a_run_at_a_time_has_the_same_gradient(bias, monkeypatch) -> None:
    """16 items a tile, two tiles a run, the last run ragged."""
    inputs = make(Case(20, 16 * 5 + 3, 20, bias=bias, per_token=True))
    at_once = run(inputs)
    monkeypatch.setattr(full_backward, "_PARTS_BYTES", 2 * 16 * 6 * 20)
    sizes = []
    split = full_backward.split_parts
    monkeypatch.setattr(full_backward, "split_parts", lambda rows: sizes.append(len(rows)) or split(rows))
    assert all(torch.equal(x, y) for x, y in zip(run(inputs), at_once, strict=True))
    assert sizes == [32, 32, 19]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_parts_add_up_to_the_number(device: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(37, 40, generator=generator) * 2.0 ** torch.randint(-60, 60, (37, 40), generator=generator)
    numbers[0, :2] = torch.tensor([0.0, 1 + 2.0**-23])
    numbers = numbers.to(device, dtype)
    parts = split_parts(numbers)
    assert parts.dtype == BF16
    assert torch.equal(parts.double().sum(0), numbers.double())
