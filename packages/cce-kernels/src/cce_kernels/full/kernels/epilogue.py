"""The end of a token: from the sums over all other items to loss, log-sum-exp and the numbers that backward needs.

With r the base of the exponents (log2 units), T = sum_{j != t} 2^(s_j - r) and e = 2^(s_t - r), all fp32:

    Z = T + e,   o = T / Z = 1 - p_t,   lse = (r + log2 Z) ln 2,   loss = log(Z / e) = log1p(T / e)
    dH_m = A_m / Z_m - o_m w_t,      A_m = sum_{j != t} 2^(s_mj - r_m) w_j

T never holds the target, so that o and the loss keep their digits where the model is sure of the target (o -> 0). The
target's row is added to dH in fp32: it never meets a rounded probability.
Bytes: one row of W read and one of dH written per token. FLOPs: a few per token.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cce_kernels.full.kernels.tiles import LN2, cap_scores, cap_slope, gather_rows, log1p_small, store_tile


@triton.jit
def write_dhidden(acc0, acc1, others, inverse, safe, ignored, invalid, weight, dhidden, start, num_tokens,
                  DTYPE: tl.constexpr, DIM: tl.constexpr, DIM0: tl.constexpr, DIM1: tl.constexpr,
                  BLOCK_M: tl.constexpr):  # fmt: skip
    """Write dH in fp32; zero for an ignored token, NaN for an invalid one."""
    every = safe >= 0
    w0 = gather_rows(weight, safe, every, 0, DIM0, DIM).to(DTYPE).to(tl.float32)
    out0 = acc0 * inverse[:, None] - others[:, None] * w0
    out0 = tl.where(ignored[:, None], 0.0, tl.where(invalid[:, None], float("nan"), out0))
    store_tile(dhidden, start, num_tokens - start, out0, 0, DIM0, BLOCK_M, DIM)
    if DIM1 > 0:
        w1 = gather_rows(weight, safe, every, DIM0, DIM1, DIM).to(DTYPE).to(tl.float32)
        out1 = acc1 * inverse[:, None] - others[:, None] * w1
        out1 = tl.where(ignored[:, None], 0.0, tl.where(invalid[:, None], float("nan"), out1))
        store_tile(dhidden, start, num_tokens - start, out1, DIM0, DIM1, BLOCK_M, DIM)


@triton.jit
def read_targets(targets, tokens, num_tokens, num_items, ignore_index):
    """Targets [BLOCK] as (safe address, ignored, invalid); tokens past the end count as ignored."""
    inside = tokens < num_tokens
    raw = tl.load(targets + tokens, mask=inside, other=0)
    ignored = (raw == ignore_index) | (tokens >= num_tokens)
    invalid = ((raw < 0) | (raw >= num_items)) & (raw != ignore_index) & inside
    safe = tl.minimum(tl.maximum(raw, 0), num_items - 1).to(tl.int32)
    return safe, ignored, invalid


@triton.jit
def score_targets(h0, h1, weight, bias, safe, softcap, DIM: tl.constexpr, DIM0: tl.constexpr, DIM1: tl.constexpr,
                  HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr):  # fmt: skip
    """Score of each token's own target, [BLOCK] fp32, from products of the operands as the tiles hold them."""
    every = safe >= 0
    w0 = gather_rows(weight, safe, every, 0, DIM0, DIM).to(h0.dtype)
    score = tl.sum(h0.to(tl.float32) * w0.to(tl.float32), axis=1)
    if DIM1 > 0:
        w1 = gather_rows(weight, safe, every, DIM0, DIM1, DIM).to(h0.dtype)
        score += tl.sum(h1.to(tl.float32) * w1.to(tl.float32), axis=1)
    if HAS_BIAS:
        score += tl.load(bias + safe).to(tl.float32)
    if HAS_SOFTCAP:
        score = cap_scores(score, softcap)
    return score


@triton.jit
def finish_tokens(total, base, target_score, ignored, invalid, softcap, log2e, HAS_SOFTCAP: tl.constexpr):
    """From the sums to (loss, lse, lse in log2 for backward, o times the target's slope, 1 / Z); all [BLOCK] fp32.

    An ignored token gets zeros, an invalid one NaN; both get an infinite log-sum-exp for backward, where every
    probability of theirs is then exactly 0.
    """
    exponent = target_score * log2e - base
    target_term = tl.exp2(exponent)
    z = total + target_term
    lse2 = base + tl.log2(z)
    lse = lse2 * LN2
    sure = total < target_term
    ratio = total / tl.where(sure, target_term, 1.0)
    # Not `lse - target_score`: lse is rounded at the size of the scores.
    loss = tl.where(sure, log1p_small(tl.where(sure, ratio, 0.0)), (tl.log2(z) - exponent) * LN2)
    inverse = 1.0 / z
    others = total * inverse
    if HAS_SOFTCAP:
        others *= cap_slope(target_score, softcap)
    nan = float("nan")
    loss = tl.where(ignored, 0.0, tl.where(invalid, nan, loss))
    lse = tl.where(ignored, 0.0, tl.where(invalid, nan, lse))
    lse2 = tl.where(ignored | invalid, float("inf"), lse2)
    others = tl.where(ignored | invalid, 0.0, others)
    return loss, lse, lse2, others, inverse
