"""Dropout whose mask is computed wherever it is needed, and never stored."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scale_kept(values, seed, site, rows, PROBABILITY: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Zeros with a probability, everything else scaled up: values fp32 [ROWS, COLUMNS], their rows [ROWS].

    The mask is a function of (seed, site, row, column): Philox4x32-10, each block of it for four columns.
    """
    quads = tl.arange(0, COLUMNS // 4)
    zero = tl.zeros((ROWS, COLUMNS // 4), tl.uint32)
    columns = zero + quads[None, :].to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, columns, zero + rows[:, None].to(tl.uint32), zero + site, zero)
    bits = tl.reshape(tl.join(tl.join(w0, w1), tl.join(w2, w3)), [ROWS, COLUMNS])
    uniform = (bits >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2^-24
    return tl.where(uniform >= PROBABILITY, values * (1.0 / (1.0 - PROBABILITY)), 0.0)
