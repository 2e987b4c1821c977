"""Triton's interpreter as it comes, without the rounding that other tests give it."""

import os
import subprocess
import sys

import pytest
import torch
from kernel_cases import INTERPRETED
from rounding import UNIT
from sampled_cases import Case, make, ours

from cce_kernels import linear_cross_entropy


@INTERPRETED
@pytest.mark.parametrize("sharing", ["none", "tile"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("objective", ["softmax", "bce"])
def test_16_bit_numbers_are_multiplied_as_numbers(objective, dtype, sharing):
    """It keeps bf16 as integers of bits, and may cut off what they cannot hold: two units, three times at most."""
    case = Case(dim=16, tokens=6, items=9, negatives=5, dtype=dtype, sharing=sharing, objective=objective)
    tensors, options = make(case, "cpu")
    for got, expected in zip(*(ours(case, tensors, options, impl) for impl in ("triton", "reference")), strict=True):
        torch.testing.assert_close(got, expected, rtol=6 * UNIT[torch.bfloat16], atol=3 * UNIT[torch.bfloat16])


@INTERPRETED
def test_16_bit_numbers_of_the_full_loss():
    hidden, weight = (torch.randn(n, 16, generator=torch.Generator().manual_seed(n)).bfloat16() for n in (6, 9))
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    losses = [linear_cross_entropy(*leaves, torch.arange(6), impl=impl) for impl in ("triton", "reference")]
    for got, expected in zip(*([x, *torch.autograd.grad(x, leaves)] for x in losses), strict=True):
        torch.testing.assert_close(got, expected, rtol=6 * UNIT[torch.bfloat16], atol=3 * UNIT[torch.bfloat16])


@pytest.mark.slow  # imports torch anew
def test_without_numpy_one_line_says_so():
    script = """
import sys

sys.modules["numpy"] = None  # as if it were not installed
import torch

from cce_kernels import linear_cross_entropy

linear_cross_entropy(torch.zeros(1, 16), torch.zeros(2, 16), torch.tensor([0]), impl="triton")
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        "ValueError: impl: found 'triton' with tensors on cpu, which Triton's interpreter multiplies by numpy; "
        "allowed: with numpy installed, or impl='reference'"
    )
