"""Scalar functions of the sampled kernels, exact where the obvious formula loses digits."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def log1p_exp(x):
    """`log(1 + e^x)` without overflow, and without losing small `e^x`: log1p(u) = u log(1 + u) / ((1 + u) - 1)."""
    small = tl.exp(-tl.abs(x))
    above = 1.0 + small
    rounded = above - 1.0
    log1p = tl.where(rounded == 0.0, small, tl.log(above) * (small / tl.where(rounded == 0.0, 1.0, rounded)))
    return tl.maximum(x, 0.0) + log1p


@triton.jit
def sigmoid(x):
    """`1 / (1 + e^-x)`, from the side that does not overflow."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)
