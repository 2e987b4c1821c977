"""A product with residual, dropout and layer norm in its epilogue: a study beside `addmm` and `launch_norm_forward`.

    b = a W' + bias,   x' = x + dropout(b),   n = norm(x')

The branch b never goes to memory: 4 bytes per element of [T, D] less of 16, and one launch less. A program holds whole
rows of the result, D columns of them. FLOPs: 2 T K D; bytes: 2 T K + 10 T D, and W from L2 for each tile of rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cce_kernels import hardware
from cce_kernels.kernels.dot import dot
from rec_models.encoders.fused.dropout import scale_kept
from rec_models.encoders.fused.residual import Dropout, Normed


@triton.jit(do_not_specialize=["num_rows", "site"])
def product_norm_kernel(
    left, matrix, bias, stream, gain, shift, seed_ptr, out_stream, out, mean_ptr, rstd_ptr, num_rows, site, eps,
    K: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, PROBABILITY: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of rows,)."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, D)
    there = (rows < num_rows)[:, None]
    acc = tl.zeros((ROWS, D), tl.float32)
    for first in range(0, K, BLOCK_K):
        inner = first + tl.arange(0, BLOCK_K)
        a = tl.load(left + rows.to(tl.int64)[:, None] * K + inner[None, :], mask=there, other=0.0)
        w = tl.load(matrix + columns[:, None] * K + inner[None, :])
        acc = dot(a, tl.trans(w), acc, PRECISION)
    places = rows.to(tl.int64)[:, None] * D + columns[None, :]
    x = acc + tl.load(bias + columns).to(tl.float32)[None, :]
    x = x.to(out.dtype.element_ty).to(tl.float32)  # as a product that is stored rounds
    if PROBABILITY > 0:
        x = scale_kept(x, tl.load(seed_ptr), site, rows, PROBABILITY, ROWS, D)
    x += tl.load(stream + places, mask=there, other=0.0)
    tl.store(out_stream + places, x, mask=there)
    mean = tl.sum(x, 1) / D
    centred = x - mean[:, None]
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / D + eps)
    normed = centred * rstd[:, None] * tl.load(gain + columns)[None, :] + tl.load(shift + columns)[None, :]
    tl.store(out + places, normed.to(out.dtype.element_ty), mask=there)
    tl.store(mean_ptr + rows, mean, mask=rows < num_rows)
    tl.store(rstd_ptr + rows, rstd, mask=rows < num_rows)


def product_norm(
    left: Tensor, matrix: Tensor, bias: Tensor, stream: Tensor, gain: Tensor, shift: Tensor, eps: float,
    dropout: Dropout, *, rows: int = 64, block_k: int = 64, warps: int = 16, stages: int = 2,
    registers: int | None = None,
) -> Normed:  # fmt: skip
    """As `launch_norm_forward(stream, addmm(bias, left, matrix.t()), ...)`; matrix [D, K], D a power of two."""
    num_rows, inner = left.shape
    width = matrix.shape[0]
    found = Normed(
        torch.empty(num_rows, width, dtype=torch.float32, device=left.device),
        torch.empty(num_rows, width, dtype=left.dtype, device=left.device),
        *(torch.empty(num_rows, dtype=torch.float32, device=left.device) for _ in range(2)),
    )
    product_norm_kernel[(-(-num_rows // rows),)](
        left, matrix, bias, stream, gain, shift, dropout.seed, *found, num_rows, dropout.site, eps,
        K=inner, D=width, ROWS=rows, BLOCK_K=block_k, PROBABILITY=dropout.probability,
        PRECISION="upcast" if hardware.is_interpreted(left.device) else "as they are",
        num_warps=warps, num_stages=stages, maxnreg=registers,
    )  # fmt: skip
    return found
