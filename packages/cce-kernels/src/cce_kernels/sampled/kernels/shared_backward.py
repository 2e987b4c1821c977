"""Sampled losses with shared negatives, backward: rows of dW, on the tensor cores.

The negatives n of a group are the same for all its tokens m. With g_m the upstream gradient, the derivatives are

    softmax:    c_mn = g_m exp(s'_mn - shift_m),  because exp(-shift_m) = sigma(z_m) / sum_n exp(s'_mn)
    pointwise:  c_mn = g_m c sigma(s_mn),         target:  -g_m pull_m
    dW[id_n] += sum_m c_mn h_m,                   dW[t_m] -= g_m pull_m h_m,        db the same without h

c is computed again, and rounded to 16 bits for its product with h; the target's part is fp32 throughout.

Rows either go straight into dW by fp32 atomics, or into a scratch that sum_by_item.py sums in a fixed order.

Bytes: G N D gathered again, and G N + M rows of D fp32 added. FLOPs: 4 M N D. Where dW is larger than L2 and its rows
are drawn several times, the ids of each group are sorted first: the groups' blocks of the same number, which run at the
same time, then share a band of the table that L2 holds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cce_kernels.kernels.dot import dot
from cce_kernels.sampled.call import SampledCall
from cce_kernels.sampled.kernels.draw import SORTED_TABLE, STORED_TABLE, count_draws, draw_once, first_group, read_size
from cce_kernels.sampled.kernels.math import sigmoid
from cce_kernels.sampled.kernels.state import (
    UNSPECIALIZED,
    Upstream,
    WeightGradient,
    dot_precision,
    kernel_arguments,
    padded,
)
from cce_kernels.sampled.tuning import SharedTiles


class Scratch(NamedTuple):
    """Some of the groups, and the item of each of their rows."""

    ids: Tensor  # int32 [units N]
    first_group: int
    num_groups: int


@triton.jit(do_not_specialize=UNSPECIALIZED)
def shared_backward_kernel(
    hidden, weight, bias, targets, shift, pull, log_q, seed_ptr, step_ptr, size_ptr, offset_ptr, id_table,
    grad, dweight, dbias, row_map, scratch_ids,
    size, num_tokens, num_items, num_negatives, first_row, ignore_index, positive_weight, scale,
    group_shift, row_stride, first_unit,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, STEPS: tl.constexpr,
    GROUP_TOKENS: tl.constexpr, PROGRAMS: tl.constexpr,
    SOFTMAX: tl.constexpr, TABLE: tl.constexpr, HAS_LOGQ: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_MAP: tl.constexpr, SCRATCH: tl.constexpr, PRECISION: tl.constexpr, HALF: tl.constexpr,
    GRAD_STRIDE: tl.constexpr, HAS_OFFSET: tl.constexpr, PART: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """Grid (groups x programs of a group, blocks of negatives); see the head of this file.

    With stored ids a target may be -1: it counts, and another part of the table has its row.
    """
    unit = first_unit + tl.program_id(0)
    group = unit // PROGRAMS
    in_group = (unit % PROGRAMS) * BLOCK_T + tl.arange(0, BLOCK_T)
    first_row, group_shift = first_group(offset_ptr, first_row, group_shift, GROUP_TOKENS, TABLE, HAS_OFFSET)
    tokens = group.to(tl.int64) * GROUP_TOKENS - group_shift + in_group  # [BLOCK_T]
    exists = (in_group < GROUP_TOKENS) & (tokens >= 0) & (tokens < num_tokens)
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    target = tl.load(targets + tokens, mask=exists, other=-1)
    if TABLE == STORED_TABLE:
        # Two selects on one mask, as below, fail to compile for some options (triton 3.6): layouts get mixed up.
        valid = exists & (target != ignore_index)
        own = target >= 0
        safe = tl.maximum(target, 0)
        target = target.to(tl.int32)
    else:
        valid = exists & (target != ignore_index) & (target >= 0) & (target < num_items)
        own = valid
        safe = tl.where(valid, target, 0)
        target = tl.where(valid, target, -1).to(tl.int32)
    seed, step, bound = tl.load(seed_ptr), tl.load(step_ptr), read_size(size, size_ptr, TABLE)
    row = first_row + group.to(tl.int64) * row_stride

    upstream = tl.where(valid, tl.load(grad + tokens * GRAD_STRIDE, mask=exists, other=0.0), 0.0)
    # The targets come first, some columns at a time: whole rows of them, or their addresses after the loop, would take
    # the registers that let a second program run on a multiprocessor.
    if tl.program_id(1) == 0 and not SCRATCH:
        token_pull = -tl.load(pull + tokens, mask=exists, other=0.0) * upstream
        out = safe
        if HAS_MAP:
            out = tl.load(row_map + safe, mask=own, other=0).to(tl.int64)
        for start in tl.range(0, D, PART, num_stages=1):
            some = start + tl.arange(0, PART)
            there = own[:, None] & (some < D)[None, :]
            part = tl.load(hidden + tokens[:, None] * D + some[None, :], mask=there, other=0.0)
            products = token_pull[:, None] * part.to(tl.float32)
            tl.atomic_add(dweight + out[:, None] * D + some[None, :], products, mask=there, sem="relaxed")
        if HAS_BIAS:
            tl.atomic_add(dbias + out, token_pull, mask=own, sem="relaxed")
    h = tl.load(hidden + tokens[:, None] * D + columns[None, :], mask=exists[:, None] & inside[None, :], other=0.0)
    token_shift = tl.load(shift + tokens, mask=exists, other=float("inf"))
    # A program is STEPS blocks of slots; the scratch has one row for each (unit, slot).
    scratch_row = tl.program_id(0).to(tl.int64) * num_negatives
    num_negatives = count_draws(num_negatives, size_ptr, row, TABLE)
    steps = STEPS
    if TABLE == STORED_TABLE:
        blocks = tl.cdiv(num_negatives, BLOCK_N) - tl.program_id(1) * STEPS
        steps = tl.minimum(tl.maximum(blocks, 0), STEPS)
    for index in range(steps):
        first = (tl.program_id(1) * STEPS + index) * BLOCK_N
        slots = first + tl.arange(0, BLOCK_N)
        drawn = slots < num_negatives
        ids = draw_once(seed, step, row, first, bound, id_table, TABLE, BLOCK_N)
        rows = tl.load(weight + ids[:, None] * D + columns[None, :], mask=drawn[:, None] & inside[None, :], other=0.0)
        # Items are the rows of both products: the slopes stay in the registers that the second product reads.
        scores = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
        scores = dot(rows.to(h.dtype), tl.trans(h), scores, PRECISION)
        if HAS_BIAS:
            scores += tl.load(bias + ids).to(tl.float32)[:, None]
        if SCALED:
            scores *= scale
        if HAS_LOGQ:
            scores -= tl.load(log_q + ids)[:, None]
        if SOFTMAX:
            slopes = tl.exp(scores - token_shift[None, :])
            if SCALED:
                slopes *= scale
        else:
            slopes = scale * sigmoid(scores)
        kept = (ids.to(tl.int32)[:, None] != target[None, :]) & drawn[:, None] & valid[None, :]
        slopes = tl.where(kept, slopes * upstream[None, :], 0.0)
        products = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        if HALF:
            # fp16 has no room for p / M: the largest of the tile is brought near 2^10 by an exact power of two.
            largest = tl.max(tl.max(tl.abs(slopes), 1), 0)
            up = tl.exp2(10.0 - tl.ceil(tl.log2(tl.maximum(largest, 1e-30))))
            products = dot((slopes * up).to(h.dtype), h, products, PRECISION) / up
        else:
            products = dot(slopes.to(h.dtype), h, products, PRECISION)
        keep_columns = drawn[:, None] & inside[None, :]
        if SCRATCH:
            tl.store(dweight + (scratch_row + slots)[:, None] * D + columns[None, :], products, mask=keep_columns)
            tl.store(scratch_ids + scratch_row + slots, ids.to(tl.int32), mask=drawn)
            if HAS_BIAS:
                tl.store(dbias + scratch_row + slots, tl.sum(slopes, 1), mask=drawn)
        else:
            out = ids
            if HAS_MAP:
                out = tl.load(row_map + ids, mask=drawn, other=0).to(tl.int64)
            tl.atomic_add(dweight + out[:, None] * D + columns[None, :], products, mask=keep_columns, sem="relaxed")
            if HAS_BIAS:
                tl.atomic_add(dbias + out, tl.sum(slopes, 1), mask=drawn, sem="relaxed")


def launch_shared_backward(
    call: SampledCall, upstream: Upstream, into: WeightGradient, tiles: SharedTiles, scratch: Scratch | None = None,
    sorted_ids: Tensor | None = None,
) -> None:  # fmt: skip
    """Add to `into` by fp32 atomics (the order of the sums differs from run to run), or write to the scratch.

    `into` is dW and db; with a scratch the negatives' rows of its groups, [units N, D] and [units N]. Sorted ids, int32
    [G, N], are those of each group in ascending order: programs that run together then read and add to the same rows.
    """
    ids, first_group, num_groups = scratch or (None, 0, call.num_groups)
    programs = tiles.programs(call.group_tokens)
    blocks = -(-call.num_negatives // tiles.block_n)
    grad, pull = upstream.grad, upstream.pull
    arguments = kernel_arguments(call, upstream.shift, pull) | {"row_stride": call.row_stride}
    if sorted_ids is not None:
        arguments |= {
            "id_table": sorted_ids, "size": call.num_negatives, "TABLE": SORTED_TABLE.value, "first_row": 0,
            "row_stride": 1,
        }  # fmt: skip
    shared_backward_kernel[(num_groups * programs, -(-blocks // tiles.steps))](
        **arguments,
        grad=grad, dweight=into.weight, dbias=pull if into.bias is None else into.bias,
        row_map=call.targets if into.row_map is None else into.row_map,
        scratch_ids=call.targets if ids is None else ids,
        group_shift=call.group_shift, first_unit=first_group * programs,
        BLOCK_N=tiles.block_n, BLOCK_T=tiles.block_t, STEPS=tiles.steps,
        GROUP_TOKENS=call.group_tokens, PROGRAMS=programs, HAS_MAP=into.row_map is not None, SCRATCH=ids is not None,
        PRECISION=dot_precision(call.hidden), HALF=call.hidden.dtype == torch.float16, GRAD_STRIDE=grad.dim(),
        PART=min(64, padded(call.hidden.shape[1])), num_warps=tiles.num_warps, num_stages=tiles.num_stages,
        maxnreg=tiles.registers,
    )  # fmt: skip
