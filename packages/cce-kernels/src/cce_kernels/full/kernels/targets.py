"""Full loss, backward: the targets' part of dW, `- sum_{m: t_m = j} pull_m h_m` (see backward.py), in a fixed order.

Bytes: one row of h per token; FLOPs: 2 SLOTS D per token and item of the tile that holds its target.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cce_kernels.full.kernels.tiles import as_operand, gather_rows, product

# Numbers of the dtype that add up to an fp32 number.
PARTS = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
SLOTS = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 4}  # columns of a token: the next power of two


@triton.jit
def first_from(ordered, number, value):
    """Place of the first of `number` ascending int32 numbers that is at least `value`; `number` if there is none."""
    low = tl.zeros((), tl.int32)
    high = low + number
    while low < high:
        middle = (low + high) // 2
        less = tl.load(ordered + middle) < value
        low = tl.where(less, middle + 1, low)
        high = tl.where(less, high, middle)
    return low


@triton.jit
def add_targets(low, high, acc0, acc1, dbias, items, hidden, order, targets, pull, grad_scale,
                 DIM: tl.constexpr, DIM0: tl.constexpr, DIM1: tl.constexpr, BLOCK_T: tl.constexpr,
                 HAS_BIAS: tl.constexpr, PER_TOKEN: tl.constexpr, P_SHIFT: tl.constexpr, PARTS: tl.constexpr,
                 SLOTS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Subtract pull_m h_m from the row of token m's target, for the tokens low .. high of the sorted order."""
    # A token has SLOTS columns of the one-hot matrix, one for each 16-bit part of its entry: one product adds them all.
    # One product per part would be a chain, with another layout than the loop before: at D 512 the sums would not fit
    # into registers, and ptxas would run the products of that loop one by one (TUNING.md).
    part = tl.arange(0, BLOCK_T) % SLOTS
    for k in range(low, high, BLOCK_T // SLOTS):
        places = k + tl.arange(0, BLOCK_T) // SLOTS
        inside = places < high
        tokens = tl.load(order + places, mask=inside, other=0)
        target = tl.load(targets + tokens, mask=inside, other=-1).to(tl.int32)
        value = tl.load(pull + tokens, mask=inside, other=0.0) * (2.0**P_SHIFT)
        if PER_TOKEN:
            value *= grad_scale
        h0 = as_operand(gather_rows(hidden, tokens, inside, 0, DIM0, DIM), PRECISION)
        h1 = h0
        if DIM1 > 0:
            h1 = as_operand(gather_rows(hidden, tokens, inside, DIM0, DIM1, DIM), PRECISION)
        own = items[:, None] == target[None, :]  # [BLOCK_V, BLOCK_T]
        if HAS_BIAS:
            dbias += tl.sum(tl.where(own & (part == 0)[None, :], -value[None, :], 0.0), axis=1)
        entry = value
        if SLOTS > 1:
            entry = tl.zeros([BLOCK_T], dtype=tl.float32)
            for i in tl.static_range(PARTS):
                rounded = value.to(hidden.dtype.element_ty).to(tl.float32)
                entry = tl.where(part == i, rounded, entry)
                value -= rounded
        left = as_operand(tl.where(own, -entry[None, :], 0.0).to(hidden.dtype.element_ty), PRECISION)
        acc0 = product(left, h0, acc0, PRECISION)
        if DIM1 > 0:
            acc1 = product(left, h1, acc1, PRECISION)
    return acc0, acc1, dbias


def sort_by_tile(targets: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Sort tokens by the tile of `block` items that holds their target; a stable sort keeps their order inside a tile.

    From targets int64 [M], of any values, to the tokens int64 [M] in that order and the tile of each, ascending int32.
    """
    # Half the bits of int64 keys: half the passes of the sort. An id past 32 bits may wrap into a tile: its token has
    # no gradient there or anywhere.
    tiles = torch.div(targets, block, rounding_mode="floor", out=torch.empty_like(targets, dtype=torch.int32))
    ordered, order = torch.sort(tiles, stable=True)
    return order, ordered
