"""dH of the sampled losses: forward left it without the upstream gradient, `dH_m *= g_m`.

Bytes: M D read and written in hidden's dtype.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["num_tokens"])
def _scale(stored, grad, out, num_tokens, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr):
    tokens = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    exists = tokens < num_tokens
    places = tokens.to(tl.int64)[:, None] * D + columns[None, :]
    mask = exists[:, None] & (columns < D)[None, :]
    values = tl.load(stored + places, mask=mask, other=0.0).to(tl.float32)
    upstream = tl.load(grad + tokens, mask=exists, other=0.0)
    # An ignored token stored zeros: its upstream gradient, whatever it is, must not make a NaN of them.
    scaled = tl.where(values == 0.0, 0.0, values * upstream[:, None])
    tl.store(out + places, scaled.to(out.dtype.element_ty), mask=mask)


def launch_scale(stored: Tensor, grad: Tensor, out: Tensor) -> None:
    """`out = stored * grad[:, None]`, all [M, D] in hidden's dtype, grad fp32 [M]."""
    num_tokens, width = stored.shape
    _scale[(triton.cdiv(num_tokens, 16),)](
        stored, grad, out, num_tokens, D=width, BLOCK_D=max(16, triton.next_power_of_2(width)), BLOCK_M=16, num_warps=4
    )
