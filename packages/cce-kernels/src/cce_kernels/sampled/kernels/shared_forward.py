"""Sampled losses with shared negatives, forward: loss and dH in one pass, on the tensor cores.

The scores of a group are the product of its vectors and its gathered rows. Softmax, with c = rest - log N_m:

    T_m = sum_n exp(s'_n - s_t),  A_m = sum_n exp(s'_n - s_t) w_n,   z = c + log T,   loss = softplus(z)
    dH_m = sigma(z) (A / T - w_t)
    shift_m = s_t + log T + softplus(-z), so that exp(s' - shift) = sigma(z) softmax_n

Exponents are relative to the target's score: there is no running maximum and no rescaling of A between the products
(ptxas would then run all of them one by one). fp32 and bf16 have room for negatives 60 above the target; a tile of
tokens that needs more is computed a second time, ONLINE: with the usual running maximum. fp16 has no such room and
always runs ONLINE. The pointwise objectives are those of per_token_forward.py.
The target's row never enters a matrix product: hits are masked, and its score and pull are added in fp32.

Bytes: G N D of the table's dtype gathered (G groups), M D read and written. FLOPs: 4 M N D.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cce_kernels.kernels.dot import dot
from cce_kernels.sampled.call import SampledCall
from cce_kernels.sampled.kernels.draw import STORED_TABLE, count_draws, draw_once, first_group, read_size
from cce_kernels.sampled.kernels.math import log1p_exp, sigmoid
from cce_kernels.sampled.kernels.state import UNSPECIALIZED, SampledOutputs, dot_precision, forward_arguments
from cce_kernels.sampled.tuning import SharedTiles

_LOWEST = tl.constexpr(-3.4028234663852886e38)
_LOWEST_BASE = tl.constexpr(-1.0e30)  # the base of no terms, below that of any term
_ROOM = tl.constexpr(1e26)  # e^60: sums below it leave room for weights of any sane size


@triton.jit
def _sum_negatives(
    h, target, target_score, weight, bias, log_q, seed, step, row, bound, id_table, num_negatives,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, SOFTMAX: tl.constexpr,
    TABLE: tl.constexpr, HAS_LOGQ: tl.constexpr, HAS_BIAS: tl.constexpr, WITH_GRAD: tl.constexpr,
    PRECISION: tl.constexpr, ONLINE: tl.constexpr,
):  # fmt: skip
    """Base of the exponents, relative to s_t, T and negatives left, all [BLOCK_T], and A [BLOCK_T, BLOCK_D]."""
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    top = tl.zeros((BLOCK_T,), tl.float32)
    if ONLINE:
        top -= float("inf")
    total = tl.zeros((BLOCK_T,), tl.float32)
    left = tl.zeros((BLOCK_T,), tl.float32)
    gathered = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    for first in range(0, num_negatives, BLOCK_N):
        ids = draw_once(seed, step, row, first, bound, id_table, TABLE, BLOCK_N)
        drawn = first + tl.arange(0, BLOCK_N) < num_negatives
        rows = tl.load(weight + ids[:, None] * D + columns[None, :], mask=drawn[:, None] & inside[None, :], other=0.0)
        rows = rows.to(h.dtype)
        scores = dot(h, tl.trans(rows), tl.zeros((BLOCK_T, BLOCK_N), tl.float32), PRECISION)
        if HAS_BIAS:
            scores += tl.load(bias + ids).to(tl.float32)[None, :]
        if HAS_LOGQ:
            # The target's score first, so that log q is not rounded at the size of the scores.
            scores = scores - target_score[:, None] - tl.load(log_q + ids)[None, :]
        kept = (ids.to(tl.int32)[None, :] != target[:, None]) & drawn[None, :]
        if SOFTMAX:
            # A score of -inf becomes fp32's lowest number, whose share of the sums is 0 too. So hits alone are -inf,
            # and are counted in the registers of the scores: `kept` itself is summed in a layout of its own, for which
            # all ids are compared again (D 64: 1,373 instructions in the loop for 833, and 412 B spilled).
            scores = tl.maximum(scores, _LOWEST, propagate_nan=tl.PropagateNan.ALL)
            scores = tl.where(kept, scores, float("-inf"))
            left += tl.sum(tl.where(scores == float("-inf"), 0.0, 1.0), 1)
        if SOFTMAX and not ONLINE:
            shares = tl.exp(scores if HAS_LOGQ else scores - target_score[:, None])
            total += tl.sum(shares, 1)
        elif SOFTMAX:
            new_top = tl.maximum(top, tl.max(scores, 1))
            base = tl.where(new_top == float("-inf"), 0.0, new_top)
            shrink = tl.exp(top - base)
            shares = tl.exp(scores - base[:, None])
            total = total * shrink + tl.sum(shares, 1)
            top = new_top
            if WITH_GRAD:
                gathered = gathered * shrink[:, None]
        else:
            shares = tl.where(kept, sigmoid(scores), 0.0)
            total += tl.sum(tl.where(kept, log1p_exp(scores), 0.0), 1)
        if WITH_GRAD:
            gathered = dot(shares.to(h.dtype), rows, gathered, PRECISION)
    if ONLINE and not HAS_LOGQ:
        top -= target_score
    return top, total, left, gathered


@triton.jit(do_not_specialize=UNSPECIALIZED)
def shared_forward_kernel(
    hidden, weight, bias, targets, shift, pull, log_q, seed_ptr, step_ptr, size_ptr, offset_ptr, id_table,
    log_rest, loss, dhidden, constant_rest,
    size, num_tokens, num_items, num_negatives, first_row, ignore_index, positive_weight, scale,
    group_shift, row_stride,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
    GROUP_TOKENS: tl.constexpr, PROGRAMS: tl.constexpr,
    SOFTMAX: tl.constexpr, TABLE: tl.constexpr, HAS_LOGQ: tl.constexpr, HAS_BIAS: tl.constexpr,
    WITH_GRAD: tl.constexpr, PRECISION: tl.constexpr, ONLINE: tl.constexpr, HAS_OFFSET: tl.constexpr,
):  # fmt: skip
    """Grid (groups x programs of a group,); see the head of this file, and per_token_forward.py for stored ids."""
    group = tl.program_id(0) // PROGRAMS
    in_group = (tl.program_id(0) % PROGRAMS) * BLOCK_T + tl.arange(0, BLOCK_T)
    first_row, group_shift = first_group(offset_ptr, first_row, group_shift, GROUP_TOKENS, TABLE, HAS_OFFSET)
    tokens = group.to(tl.int64) * GROUP_TOKENS - group_shift + in_group  # [BLOCK_T]
    exists = (in_group < GROUP_TOKENS) & (tokens >= 0) & (tokens < num_tokens)
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    raw = tl.load(targets + tokens, mask=exists, other=0)
    counted = exists & (raw != ignore_index)
    valid = counted & (raw >= 0) & (raw < num_items)
    safe = tl.where(valid, raw, 0)
    target = tl.where(valid, raw, -1).to(tl.int32)
    if TABLE == STORED_TABLE:
        valid = counted
    seed, step, bound = tl.load(seed_ptr), tl.load(step_ptr), read_size(size, size_ptr, TABLE)
    row = first_row + group.to(tl.int64) * row_stride
    num_negatives = count_draws(num_negatives, size_ptr, row, TABLE)

    places = tokens[:, None] * D + columns[None, :]
    h = tl.load(hidden + places, mask=exists[:, None] & inside[None, :], other=0.0)
    target_places = safe[:, None] * D + columns[None, :]
    target_rows = tl.load(weight + target_places, mask=valid[:, None] & inside[None, :], other=0.0)
    target_score = tl.sum(h.to(tl.float32) * target_rows.to(h.dtype).to(tl.float32), 1)
    if HAS_BIAS:
        target_score += tl.load(bias + safe).to(tl.float32)
    if TABLE == STORED_TABLE:
        target_score = tl.zeros((BLOCK_T,), tl.float32)  # known to one process alone: no base of exponents

    top, total, left, gathered = _sum_negatives(
        h, target, target_score, weight, bias, log_q, seed, step, row, bound, id_table, num_negatives,
        D, BLOCK_D, BLOCK_N, BLOCK_T, SOFTMAX, TABLE, HAS_LOGQ, HAS_BIAS, WITH_GRAD, PRECISION, ONLINE,
    )  # fmt: skip
    if SOFTMAX and not ONLINE:
        # NaN is not below any bound: it is computed again too.
        within = (total < _ROOM) | (valid == 0)
        if tl.min(within.to(tl.int32), 0) == 0:
            top, total, left, gathered = _sum_negatives(
                h, target, target_score, weight, bias, log_q, seed, step, row, bound, id_table, num_negatives,
                D, BLOCK_D, BLOCK_N, BLOCK_T, SOFTMAX, TABLE, HAS_LOGQ, HAS_BIAS, WITH_GRAD, PRECISION, True,
            )  # fmt: skip

    if TABLE == STORED_TABLE:
        tl.store(loss + tokens, total, mask=exists)
        tl.store(shift + tokens, tl.maximum(top, _LOWEST_BASE), mask=exists)
        tl.store(pull + tokens, left, mask=exists)
        factor = tl.zeros((BLOCK_T,), tl.float32) + scale
        if SOFTMAX:
            factor = tl.where(total != 0, 1.0 / tl.where(total != 0, total, 1.0), 0.0)
        mean = (gathered * factor[:, None]).to(h.dtype)
        tl.store(dhidden + places, mean, mask=exists[:, None] & inside[None, :])
        return
    if SOFTMAX:
        rest = tl.zeros((BLOCK_T,), tl.float32) + constant_rest
        if HAS_LOGQ:
            rest = tl.load(log_rest + tokens, mask=exists, other=0.0)
        rest -= tl.log(tl.maximum(left, 1.0))
        # A sum of 0, where every term is below fp32's range or a hit, makes z -inf, and loss and gradient 0; unless the
        # target is no finite number: then NaN.
        base = tl.where(total != 0, top, 0.0) + tl.log(total)
        z = rest + base + (target_score - target_score)
        token_loss = log1p_exp(z)
        token_pull = sigmoid(z)
        token_shift = tl.where(total != 0, target_score + (base + log1p_exp(-z)), float("inf"))
        factor = tl.where(total != 0, token_pull / total, 0.0)
    else:
        token_loss = scale * (positive_weight * log1p_exp(-target_score) + total)
        token_pull = scale * positive_weight * sigmoid(-target_score)
        token_shift = tl.zeros((BLOCK_T,), tl.float32)
        factor = tl.zeros((BLOCK_T,), tl.float32) + scale
    wrong = tl.where(counted, float("nan"), 0.0)
    tl.store(loss + tokens, tl.where(valid, token_loss, wrong), mask=exists)
    tl.store(shift + tokens, token_shift, mask=exists)
    tl.store(pull + tokens, tl.where(valid, token_pull, 0.0), mask=exists)
    if WITH_GRAD:
        # The addresses are computed again, from a number that the compiler does not know to be 0: kept through the loop
        # they would take 64 registers of every thread, and accumulators would be spilled.
        nothing = tl.load(targets + tokens, mask=exists, other=0, volatile=True) - raw
        target_places = (safe + nothing)[:, None] * D + columns[None, :]
        target_rows = tl.load(weight + target_places, mask=valid[:, None] & inside[None, :], other=0.0)
        # One 64-bit address for the tile; inside it 32 bits are enough, and half the registers.
        first = group.to(tl.int64) * GROUP_TOKENS - group_shift + (tl.program_id(0) % PROGRAMS) * BLOCK_T
        places = (tl.arange(0, BLOCK_T) + nothing.to(tl.int32))[:, None] * D + columns[None, :]
        gradient = gathered * factor[:, None] - token_pull[:, None] * target_rows.to(h.dtype).to(tl.float32)
        gradient = tl.where(valid[:, None], gradient, wrong[:, None])
        tl.store(dhidden + first * D + places, gradient, mask=exists[:, None] & inside[None, :])


def launch_shared_forward(call: SampledCall, outputs: SampledOutputs, constant_rest: float, tiles: SharedTiles) -> None:
    """Fill the loss, shift, pull and, where the call wants it, dH of `outputs`."""
    programs = tiles.programs(call.group_tokens)
    arguments = forward_arguments(call, outputs, constant_rest)
    online = call.hidden.dtype == torch.float16 or not arguments["SOFTMAX"] or call.own_counts is not None
    shared_forward_kernel[(call.num_groups * programs,)](
        **arguments, group_shift=call.group_shift, row_stride=call.row_stride,
        BLOCK_N=tiles.block_n, BLOCK_T=tiles.block_t, GROUP_TOKENS=call.group_tokens, PROGRAMS=programs,
        PRECISION=dot_precision(call.hidden), ONLINE=online, num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
