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
    h, target, target_score, weight, bias, log_q, seed, step, row, bound, id_table, num_negatives, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, SOFTMAX: tl.constexpr,
    TABLE: tl.constexpr, HAS_LOGQ: tl.constexpr, HAS_BIAS: tl.constexpr, SCALED: tl.constexpr, WITH_GRAD: tl.constexpr,
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
        if SCALED:
            scores *= scale
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


@triton.jit
def _tokens(targets, first, begin, num_tokens, num_items, ignore_index, GROUP_TOKENS: tl.constexpr,
            BLOCK_T: tl.constexpr):  # fmt: skip
    """Rows of a tile of tokens, int64, whether they exist, count and have a valid target, and a safe id of it."""
    tokens = first + tl.arange(0, BLOCK_T)
    exists = (begin + tl.arange(0, BLOCK_T) < GROUP_TOKENS) & (tokens >= 0) & (tokens < num_tokens)
    target = tl.load(targets + tokens, mask=exists, other=0)
    counted = exists & (target != ignore_index)
    valid = counted & (target >= 0) & (target < num_items)
    return tokens, exists, counted, valid, tl.where(valid, target, 0)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def shared_forward_kernel(
    hidden, weight, bias, targets, shift, pull, log_q, seed_ptr, step_ptr, size_ptr, offset_ptr, id_table,
    log_rest, loss, lse, dhidden, constant_rest,
    size, num_tokens, num_items, num_negatives, first_row, ignore_index, positive_weight, scale,
    group_shift, row_stride,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr,
    GROUP_TOKENS: tl.constexpr, PROGRAMS: tl.constexpr,
    SOFTMAX: tl.constexpr, TABLE: tl.constexpr, HAS_LOGQ: tl.constexpr, HAS_BIAS: tl.constexpr,
    WITH_GRAD: tl.constexpr, PRECISION: tl.constexpr, ONLINE: tl.constexpr, PART: tl.constexpr,
    HAS_OFFSET: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Grid (groups x programs of a group,); see the head of this file, and per_token_forward.py for stored ids."""
    group = tl.program_id(0) // PROGRAMS
    first_row, group_shift = first_group(offset_ptr, first_row, group_shift, GROUP_TOKENS, TABLE, HAS_OFFSET)
    begin = (tl.program_id(0) % PROGRAMS) * BLOCK_T
    first = group.to(tl.int64) * GROUP_TOKENS - group_shift + begin
    tokens, exists, counted, valid, safe = _tokens(
        targets, first, begin, num_tokens, num_items, ignore_index, GROUP_TOKENS, BLOCK_T
    )
    target = tl.where(valid, safe, -1).to(tl.int32)
    step = tl.load(step_ptr)
    seed, bound = tl.load(seed_ptr), read_size(size, size_ptr, TABLE)
    row = first_row + group.to(tl.int64) * row_stride
    num_negatives = count_draws(num_negatives, size_ptr, row, TABLE)

    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    target_score = tl.zeros((BLOCK_T,), tl.float32)
    for start in tl.range(0, D, PART, num_stages=1):
        some = start + tl.arange(0, PART)
        there = exists[:, None] & (some < D)[None, :]
        part = tl.load(hidden + tokens[:, None] * D + some[None, :], mask=there, other=0.0)
        own = tl.load(weight + safe[:, None] * D + some[None, :], mask=valid[:, None] & there, other=0.0)
        target_score += tl.sum(part.to(tl.float32) * own.to(part.dtype).to(tl.float32), 1)
    if HAS_BIAS:
        target_score += tl.load(bias + safe).to(tl.float32)
    if SCALED:
        target_score *= scale
    if TABLE == STORED_TABLE:
        target_score = tl.zeros((BLOCK_T,), tl.float32)  # known to one process alone: no base of exponents
        valid = counted
    h = tl.load(hidden + tokens[:, None] * D + columns[None, :], mask=exists[:, None] & inside[None, :], other=0.0)

    top, total, left, gathered = _sum_negatives(
        h, target, target_score, weight, bias, log_q, seed, step, row, bound, id_table, num_negatives,
        scale, D, BLOCK_D, BLOCK_N, BLOCK_T, SOFTMAX, TABLE, HAS_LOGQ, HAS_BIAS, SCALED, WITH_GRAD, PRECISION, ONLINE,
    )  # fmt: skip
    if SOFTMAX and not ONLINE:
        # NaN is not below any bound: it is computed again too.
        within = (total < _ROOM) | (valid == 0)
        if tl.min(within.to(tl.int32), 0) == 0:
            top, total, left, gathered = _sum_negatives(
                h, target, target_score, weight, bias, log_q, seed, step, row, bound, id_table, num_negatives,
                scale, D, BLOCK_D, BLOCK_N, BLOCK_T, SOFTMAX, TABLE, HAS_LOGQ, HAS_BIAS, SCALED, WITH_GRAD, PRECISION,
                True,
            )  # fmt: skip

    if TABLE == STORED_TABLE:
        tl.store(loss + tokens, total, mask=exists)
        tl.store(shift + tokens, tl.maximum(top, _LOWEST_BASE), mask=exists)
        tl.store(pull + tokens, left, mask=exists)
        factor = tl.zeros((BLOCK_T,), tl.float32) + scale
        if SOFTMAX:
            factor = tl.where(total != 0, 1.0 / tl.where(total != 0, total, 1.0), 0.0)
        places = tokens[:, None] * D + columns[None, :]
        mean = (gathered * factor[:, None]).to(h.dtype)
        tl.store(dhidden + places, mean, mask=exists[:, None] & inside[None, :])
        return
    # From here on everything about tokens is worked out again, from a 0 that the compiler does not know: kept through
    # the loop, a vector of them would take 32 or 64 registers of every thread, and be spilled (TUNING.md).
    nothing = (tl.load(step_ptr, volatile=True) - step).to(tl.int32)
    tokens, exists, counted, valid, safe = _tokens(
        targets, first + nothing, begin, num_tokens, num_items, ignore_index, GROUP_TOKENS, BLOCK_T
    )
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
        if SCALED:
            token_pull *= scale
        token_shift = tl.where(total != 0, target_score + (base + log1p_exp(-z)), float("inf"))
        factor = tl.where(total != 0, token_pull / total, 0.0)
    else:
        token_loss = scale * (positive_weight * log1p_exp(-target_score) + total)
        token_pull = scale * positive_weight * sigmoid(-target_score)
        token_shift = tl.zeros((BLOCK_T,), tl.float32)
        factor = tl.zeros((BLOCK_T,), tl.float32) + scale
    wrong = tl.where(counted, float("nan"), 0.0)
    tl.store(loss + tokens, tl.where(valid, token_loss, wrong), mask=exists)
    if lse is not None:
        tl.store(lse + tokens, tl.where(valid, target_score + token_loss, wrong), mask=exists)
    tl.store(shift + tokens, token_shift, mask=exists)
    tl.store(pull + tokens, tl.where(valid, token_pull, 0.0), mask=exists)
    if WITH_GRAD:
        # The target's row is subtracted in memory, some columns at a time, because the sums leave too few registers.
        rows = dhidden + tokens[:, None] * D
        tl.store(rows + columns[None, :], gathered * factor[:, None], mask=exists[:, None] & inside[None, :])
        tl.debug_barrier()
        for start in tl.range(0, D, PART, num_stages=1):
            some = start + tl.arange(0, PART)
            there = exists[:, None] & (some < D)[None, :]
            own = tl.load(weight + safe[:, None] * D + some[None, :], mask=valid[:, None] & there, other=0.0)
            gradient = tl.load(rows + some[None, :], mask=there, other=0.0)
            gradient -= token_pull[:, None] * own.to(h.dtype).to(tl.float32)
            tl.store(rows + some[None, :], tl.where(valid[:, None], gradient, wrong[:, None]), mask=there)


def launch_shared_forward(call: SampledCall, outputs: SampledOutputs, constant_rest: float, tiles: SharedTiles) -> None:
    """Fill the loss, shift, pull and, where the call wants it, dH of `outputs`."""
    programs = tiles.programs(call.group_tokens)
    arguments = forward_arguments(call, outputs, constant_rest)
    online = call.hidden.dtype == torch.float16 or not arguments["SOFTMAX"] or call.own_counts is not None
    shared_forward_kernel[(call.num_groups * programs,)](
        **arguments, group_shift=call.group_shift, row_stride=call.row_stride,
        BLOCK_N=tiles.block_n, BLOCK_T=tiles.block_t, GROUP_TOKENS=call.group_tokens, PROGRAMS=programs,
        PRECISION=dot_precision(call.hidden), ONLINE=online,
        PART=min(64, arguments["BLOCK_D"]), num_warps=tiles.num_warps, num_stages=tiles.num_stages,
        maxnreg=tiles.registers,
    )  # fmt: skip
