"""Backward of the activation of the feed-forward net, with the gradient of the bias before it, in one pass.

    df = dg a'(f),   gelu: a'(f) = Phi(f) + f phi(f);   relu: a'(f) = 1 where f > 0

Bytes per element, in 16 bits: 6.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_COLUMNS, _ROWS, _WARPS = 256, 4, 2


@triton.jit
def _gelu_slope(f):
    """Phi(f) + f phi(f), fp32, to 3e-7: of the tail Q = 1 - Phi by 7.1.26 of Abramowitz and Stegun, 1964.

    It takes one exponential for Q and for phi, where `tl.erf` takes another and twice the instructions.
    """
    size = tl.abs(f)
    bell = tl.exp2(-0.7213475204444817 * f * f)  # e^(-f^2 / 2)
    t = 1.0 / (1.0 + 0.23164190 * size)  # 0.3275911 / sqrt(2)
    tail = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145))))
    tail *= bell
    return tl.where(f > 0, 1.0 - tail, tail) + f * (0.3989422804014327 * bell)


@triton.jit
def _read(inner, grad, first, columns, num_rows, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Input and gradient of a tile of rows, [ROWS, COLUMNS] each."""
    rows = first + tl.arange(0, ROWS)
    inside = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
    places = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    f = tl.load(inner + places, mask=inside, other=0.0)
    return f, tl.load(grad + places, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["num_rows"])
def activation_backward_kernel(
    inner, grad, sums, num_rows, sums_stride, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    GELU: tl.constexpr,
):  # fmt: skip
    """Grid (programs, blocks of columns); the gradient [T, WIDTH] is replaced in place, sums [programs, WIDTH]."""
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    begin, step = tl.program_id(0) * ROWS, tl.num_programs(0) * ROWS
    f, slope = _read(inner, grad, begin, columns, num_rows, WIDTH, ROWS)
    for first in range(begin, num_rows, step):  # a tile is read before the work on the one before it
        next_f, next_slope = _read(inner, grad, first + step, columns, num_rows, WIDTH, ROWS)
        rows = first + tl.arange(0, ROWS)
        inside = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
        places = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
        f, slope = f.to(tl.float32), slope.to(tl.float32)
        if GELU:
            slope *= _gelu_slope(f)
        else:
            slope = tl.where(f > 0, slope, 0.0)
        tl.store(grad + places, slope.to(grad.dtype.element_ty), mask=inside)
        total += slope
        f, slope = next_f, next_slope
    tl.store(sums + tl.program_id(0) * sums_stride + columns, tl.sum(total, 0), mask=columns < WIDTH)


def launch_activation_backward(inner: Tensor, grad: Tensor, sums: Tensor, activation: str) -> None:
    """Replace the gradient [T, W] of the activation by that of its input [T, W]; fill sums, fp32 [programs, W]."""
    num_rows, width = inner.shape
    activation_backward_kernel[(sums.shape[0], triton.cdiv(width, _COLUMNS))](
        inner, grad, sums, num_rows, sums.stride(0), WIDTH=width, COLUMNS=_COLUMNS, ROWS=_ROWS,
        GELU=activation == "gelu", num_warps=_WARPS,
    )  # fmt: skip
