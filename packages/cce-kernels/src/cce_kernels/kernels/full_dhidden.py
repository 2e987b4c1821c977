"""dH of a tile of tokens from the sums over all other items: the last step of full_forward.py and full_merge.py.

    dH_m = (A_m / Z_m - o_m w_t) * scale,      A_m = sum_{j != t} p_mj w_j,   o_m = 1 - p_mt

The target's row is added in fp32: it never meets a rounded probability. Bytes: one row of W read and of dH written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cce_kernels.kernels.full_tiles import gather_rows, store_tile


@triton.jit
def write_dhidden(acc0, acc1, others, inverse, safe, ignored, invalid, weight, scale, dhidden, start, num_tokens,
                  DTYPE: tl.constexpr, DIM: tl.constexpr, DIM0: tl.constexpr, DIM1: tl.constexpr,
                  BLOCK_M: tl.constexpr):  # fmt: skip
    """Write dH, rounded once; zero for an ignored token, NaN for an invalid one."""
    every = safe >= 0
    w0 = gather_rows(weight, safe, every, 0, DIM0, DIM).to(DTYPE).to(tl.float32)
    out0 = (acc0 * inverse[:, None] - others[:, None] * w0) * scale
    out0 = tl.where(ignored[:, None], 0.0, tl.where(invalid[:, None], float("nan"), out0))
    store_tile(dhidden, start, num_tokens - start, out0, 0, DIM0, BLOCK_M, DIM)
    if DIM1 > 0:
        w1 = gather_rows(weight, safe, every, DIM0, DIM1, DIM).to(DTYPE).to(tl.float32)
        out1 = (acc1 * inverse[:, None] - others[:, None] * w1) * scale
        out1 = tl.where(ignored[:, None], 0.0, tl.where(invalid[:, None], float("nan"), out1))
        store_tile(dhidden, start, num_tokens - start, out1, DIM0, DIM1, BLOCK_M, DIM)
