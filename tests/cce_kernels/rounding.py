"""Error bounds derived from floating-point arithmetic: every comparison with float64 uses them."""

import torch

UNIT = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # unit roundoff
# Tensor cores truncate their sums instead of rounding them, so that errors do not cancel, and the three TF32 products
# of an fp32 product lose a few more units.
TRUNCATION = {"cpu": 1.0, "cuda": 10.0}


def allowed_error(size: float, dim: int, terms: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Relative error, in the Euclidean norm, of losses and gradients: sums of exponentials of scores.

    One rounding errs by at most u, in the mean square by u / sqrt(3), and independent roundings add as squares.
    A score sums `dim` products and is never larger than `size`: sqrt(dim) size; exp and log add 4 size, because an
    absolute error of the score is a relative error of its exponential. The sum over `terms` adds sqrt(terms);
    division, log1p and the upstream gradient add 8. A 16-bit result has two roundings of its own, of the probability
    and of the gradient: sqrt(2) u / sqrt(3) on average, and u is allowed.

    Args:
        size: the largest score, bias and corrections included.
        dim: D.
        terms: the number of terms of the longest sum, over items or over tokens.
        device: where the sums are computed.
        dtype: what the result and the operands of its products are rounded to.
    """
    unit = UNIT[torch.float32] * TRUNCATION[device] / 3**0.5
    sums = unit * ((dim**0.5 + 4) * size + terms**0.5 + 8)
    return sums if dtype == torch.float32 else sums + UNIT[dtype]


def allowed_row_error(
    size: float, dim: int, terms: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> float:
    """The same for the worst row of a matrix: nothing averages out, so 3 u, and 4 standard deviations of the sums."""
    sums = 4 * allowed_error(size, dim, terms, device)
    return sums if dtype == torch.float32 else sums + 3 * UNIT[dtype]
