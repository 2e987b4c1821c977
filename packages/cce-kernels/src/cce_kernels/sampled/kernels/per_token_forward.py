"""Sampled losses with negatives per token, forward: loss and dH in one pass over the gathered rows.

Softmax, with base = running maximum of `d_n = s'_n - s_t`: `l += exp(d - base)`, `a += exp(d - base) w_n`; at the end
`z = base + log l + rest - log N_m`, loss = softplus(z), `dH = sigma(z) (a / l - w_t)`. The log-sum-exp is `s_t + loss`.
Pointwise: loss = c (beta softplus(-s_t) + sum softplus(s_n)), `dH = c (sum sigma(s_n) w_n - beta sigma(-s_t) w_t)`.
Upstream gradients are applied in backward.

Bytes: M (N + 1) D of the table's dtype, each row once; FLOPs 4 M N D on the CUDA cores. Memory-bound: one warp a token,
so that no reduction leaves the warp and the many programs of a multiprocessor hide each other's latency.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cce_kernels.sampled.call import SampledCall
from cce_kernels.sampled.kernels.draw import STORED_TABLE, count_draws, draw_ids, first_group, read_size
from cce_kernels.sampled.kernels.math import log1p_exp, sigmoid
from cce_kernels.sampled.kernels.state import UNSPECIALIZED, SampledOutputs, forward_arguments
from cce_kernels.sampled.tuning import PerTokenTiles

_LOWEST = tl.constexpr(-1.0e30)  # the base of no terms: finite, and below that of any term
_DRAWS = tl.constexpr(64)  # ids drawn at once, two by each thread of a warp; tiles get theirs by shuffles


@triton.jit(do_not_specialize=UNSPECIALIZED)
def per_token_forward_kernel(
    hidden, weight, bias, targets, shift, pull, log_q, seed_ptr, step_ptr, size_ptr, offset_ptr, id_table,
    log_rest, loss, lse, dhidden, constant_rest,
    size, num_tokens, num_items, num_negatives, first_row, ignore_index, positive_weight, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    SOFTMAX: tl.constexpr, TABLE: tl.constexpr, HAS_LOGQ: tl.constexpr, HAS_BIAS: tl.constexpr,
    WITH_GRAD: tl.constexpr, HAS_OFFSET: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Grid (tokens,); see the head of this file.

    With stored ids (sharded/sampled.py) targets are rows of this part of the table, or -1 where another part has the
    row: of the softmax T is written as loss, its base as shift, the negatives left as pull, and A / T as dH.
    """
    token = tl.program_id(0)
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    target = tl.load(targets + token)
    counted = target != ignore_index
    possible = (target >= 0) & (target < num_items)
    valid = counted & possible
    safe = tl.where(valid, target, 0)
    if TABLE == STORED_TABLE:
        valid = counted
    seed, step, bound = tl.load(seed_ptr), tl.load(step_ptr), read_size(size, size_ptr, TABLE)
    begin, _ = first_group(offset_ptr, first_row, first_row, 1, TABLE, HAS_OFFSET)
    row = begin + token
    num_negatives = count_draws(num_negatives, size_ptr, row, TABLE)

    h = tl.load(hidden + token.to(tl.int64) * D + columns, mask=inside, other=0.0)
    target_row = tl.load(weight + safe * D + columns, mask=inside, other=0.0).to(h.dtype).to(tl.float32)
    narrow = h.dtype
    h = h.to(tl.float32)
    target_score = tl.sum(h * target_row, 0)
    if HAS_BIAS:
        target_score += tl.load(bias + safe).to(tl.float32)
    if SCALED:
        target_score *= scale
    if TABLE == STORED_TABLE:
        target_score = tl.zeros((), tl.float32)  # known to one process alone: no base of exponents

    top = tl.zeros((), tl.float32) - float("inf")
    total = tl.zeros((), tl.float32)
    left = tl.zeros((), tl.int32)
    gathered = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(0, tl.where(valid, num_negatives, 0), _DRAWS):
        # Every thread reads its columns of every row of a tile: drawn tile by tile, each would draw every id itself.
        drawn = draw_ids(seed, step, row, start, bound, id_table, TABLE, _DRAWS).to(tl.int32)
        for first in range(start, tl.minimum(start + _DRAWS, num_negatives), BLOCK_N):
            ids = tl.gather(drawn, first - start + tl.arange(0, BLOCK_N), 0).to(tl.int64)
            kept = (ids != target) & (first + tl.arange(0, BLOCK_N) < num_negatives)
            rows = tl.load(
                weight + ids[:, None] * D + columns[None, :], mask=kept[:, None] & inside[None, :], other=0.0
            )
            rows = rows.to(narrow).to(tl.float32)
            scores = tl.sum(rows * h[None, :], 1)
            if HAS_BIAS:
                scores += tl.load(bias + ids, mask=kept, other=0.0).to(tl.float32)
            if SCALED:
                scores *= scale
            if SOFTMAX:
                scores -= target_score  # first, so that nothing is rounded at the size of the scores
            if HAS_LOGQ:
                scores -= tl.load(log_q + ids, mask=kept, other=0.0)
            left += tl.sum(kept.to(tl.int32), 0)
            if SOFTMAX:
                scores = tl.where(kept, scores, float("-inf"))
                new_top = tl.maximum(top, tl.max(scores, 0))
                base = tl.where(new_top == float("-inf"), 0.0, new_top)
                shrink = tl.exp(top - base)
                shares = tl.exp(scores - base)
                total = total * shrink + tl.sum(shares, 0)
                top = new_top
            else:
                shrink = 1.0
                shares = tl.where(kept, sigmoid(scores), 0.0)
                total += tl.sum(tl.where(kept, log1p_exp(scores), 0.0), 0)
            if WITH_GRAD:
                gathered = gathered * shrink + tl.sum(shares[:, None] * rows, 0)

    if TABLE == STORED_TABLE:
        tl.store(loss + token, total)
        tl.store(shift + token, tl.maximum(top, _LOWEST))
        tl.store(pull + token, left.to(tl.float32))
        factor = scale
        if SOFTMAX:
            factor = tl.where(total != 0, 1.0 / tl.where(total != 0, total, 1.0), 0.0)
        tl.store(dhidden + token.to(tl.int64) * D + columns, (gathered * factor).to(narrow), mask=inside)
        return
    if SOFTMAX:
        rest = constant_rest + 0.0
        if HAS_LOGQ:
            rest = tl.load(log_rest + token)
        # None where no negative is left, or all that are left score -inf. NaN is not, and stays.
        some = total != 0
        base = tl.where(some, top + tl.log(tl.where(some, total, 1.0)), float("-inf"))
        # A target that is no finite number makes z NaN: 0 would be a plausible loss.
        z = base + (rest - tl.log(tl.maximum(left, 1).to(tl.float32))) + (target_score - target_score)
        token_loss = log1p_exp(z)
        token_pull = sigmoid(z)
        if SCALED:
            token_pull *= scale
        # exp(s - log q - token_shift) is the gradient of a corrected score: softmax over the negatives times sigma(z).
        token_shift = tl.where(some, target_score + (base + log1p_exp(-z)), float("inf"))
        gathered = gathered * tl.where(some, token_pull / tl.where(some, total, 1.0), 0.0)
    else:
        token_loss = scale * (positive_weight * log1p_exp(-target_score) + total)
        token_pull = scale * positive_weight * sigmoid(-target_score)
        token_shift = tl.zeros((), tl.float32)
        gathered = gathered * scale
    tl.store(loss + token, tl.where(valid, token_loss, tl.where(counted, float("nan"), 0.0)))
    if lse is not None:
        tl.store(lse + token, tl.where(valid, target_score + token_loss, tl.where(counted, float("nan"), 0.0)))
    tl.store(shift + token, token_shift)
    tl.store(pull + token, tl.where(valid, token_pull, 0.0))
    if WITH_GRAD:
        gradient = tl.where(valid, gathered - token_pull * target_row, tl.where(counted, float("nan"), 0.0))
        tl.store(dhidden + token.to(tl.int64) * D + columns, gradient, mask=inside)


def launch_per_token_forward(
    call: SampledCall, outputs: SampledOutputs, constant_rest: float, tiles: PerTokenTiles
) -> None:
    """Fill the loss, shift, pull and, where the call wants it, dH of `outputs`."""
    per_token_forward_kernel[(call.hidden.shape[0],)](
        **forward_arguments(call, outputs, constant_rest),
        BLOCK_N=tiles.block_n, num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
