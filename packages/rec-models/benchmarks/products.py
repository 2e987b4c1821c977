"""Products of few columns, a tile as wide as the result: a study beside cuBLAS, which takes 128 x 192 for 256 columns.

    out = a W' + bias,  and with GELU also gelu(out)

With T 20,864 and 256 columns tiles of 128 x 192 are 326, a third of half of them empty: 2.5 waves, 9 us for 4 us of
products and 5 us of bytes. Tiles of 64 x 256 are 326 too, all full, and two of them share a multiprocessor. FLOPs:
2 T K N; bytes: 2 T (K + N), 2 T N more with GELU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cce_kernels import hardware
from cce_kernels.kernels.dot import dot


@triton.jit(do_not_specialize=["num_rows"])
def product_kernel(
    left, right, bias, out, active, num_rows, right_inner, right_column, K: tl.constexpr, N: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_K: tl.constexpr, HAS_BIAS: tl.constexpr, GELU: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of columns, tiles of rows); right is [K, N] by its strides, one of which is 1."""
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    there = (rows < num_rows)[:, None]
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, K, BLOCK_K):
        inner = first + tl.arange(0, BLOCK_K)
        a = tl.load(left + rows.to(tl.int64)[:, None] * K + inner[None, :], mask=there, other=0.0)
        b = tl.load(right + inner[:, None] * right_inner + columns[None, :] * right_column)
        acc = dot(a, b, acc, PRECISION)
    if HAS_BIAS:
        acc += tl.load(bias + columns).to(tl.float32)[None, :]
    places = rows.to(tl.int64)[:, None] * N + columns[None, :]
    rounded = acc.to(out.dtype.element_ty)
    tl.store(out + places, rounded, mask=there)
    if GELU:
        f = rounded.to(tl.float32)
        tl.store(
            active + places, (f * 0.5 * (1.0 + tl.erf(f * 0.7071067811865476))).to(out.dtype.element_ty), mask=there
        )


def product(
    left: Tensor, right: Tensor, bias: Tensor | None = None, *, gelu: bool = False, rows: int = 64, columns: int = 256,
    block_k: int = 64, warps: int = 4, stages: int = 3, registers: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``left @ right + bias`` and its gelu (else itself): left [T, K], right [K, N] with a stride of 1, bias [N]."""
    num_rows, inner = left.shape
    width = right.shape[1]
    out = torch.empty(num_rows, width, dtype=left.dtype, device=left.device)
    active = torch.empty_like(out) if gelu else out
    product_kernel[(width // columns, -(-num_rows // rows))](
        left, right, out if bias is None else bias, out, active, num_rows, *right.stride(), K=inner, N=width,
        ROWS=rows, COLUMNS=columns, BLOCK_K=block_k, HAS_BIAS=bias is not None, GELU=gelu,
        PRECISION="upcast" if hardware.is_interpreted(left.device) else "as they are",
        num_warps=warps, num_stages=stages, maxnreg=registers,
    )  # fmt: skip
    return out, active
