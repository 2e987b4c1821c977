"""Full loss, backward: dW (and db) of a tile of items, streaming the tokens. No atomics: deterministic.

The loss L_m = log sum_j e^(s_mj) - s_mt has the derivative dL_m/ds_mj = p_mj - [j = t_m], and s_mj = h_m . w_j + b_j.
With the upstream gradients g_m and o_m = 1 - p_mt

    p_mj = 2^(s_mj log2 e - lse2_m)      recomputed;  P' = p times the slope of the softcap, target masked to 0
    dW_j = sum_m P'_mj g_m h_m - sum_{m: t_m = j} pull_m h_m,      pull_m = o_m g_m,      db_j the same without h_m

With an upstream gradient e_m of the log-sum-exp, whose derivative is p_mj, g_m is g_m + e_m and pull_m is less by e_m.
The second sum runs over the tokens sorted by the tile of items that holds their target (a stable sort: a fixed order).
It is a product with a one-hot matrix whose entries -pull_m are given as a sum of two or three 16-bit numbers, which
keeps them to fp32's digits: at a fitted token o_m is all that is left, and one rounding of p_t - 1 would swamp it.
A program finds its tokens in the sorted order itself: two searches replace three launches.

g_m is 1 inside the kernel where all tokens share one factor (a mean or a sum): it multiplies the result once.
In fp16, p is scaled by 2^P_SHIFT and per-token factors by their largest, so that neither underflows.

FLOPs: 4 M V D. Bytes: M D per tile of items, from L2; W and dW once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cce_kernels.full.call import FullCall
from cce_kernels.full.kernels.state import (
    block_widths,
    can_stream,
    dot_precision,
    even_splits,
    exponent_scale,
    one_loop,
    stream_blocks,
)
from cce_kernels.full.kernels.targets import PARTS, SLOTS, add_targets, first_from, sort_by_tile
from cce_kernels.full.kernels.tiles import (
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

_P_SHIFT = 14  # fp16 holds 2^15, and a token's factor may come within a factor 2 of the largest
_NEVER = tl.constexpr(2**31 - 1)
_PARTS_BYTES = 48 << 20  # of the parts of the table that exist at once, fp32 only


@triton.jit
def _tokens_step(first, end, w0, w1, acc0, acc1, dbias, shift, next_token, place, high, items, item_bias, hidden,
                 stream0, stream1, targets, order, lse2, grad, softcap, log2e, filter_eps, grad_scale,
                 DIM: tl.constexpr, DIM0: tl.constexpr, DIM1: tl.constexpr, BLOCK_V: tl.constexpr,
                 BLOCK_M: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, FILTER: tl.constexpr,
                 PER_TOKEN: tl.constexpr, P_SHIFT: tl.constexpr, PRECISION: tl.constexpr,
                 TMA: tl.constexpr, MASKED: tl.constexpr, DTYPE: tl.constexpr):  # fmt: skip
    """Add one tile of tokens to the gradient of one tile of items."""
    if TMA:
        h0 = stream0.load([first, 0])  # [BLOCK_M, DIM0]
        h1 = h0
        if DIM1 > 0:
            h1 = stream1.load([first, DIM0])
    else:
        h0 = as_operand(load_tile(hidden, first, end - first, 0, DIM0, BLOCK_M, DIM, MASKED), PRECISION)
        h1 = h0
        if DIM1 > 0:
            h1 = as_operand(load_tile(hidden, first, end - first, DIM0, DIM1, BLOCK_M, DIM, MASKED), PRECISION)
    tokens = first + tl.arange(0, BLOCK_M)
    if MASKED:
        shift = tl.load(lse2 + tokens, mask=tokens < end, other=float("inf"))
        later = shift
    else:
        # Read one step ahead into registers. In Triton's pipeline every thread would copy its share of these few
        # numbers through shared memory.
        last = tl.zeros([BLOCK_M], dtype=tl.int32) + (first + 2 * BLOCK_M)
        later = tl.load(lse2 + tokens + BLOCK_M, mask=last <= end, other=float("inf"))
    scores = score_tile(w0, w1, h0, h1, BLOCK_V, BLOCK_M, DIM1, PRECISION)  # [BLOCK_V, BLOCK_M]
    if HAS_BIAS:
        scores += item_bias[:, None]
    if HAS_SOFTCAP:
        scores = cap_scores(scores, softcap)
    p = tl.exp2(scores * log2e - (shift - P_SHIFT)[None, :])
    if next_token < first + BLOCK_M:
        # A token of this tile has its target among these items, which is rare: no targets are read otherwise.
        target = tl.load(targets + tokens, mask=tokens < end, other=-1).to(tl.int32)
        p = tl.where(items[:, None] == target[None, :], 0.0, p)
        places = place + tl.arange(0, BLOCK_M)
        passed = tl.load(order + places, mask=places < high, other=_NEVER) < first + BLOCK_M
        place += tl.sum(passed.to(tl.int32), axis=0)
        next_token = tl.load(order + place, mask=place < high, other=_NEVER)
    keep = True
    if FILTER:
        keep = tl.max(tl.max(p, axis=1), axis=0) >= filter_eps
    if keep:
        if HAS_SOFTCAP:
            p *= cap_slope(scores, softcap)
        if PER_TOKEN:
            if MASKED:
                factor = tl.load(grad + tokens, mask=tokens < end, other=0.0)
            else:
                factor = tl.load(grad + tokens)
            p *= (factor * grad_scale)[None, :]
        if HAS_BIAS:
            dbias += tl.sum(p, axis=1)
        rounded = as_operand(p.to(DTYPE), PRECISION)
        acc0 = product(rounded, h0, acc0, PRECISION)
        if DIM1 > 0:
            acc1 = product(rounded, h1, acc1, PRECISION)
    return acc0, acc1, dbias, later, next_token, place


@triton.jit(do_not_specialize=["num_tokens", "tokens_per_split", "first_tile", "held_rows"])
def full_backward_kernel(hidden, stream0, stream1, weight, held, bias, targets, lse2, pull, grad, range_scale, order,
                         target_tiles, dweight, dbias_out, num_tokens, num_items, tokens_per_split, first_tile,
                         held_rows, softcap, log2e, filter_eps,
                         DIM: tl.constexpr, DIM0: tl.constexpr, DIM1: tl.constexpr,
                         BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_T: tl.constexpr,
                         HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, FILTER: tl.constexpr,
                         PER_TOKEN: tl.constexpr, P_SHIFT: tl.constexpr, PARTS: tl.constexpr,
                         SLOTS: tl.constexpr, PRECISION: tl.constexpr, TMA: tl.constexpr, STAGED: tl.constexpr,
                         ONE_LOOP: tl.constexpr):  # fmt: skip
    """Grid (tiles of items from first_tile on, splits of the tokens); see the head of this file."""
    tile = first_tile + tl.program_id(0)
    split = tl.program_id(1)
    start = tile * BLOCK_V
    items = start + tl.arange(0, BLOCK_V)
    rows_left = num_items - start
    row = split.to(tl.int64) * num_items + start
    DTYPE: tl.constexpr = hidden.dtype.element_ty
    if in_parts(PRECISION):
        # The parts begin at first_tile.
        plane = tl.cast(held_rows, tl.int64) * DIM
        own = tl.program_id(0) * BLOCK_V
        w0 = load_parts(held, plane, own, rows_left, 0, DIM0, BLOCK_V, DIM)
        w1 = w0
        if DIM1 > 0:
            w1 = load_parts(held, plane, own, rows_left, DIM0, DIM1, BLOCK_V, DIM)
    else:
        w0 = load_tile(weight, start, rows_left, 0, DIM0, BLOCK_V, DIM, True).to(DTYPE)
        w1 = w0
        if DIM1 > 0:
            w1 = load_tile(weight, start, rows_left, DIM0, DIM1, BLOCK_V, DIM, True).to(DTYPE)
    if STAGED:
        # The tile of a wider table is stored where its dW will be, which is as wide and not yet written, and read back.
        # A tile converted in registers would stay there through the loop: accumulators are spilled, and ptxas runs the
        # products one by one.
        staged = (dweight + row * DIM).to(tl.pointer_type(hidden.dtype.element_ty))
        store_tile(staged, 0, rows_left, w0, 0, DIM0, BLOCK_V, DIM)
        if DIM1 > 0:
            store_tile(staged, 0, rows_left, w1, DIM0, DIM1, BLOCK_V, DIM)
        tl.debug_barrier()
        w0 = load_tile(staged, 0, rows_left, 0, DIM0, BLOCK_V, DIM, True)
        if DIM1 > 0:
            w1 = load_tile(staged, 0, rows_left, DIM0, DIM1, BLOCK_V, DIM, True)
    item_bias = tl.zeros([BLOCK_V], dtype=tl.float32)
    if HAS_BIAS:
        item_bias = tl.load(bias + items, mask=items < num_items, other=0.0).to(tl.float32)
    grad_scale = 1.0
    if PER_TOKEN and P_SHIFT > 0:
        grad_scale = tl.load(range_scale)

    acc0 = tl.zeros([BLOCK_V, DIM0], dtype=tl.float32)
    acc1 = tl.zeros([BLOCK_V, DIM1 if DIM1 > 0 else 16], dtype=tl.float32)
    dbias = tl.zeros([BLOCK_V], dtype=tl.float32)
    begin = split * tokens_per_split
    end = tl.minimum(begin + tokens_per_split, num_tokens)
    low = first_from(target_tiles, num_tokens, tile)
    high = first_from(target_tiles, num_tokens, tile + 1)
    place = low
    next_token = tl.load(order + place, mask=place < high, other=_NEVER)
    ahead = begin + tl.arange(0, BLOCK_M)
    shift = tl.load(lse2 + ahead, mask=ahead < end, other=float("inf"))
    full_end = begin + (end - begin) // BLOCK_M * BLOCK_M
    if ONE_LOOP:
        full_end = end
    for first in range(begin, full_end, BLOCK_M):
        acc0, acc1, dbias, shift, next_token, place = _tokens_step(
            first, end, w0, w1, acc0, acc1, dbias, shift, next_token, place, high, items, item_bias, hidden,
            stream0, stream1, targets, order, lse2, grad, softcap, log2e, filter_eps * (2.0**P_SHIFT), grad_scale,
            DIM, DIM0, DIM1, BLOCK_V, BLOCK_M, HAS_BIAS, HAS_SOFTCAP, FILTER, PER_TOKEN, P_SHIFT, PRECISION, TMA,
            ONE_LOOP, DTYPE,
        )  # fmt: skip
    if not ONE_LOOP:
        if full_end < end:
            acc0, acc1, dbias, shift, next_token, place = _tokens_step(
                full_end, end, w0, w1, acc0, acc1, dbias, shift, next_token, place, high, items, item_bias, hidden,
                stream0, stream1, targets, order, lse2, grad, softcap, log2e, filter_eps * (2.0**P_SHIFT), grad_scale,
                DIM, DIM0, DIM1, BLOCK_V, BLOCK_M, HAS_BIAS, HAS_SOFTCAP, FILTER, PER_TOKEN, P_SHIFT, PRECISION, TMA,
                True, DTYPE,
            )  # fmt: skip
    share = tl.cdiv(high - low, tl.num_programs(1))
    acc0, acc1, dbias = add_targets(
        low + split * share, tl.minimum(low + (split + 1) * share, high), acc0, acc1, dbias, items, hidden, order,
        targets, pull, grad_scale, DIM, DIM0, DIM1, BLOCK_T, HAS_BIAS, PER_TOKEN, P_SHIFT, PARTS, SLOTS, PRECISION,
    )  # fmt: skip

    factor = 2.0**-P_SHIFT / grad_scale
    if not PER_TOKEN:
        factor *= tl.load(grad)
    store_tile(dweight, row, rows_left, acc0 * factor, 0, DIM0, BLOCK_V, DIM)
    if DIM1 > 0:
        store_tile(dweight, row, rows_left, acc1 * factor, DIM0, DIM1, BLOCK_V, DIM)
    if HAS_BIAS:
        out = dbias_out + split.to(tl.int64) * num_items + items
        tl.store(out, (dbias * factor).to(dbias_out.dtype.element_ty), mask=items < num_items)


def launch_backward(
    call: FullCall, lse2: Tensor, pull: Tensor, grad: Tensor, tiles: FullTiles, splits: int
) -> tuple[Tensor, Tensor | None]:
    """Compute dW [V, D] and db [V] or None, in the dtypes of weight and bias.

    `lse2`, fp32 [M], comes from the forward. `grad` is the upstream gradient, fp32, [M] or a scalar for all tokens, and
    `pull`, fp32 [M], that of the targets' scores with the opposite sign, from which a scalar `grad` is left out.
    `splits`, at least 1, runs of the tokens are computed side by side; their gradients are added in order.
    """
    hidden, weight, bias = call.hidden, call.weight, call.bias
    num_tokens, dim = hidden.shape
    num_items = weight.shape[0]
    dim0, dim1 = block_widths(hidden)
    splits, tokens_per_split = even_splits(num_tokens, splits, tiles.block_m)
    order, target_tiles = sort_by_tile(call.targets, tiles.block_v)
    tma = tiles.tma and can_stream(hidden, hidden.dtype)
    stream = stream_blocks(hidden, tiles.block_m, dim0, dim1) if tma else (hidden, hidden)
    p_shift = _P_SHIFT if hidden.dtype == torch.float16 else 0
    range_scale = _range_scale(grad, pull) if grad.dim() > 0 and p_shift > 0 else grad
    partial = splits > 1
    dweight = weight.new_empty((splits, num_items, dim), dtype=torch.float32 if partial else weight.dtype)
    dbias = dweight  # never written without a bias
    if bias is not None:
        dbias = bias.new_empty((splits, num_items), dtype=torch.float32 if partial else bias.dtype)
    # In fp32 the table is split into its bf16 parts a run of rows at a time; otherwise one run is all of it.
    in_fp32 = hidden.dtype == torch.float32
    run = number = -(-num_items // tiles.block_v)  # tiles of items
    if in_fp32:
        run = min(number, max(1, _PARTS_BYTES // (6 * dim * tiles.block_v)))
    for first_tile in range(0, number, run):
        first_row = first_tile * tiles.block_v
        rows = min(run * tiles.block_v, num_items - first_row)
        held = split_parts(weight[first_row : first_row + rows]) if in_fp32 else weight
        full_backward_kernel[-(-rows // tiles.block_v), splits](
            hidden, *stream, weight, held, weight if bias is None else bias,
            call.targets, lse2, pull, grad, range_scale, order, target_tiles, dweight, dbias, num_tokens, num_items,
            tokens_per_split, first_tile, rows, call.softcap or 1.0, exponent_scale(call),
            call.filter_eps or 0.0, DIM=dim, DIM0=dim0, DIM1=dim1, BLOCK_V=tiles.block_v, BLOCK_M=tiles.block_m,
            BLOCK_T=32, HAS_BIAS=bias is not None, HAS_SOFTCAP=call.softcap is not None,
            FILTER=call.filter_eps is not None, PER_TOKEN=grad.dim() > 0, P_SHIFT=p_shift,
            PARTS=PARTS[hidden.dtype], SLOTS=SLOTS[hidden.dtype],
            PRECISION=dot_precision(hidden), TMA=tma, STAGED=weight.dtype.itemsize > hidden.dtype.itemsize,
            ONE_LOOP=one_loop(hidden), **tiles.options(),
        )  # fmt: skip
    if not partial:
        return dweight[0], None if bias is None else dbias[0]
    return dweight.sum(0).to(weight.dtype), None if bias is None else dbias.sum(0).to(bias.dtype)


def _range_scale(grad: Tensor, pull: Tensor) -> Tensor:
    """Power of two [1] that brings the largest upstream gradient of a token to between one half and 1."""
    _, exponent = torch.frexp(torch.maximum(grad.abs(), pull.abs()).amax(0, keepdim=True))
    return torch.ldexp(torch.ones_like(grad[:1]), -exponent)
