"""Backward of the activation of the feed-forward net, with the gradient of the bias before it, in one pass.

    df = dg a'(f),   gelu: a'(f) = Phi(f) + f phi(f);   relu: a'(f) = 1 where f > 0

Bytes per element, in 16 bits: 6.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_COLUMNS, _ROWS, _WARPS = 256, 8, 4


@triton.jit(do_not_specialize=["num_rows"])
def activation_backward_kernel(
    inner, grad, sums, num_rows, sums_stride, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    GELU: tl.constexpr,
):  # fmt: skip
    """Grid (programs, blocks of columns); the gradient [T, WIDTH] is replaced in place, sums [programs, WIDTH]."""
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(tl.program_id(0) * ROWS, num_rows, tl.num_programs(0) * ROWS):
        rows = first + tl.arange(0, ROWS)
        inside = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
        places = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
        f = tl.load(inner + places, mask=inside, other=0.0).to(tl.float32)
        slope = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
        if GELU:
            density = 0.3989422804014327 * tl.exp(-0.5 * f * f)
            slope *= 0.5 * (1.0 + tl.erf(f * 0.7071067811865476)) + f * density
        else:
            slope = tl.where(f > 0, slope, 0.0)
        tl.store(grad + places, slope.to(grad.dtype.element_ty), mask=inside)
        total += slope
    tl.store(sums + tl.program_id(0) * sums_stride + columns, tl.sum(total, 0), mask=columns < WIDTH)


def launch_activation_backward(inner: Tensor, grad: Tensor, sums: Tensor, activation: str) -> None:
    """Replace the gradient [T, W] of the activation by that of its input [T, W]; fill sums, fp32 [programs, W]."""
    num_rows, width = inner.shape
    activation_backward_kernel[(sums.shape[0], triton.cdiv(width, _COLUMNS))](
        inner, grad, sums, num_rows, sums.stride(0), WIDTH=width, COLUMNS=_COLUMNS, ROWS=_ROWS,
        GELU=activation == "gelu", num_warps=_WARPS,
    )  # fmt: skip
