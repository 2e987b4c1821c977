"""Full loss, forward: loss, log-sum-exp and dH in one pass over the catalogue.

A program holds a tile of tokens and streams the item table, as flash attention streams keys:

    s_mj = h_m . w_j (+ b_j, capped),    p_mj = 2^(s_mj log2 e - r_m)
    T_m = sum_{j != t} p_mj,             A_m = sum_{j != t} p_mj w_j
    loss_m = log1p(T_m / e_m),  e_m = 2^(s_mt log2 e - r_m),   dH_m = (A_m - T_m w_t) / (T_m + e_m)

The target is masked out of p before p is rounded to 16 bits, and enters again in fp32 (epilogue.py).

The base r_m is fixed before the loop: the larger of the target's score and the best of the first tile. It is at
most the true maximum, and fp32 and bf16 leave room for scores far above it, so no running maximum and no rescaling of
A is needed. A tile of tokens whose sum leaves that room is computed again in the same program, ONLINE: with the usual
running maximum. fp16 has no such room: it always runs ONLINE, with p scaled by 2^P_SHIFT.

With `predicted` it also looks for the highest score of each token: a maximum per score and a comparison per tile. No
maximum is there to be had for nothing, because of the fixed base. Without it the kernel has no trace of it.

FLOPs: 4 M V D (2 M V D without gradients). Bytes: V D per tile of tokens, from L2; h and dH once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cce_kernels.full.call import FullCall
from cce_kernels.full.kernels.epilogue import finish_tokens, read_targets, score_targets, write_dhidden
from cce_kernels.full.kernels.merge import Splits, launch_merge
from cce_kernels.full.kernels.state import (
    FullOutputs,
    block_widths,
    can_stream,
    dot_precision,
    even_splits,
    exponent_scale,
    one_loop,
    stream_blocks,
)
from cce_kernels.full.kernels.tiles import (
    BELOW_HALF_RANGE,
    as_operand,
    cap_scores,
    cap_slope,
    in_parts,
    load_parts,
    load_tile,
    product,
    score_tile,
    split_parts,
    store_tile,
)
from cce_kernels.full.tuning import FullTiles

_NEVER = tl.constexpr(2**31 - 1)
_LOWEST_BASE = tl.constexpr(-1.0e30)


@triton.jit
def _items_step(first, end, h0, h1, acc0, acc1, total, base, next_target, best, best_item, safe, weight, stream0,
                stream1, bias, softcap, log2e, filter_eps, DIM: tl.constexpr, DIM0: tl.constexpr, DIM1: tl.constexpr,
                BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
                FILTER: tl.constexpr, WITH_DHIDDEN: tl.constexpr, ONLINE: tl.constexpr, P_SHIFT: tl.constexpr,
                PRECISION: tl.constexpr, TMA: tl.constexpr, MASKED: tl.constexpr,
                DTYPE: tl.constexpr, PREDICT: tl.constexpr):  # fmt: skip
    """Add one tile of items to the sums of one tile of tokens, and with PREDICT look for the highest score."""
    if TMA:
        w0 = stream0.load([first, 0])  # [BLOCK_V, DIM0]
        w1 = w0
        if DIM1 > 0:
            w1 = stream1.load([first, DIM0])
    else:
        w0 = as_operand(load_tile(weight, first, end - first, 0, DIM0, BLOCK_V, DIM, MASKED).to(DTYPE), PRECISION)
        w1 = w0
        if DIM1 > 0:
            w1 = load_tile(weight, first, end - first, DIM0, DIM1, BLOCK_V, DIM, MASKED).to(DTYPE)
            w1 = as_operand(w1, PRECISION)
    scores = score_tile(h0, h1, w0, w1, BLOCK_M, BLOCK_V, DIM1, PRECISION)  # [BLOCK_M, BLOCK_V]
    items = first + tl.arange(0, BLOCK_V)
    if HAS_BIAS:
        scores += tl.load(bias + items, mask=items < end, other=0.0).to(tl.float32)[None, :]
    if HAS_SOFTCAP:
        scores = cap_scores(scores, softcap)
    scores2 = scores * log2e
    if MASKED:
        scores2 = tl.where((items < end)[None, :], scores2, float("-inf"))
    if PREDICT:
        # The places are looked at only where a token's best rises, which happens log(V / BLOCK_V) times.
        highest = tl.max(scores2, axis=1)
        rises = highest > best
        if tl.max(rises.to(tl.int32), axis=0) > 0:
            best_item = tl.where(rises, first + tl.argmax(scores2, axis=1), best_item)
            best = tl.where(rises, highest, best)
    if ONLINE:
        raised = tl.maximum(base, tl.max(scores2, axis=1) - P_SHIFT)
        decay = tl.exp2(base - raised)
        total *= decay
        if WITH_DHIDDEN:
            acc0 *= decay[:, None]
            if DIM1 > 0:
                acc1 *= decay[:, None]
        base = raised
    p = tl.exp2(scores2 - base[:, None])
    if next_target < first + BLOCK_V:
        # A target of this tile of tokens is among these items, which is rare: two operations saved on every score.
        p = tl.where(items[None, :] == safe[:, None], 0.0, p)
        next_target = tl.min(tl.where(safe >= first + BLOCK_V, safe, _NEVER), axis=0)
    total += tl.sum(p, axis=1)
    if WITH_DHIDDEN:
        if HAS_SOFTCAP:
            rounded = as_operand((p * cap_slope(scores, softcap)).to(DTYPE), PRECISION)
        else:
            rounded = as_operand(p.to(DTYPE), PRECISION)
        if FILTER:
            # The running sum is a lower bound of the final one, so nothing above filter_eps is ever skipped.
            if tl.max(tl.max(p - filter_eps * total[:, None], axis=1), axis=0) >= 0.0:
                acc0 = product(rounded, w0, acc0, PRECISION)
                if DIM1 > 0:
                    acc1 = product(rounded, w1, acc1, PRECISION)
        else:
            acc0 = product(rounded, w0, acc0, PRECISION)
            if DIM1 > 0:
                acc1 = product(rounded, w1, acc1, PRECISION)
    return acc0, acc1, total, base, next_target, best, best_item


@triton.jit(do_not_specialize=["num_tokens", "items_per_split"])
def full_forward_kernel(hidden, held, weight, stream0, stream1, bias, targets, loss, lse, predicted, lse2, others,
                        dhidden, partial_sum, partial_base, partial_acc, partial_best, partial_item,
                        num_tokens, num_items, items_per_split, ignore_index, softcap, log2e, filter_eps,
                        DIM: tl.constexpr, DIM0: tl.constexpr, DIM1: tl.constexpr,
                        BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr, HAS_BIAS: tl.constexpr,
                        HAS_SOFTCAP: tl.constexpr, FILTER: tl.constexpr, WITH_DHIDDEN: tl.constexpr,
                        SPLIT: tl.constexpr, ONLINE: tl.constexpr, P_SHIFT: tl.constexpr,
                        PRECISION: tl.constexpr, TMA: tl.constexpr,
                        ONE_LOOP: tl.constexpr, SHARDED: tl.constexpr = False):  # fmt: skip
    """Grid (tiles of tokens, splits of the vocabulary); see the head of this file.

    SHARDED, which goes with SPLIT: targets are rows of this part of the table, or -1 where another part has the row.
    """
    tile = tl.program_id(0)
    split = tl.program_id(1)
    start = tile * BLOCK_M
    tokens = start + tl.arange(0, BLOCK_M)
    if SHARDED:
        safe = tl.load(targets + tokens, mask=tokens < num_tokens, other=-1).to(tl.int32)
    else:
        safe, ignored, invalid = read_targets(targets, tokens, num_tokens, num_items, ignore_index)
    DTYPE: tl.constexpr = hidden.dtype.element_ty
    h0 = load_tile(hidden, start, num_tokens - start, 0, DIM0, BLOCK_M, DIM, True)  # [BLOCK_M, DIM0]
    h1 = h0
    if DIM1 > 0:
        h1 = load_tile(hidden, start, num_tokens - start, DIM0, DIM1, BLOCK_M, DIM, True)
    if SHARDED:
        # No row is read for a target that lives elsewhere: the base is the best of the first tile, or finite without.
        target_score = tl.zeros([BLOCK_M], dtype=tl.float32) + _LOWEST_BASE
    else:
        target_score = score_targets(h0, h1, weight, bias, safe, softcap, DIM, DIM0, DIM1, HAS_BIAS, HAS_SOFTCAP)
    if in_parts(PRECISION):
        plane = tl.cast(num_tokens, tl.int64) * DIM
        h0 = load_parts(held, plane, start, num_tokens - start, 0, DIM0, BLOCK_M, DIM)
        h1 = h0
        if DIM1 > 0:
            h1 = load_parts(held, plane, start, num_tokens - start, DIM0, DIM1, BLOCK_M, DIM)

    begin = split * items_per_split
    end = tl.minimum(begin + items_per_split, num_items)
    base = target_score * log2e - P_SHIFT
    if not ONLINE:
        w0 = as_operand(load_tile(weight, begin, end - begin, 0, DIM0, BLOCK_V, DIM, True).to(DTYPE), PRECISION)
        w1 = w0
        if DIM1 > 0:
            w1 = load_tile(weight, begin, end - begin, DIM0, DIM1, BLOCK_V, DIM, True).to(DTYPE)
            w1 = as_operand(w1, PRECISION)
        scores = score_tile(h0, h1, w0, w1, BLOCK_M, BLOCK_V, DIM1, PRECISION)
        items = begin + tl.arange(0, BLOCK_V)
        if HAS_BIAS:
            scores += tl.load(bias + items, mask=items < end, other=0.0).to(tl.float32)[None, :]
        if HAS_SOFTCAP:
            scores = cap_scores(scores, softcap)
        scores = tl.where((items < end)[None, :], scores, float("-inf"))
        base = tl.maximum(base, tl.max(scores, axis=1) * log2e)

    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    acc0 = tl.zeros([BLOCK_M, DIM0], dtype=tl.float32)
    acc1 = tl.zeros([BLOCK_M, DIM1 if DIM1 > 0 else 16], dtype=tl.float32)
    next_target = tl.min(tl.where(safe >= begin, safe, _NEVER), axis=0)
    PREDICT: tl.constexpr = predicted is not None
    best = tl.zeros([BLOCK_M], dtype=tl.float32) - float("inf")
    best_item = tl.zeros([BLOCK_M], dtype=tl.int32)
    full_end = begin + (end - begin) // BLOCK_V * BLOCK_V
    if ONE_LOOP:
        full_end = end
    for first in range(begin, full_end, BLOCK_V):
        acc0, acc1, total, base, next_target, best, best_item = _items_step(
            first, end, h0, h1, acc0, acc1, total, base, next_target, best, best_item, safe, weight, stream0,
            stream1, bias, softcap, log2e, filter_eps, DIM, DIM0, DIM1, BLOCK_M, BLOCK_V, HAS_BIAS, HAS_SOFTCAP,
            FILTER, WITH_DHIDDEN, ONLINE, P_SHIFT, PRECISION, TMA, ONE_LOOP, DTYPE, PREDICT,
        )  # fmt: skip
    if not ONE_LOOP:
        if full_end < end:
            acc0, acc1, total, base, next_target, best, best_item = _items_step(
                full_end, end, h0, h1, acc0, acc1, total, base, next_target, best, best_item, safe, weight, stream0,
                stream1, bias, softcap, log2e, filter_eps, DIM, DIM0, DIM1, BLOCK_M, BLOCK_V, HAS_BIAS, HAS_SOFTCAP,
                FILTER, WITH_DHIDDEN, ONLINE, P_SHIFT, PRECISION, TMA, True, DTYPE, PREDICT,
            )  # fmt: skip

    inside = tokens < num_tokens
    if not ONLINE:
        # NaN fails the comparison too and is computed again. Rows past the end are zeros and cannot.
        if tl.min((total < BELOW_HALF_RANGE).to(tl.int32), axis=0) == 0:
            total = tl.zeros([BLOCK_M], dtype=tl.float32)
            acc0 = tl.zeros([BLOCK_M, DIM0], dtype=tl.float32)
            acc1 = tl.zeros([BLOCK_M, DIM1 if DIM1 > 0 else 16], dtype=tl.float32)
            base = target_score * log2e - P_SHIFT
            next_target = tl.min(tl.where(safe >= begin, safe, _NEVER), axis=0)
            for first in tl.range(begin, end, BLOCK_V, num_stages=1):
                acc0, acc1, total, base, next_target, best, best_item = _items_step(
                    first, end, h0, h1, acc0, acc1, total, base, next_target, best, best_item, safe, weight, stream0,
                    stream1, bias, softcap, log2e, filter_eps, DIM, DIM0, DIM1, BLOCK_M, BLOCK_V, HAS_BIAS, HAS_SOFTCAP,
                    FILTER, WITH_DHIDDEN, True, P_SHIFT, PRECISION, False, True, DTYPE, False,
                )  # fmt: skip
    if SPLIT:
        tl.store(partial_sum + split.to(tl.int64) * num_tokens + tokens, total, mask=inside)
        tl.store(partial_base + split.to(tl.int64) * num_tokens + tokens, base, mask=inside)
        if PREDICT:
            tl.store(partial_best + split.to(tl.int64) * num_tokens + tokens, best, mask=inside)
            tl.store(partial_item + split.to(tl.int64) * num_tokens + tokens, best_item, mask=inside)
        if WITH_DHIDDEN:
            rows = split.to(tl.int64) * num_tokens + start
            store_tile(partial_acc, rows, num_tokens - start, acc0, 0, DIM0, BLOCK_M, DIM)
            if DIM1 > 0:
                store_tile(partial_acc, rows, num_tokens - start, acc1, DIM0, DIM1, BLOCK_M, DIM)
    else:
        loss_m, lse_m, lse2_m, others_m, inverse = finish_tokens(
            total, base, target_score, ignored, invalid, softcap, log2e, HAS_SOFTCAP
        )
        tl.store(loss + tokens, loss_m, mask=inside)
        tl.store(lse + tokens, lse_m, mask=inside)
        if PREDICT:
            tl.store(predicted + tokens, best_item, mask=inside)
        tl.store(lse2 + tokens, lse2_m, mask=inside)
        tl.store(others + tokens, others_m, mask=inside)
        if WITH_DHIDDEN:
            write_dhidden(acc0, acc1, others_m, inverse, safe, ignored, invalid, weight, dhidden, start,
                          num_tokens, DTYPE, DIM, DIM0, DIM1, BLOCK_M)  # fmt: skip


def launch_forward(call: FullCall, outputs: FullOutputs, tiles: FullTiles, splits: int) -> None:
    """Write loss, log-sum-exp and dH of every token into `outputs`.

    The weight of `call` is the table or its copy in hidden's dtype. `splits`, at least 1, runs of the vocabulary are
    computed side by side.
    """
    parts = launch_splits(call, outputs, tiles, splits, sharded=False)
    if parts.sums.shape[0] > 1:
        launch_merge(call, outputs, parts)


def launch_splits(call: FullCall, outputs: FullOutputs, tiles: FullTiles, splits: int, *, sharded: bool) -> Splits:
    """As `launch_forward`, without the merge: returns what each split leaves.

    With `sharded` the table is part of a larger one, and the targets are its rows, or -1 where the target is not among
    them: only the sums are written, of a single split too.
    """
    hidden, weight, bias = call.hidden, call.weight, call.bias
    num_tokens, dim = hidden.shape
    num_items = weight.shape[0]
    dim0, dim1 = block_widths(hidden)
    held = split_parts(hidden) if hidden.dtype == torch.float32 else hidden
    splits, items_per_split = even_splits(num_items, splits, tiles.block_v)
    grid = (-(-num_tokens // tiles.block_m), splits)
    split = splits > 1 or sharded
    partial_sum = partial_base = partial_acc = outputs.loss[None]  # never read without a split
    if split:
        partial_sum, partial_base = (outputs.loss.new_empty(splits, num_tokens) for _ in range(2))
        partial_acc = outputs.loss.new_empty((splits, num_tokens, dim) if call.with_dhidden else 0)
    best = item = None
    if split and outputs.predicted is not None:
        best, item = torch.empty_like(partial_sum), torch.empty_like(partial_sum, dtype=torch.int32)
    tma = tiles.tma and can_stream(weight, hidden.dtype)
    stream = stream_blocks(weight, tiles.block_v, dim0, dim1) if tma else (weight, weight)
    half = hidden.dtype == torch.float16 and call.with_dhidden
    full_forward_kernel[grid](
        hidden, held, weight, *stream, weight if bias is None else bias, call.targets, *outputs, partial_sum,
        partial_base, partial_acc, best, item, num_tokens, num_items, items_per_split, call.ignore_index,
        call.softcap or 1.0, exponent_scale(call), call.filter_eps or 0.0, DIM=dim, DIM0=dim0, DIM1=dim1,
        BLOCK_M=tiles.block_m, BLOCK_V=tiles.block_v, HAS_BIAS=bias is not None, HAS_SOFTCAP=call.softcap is not None,
        FILTER=call.filter_eps is not None, WITH_DHIDDEN=call.with_dhidden, SPLIT=split, ONLINE=half,
        P_SHIFT=14 if half else 0,
        PRECISION=dot_precision(hidden), TMA=tma, ONE_LOOP=one_loop(hidden), SHARDED=sharded,
        **tiles.options(),
    )  # fmt: skip
    return Splits(partial_sum, partial_base, partial_acc, best, item)
