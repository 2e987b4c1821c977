"""Sums of the draws of an item: draws are sorted by item, and one program adds up those of one item. No atomics.

The sort is stable, so the order of a sum, and its bits, are the same in every run. Its keys are the ids that a kernel
draws. With negatives per token a token has N + 1 keys: its negatives, then its target.

Bytes: 4 M (N + 1) of keys written, a chunk of tokens at a time; the rows of the scratch read once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cce_kernels.sampled.call import SampledCall
from cce_kernels.sampled.kernels.draw import STORED_TABLE, count_draws, draw_ids, first_group, read_size
from cce_kernels.sampled.kernels.state import UNSPECIALIZED, WeightGradient, padded, table_kind

_SLOTS = 256
_MARK_BLOCK = 1024


@triton.jit(do_not_specialize=UNSPECIALIZED)
def draw_keys_kernel(
    out, targets, seed_ptr, step_ptr, size_ptr, offset_ptr, id_table,
    size, num_items, num_negatives, first_row, row_stride, ignore_index, first_token,
    TABLE: tl.constexpr, SLOTS: tl.constexpr, WITH_TARGET: tl.constexpr, MARK: tl.constexpr,
    GROUP_TOKENS: tl.constexpr, HAS_OFFSET: tl.constexpr,
):  # fmt: skip
    """Grid (tokens or groups, blocks of slots): the ids they draw, as sort keys or as marks of touched items."""
    local = tl.program_id(0)
    first = tl.program_id(1) * SLOTS
    seed, step, bound = tl.load(seed_ptr), tl.load(step_ptr), read_size(size, size_ptr, TABLE)
    first_row, _ = first_group(offset_ptr, first_row, first_row, GROUP_TOKENS, TABLE, HAS_OFFSET)
    row = first_row + (first_token + local).to(tl.int64) * row_stride
    ids = draw_ids(seed, step, row, first, bound, id_table, TABLE, SLOTS)
    slots = first + tl.arange(0, SLOTS)
    if MARK:
        tl.store(out + ids, tl.full((SLOTS,), 1, tl.int32), mask=slots < num_negatives)
    else:
        width = num_negatives
        if WITH_TARGET:
            width = num_negatives + 1
            target = tl.load(targets + first_token + local)
            valid = (target != ignore_index) & (target >= 0) & (target < num_items)
            # A hit, and every draw of a token that does not count, gets the key of no item and is never summed.
            if TABLE == STORED_TABLE:
                drawn = slots < tl.minimum(count_draws(num_negatives, size_ptr, row, TABLE), num_negatives)
                ids = tl.where((target != ignore_index) & drawn & (ids != target), ids, num_items)
            else:
                ids = tl.where(valid & (ids != target), ids, num_items)
            ids = tl.where(valid & (slots == num_negatives), target, ids)
        tl.store(out + local.to(tl.int64) * width + slots, ids.to(out.dtype.element_ty), mask=slots < width)


def launch_draw_keys(
    call: SampledCall, out: Tensor, num_negatives: int, first: int, rows: int, *,
    with_target: bool = False, mark: bool = False,
) -> None:  # fmt: skip
    """Write the ids that `rows` tokens or groups from `first` on draw into `out` [rows, num_negatives], integers.

    `with_target` (of tokens): the keys [rows, num_negatives + 1], V where nothing is added. `mark`: `out` is int32 [V],
    and 1 is written at every item drawn.
    """
    keys = num_negatives + int(with_target)
    draw_keys_kernel[(rows, -(-keys // _SLOTS))](
        out, call.targets, call.seed, call.step,
        next((x for x in (call.size_tensor, call.own_counts) if x is not None), call.seed),
        call.seed if call.row_offset is None else call.row_offset,
        call.targets if call.id_table is None else call.id_table, call.size, call.weight.shape[0], num_negatives,
        call.first_row, call.row_stride, call.ignore_index, first,
        TABLE=table_kind(call), SLOTS=_SLOTS, WITH_TARGET=with_target, MARK=mark,
        GROUP_TOKENS=call.group_tokens, HAS_OFFSET=call.row_offset is not None, num_warps=4,
    )  # fmt: skip


class SortedDraws(NamedTuple):
    """Draws sorted by item: those of item j are `order[starts[j] : stops[j]]`."""

    ordered: Tensor  # int32 [K], the item of each, ascending; V where it belongs to none
    order: Tensor  # int64 [K]
    starts: Tensor  # int32 [V]
    stops: Tensor  # int32 [V]


@triton.jit(do_not_specialize=UNSPECIALIZED)
def mark_bounds_kernel(keys, starts, stops, num_draws, num_items, BLOCK: tl.constexpr):
    """Grid (blocks of keys,): where the ascending keys of each item begin and end."""
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = places < num_draws
    key = tl.load(keys + places, mask=exists, other=0)
    before = tl.load(keys + places - 1, mask=exists & (places > 0), other=-1)
    after = tl.load(keys + places + 1, mask=places + 1 < num_draws, other=-1)
    exists = exists & (key < num_items)
    tl.store(starts + key, places, mask=exists & (key != before))
    tl.store(stops + key, places + 1, mask=exists & (key != after))


def sort_draws(keys: Tensor, num_items: int) -> SortedDraws:
    """Sort draws by item: keys are ids, int32 [K], and a key of `num_items` stands for no item."""
    ordered, order = torch.sort(keys, stable=True)
    starts, stops = keys.new_zeros(2, num_items)
    grid = (-(-keys.numel() // _MARK_BLOCK),)
    mark_bounds_kernel[grid](ordered, starts, stops, keys.numel(), num_items, BLOCK=_MARK_BLOCK)
    return SortedDraws(ordered, order, starts, stops)


@triton.jit
def sum_rows_kernel(
    rows, scalars, order, starts, stops, row_map, dweight, dbias,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MAP: tl.constexpr,
):  # fmt: skip
    """Grid (items,): adds the rows of an item in their order."""
    item = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    start, stop = tl.load(starts + item), tl.load(stops + item)
    if start < stop:
        row_sum = tl.zeros((BLOCK_D,), tl.float32)
        scalar_sum = tl.zeros((), tl.float32)
        for first in range(start, stop, BLOCK_K):
            places = first + tl.arange(0, BLOCK_K)
            exists = places < stop
            draw = tl.load(order + places, mask=exists, other=0)
            values = tl.load(
                rows + draw[:, None] * D + columns[None, :], mask=exists[:, None] & inside[None, :], other=0.0
            )
            row_sum += tl.sum(values, 0)
            if HAS_BIAS:
                scalar_sum += tl.sum(tl.load(scalars + draw, mask=exists, other=0.0), 0)
        out = item
        if HAS_MAP:
            out = tl.load(row_map + item).to(tl.int64)
        place = dweight + out * D + columns
        tl.store(place, tl.load(place, mask=inside, other=0.0) + row_sum, mask=inside)
        if HAS_BIAS:
            tl.store(dbias + out, tl.load(dbias + out) + scalar_sum)


def launch_sum_rows(rows: Tensor, scalars: Tensor | None, draws: SortedDraws, into: WeightGradient) -> None:
    """Add `rows` fp32 [K, D] (and `scalars` fp32 [K]) to the rows of their items.

    Bytes: K D of fp32 read, the rows touched read and written.
    """
    dim = rows.shape[1]
    sum_rows_kernel[(draws.starts.numel(),)](
        rows, rows if scalars is None else scalars, draws.order, draws.starts, draws.stops,
        draws.starts if into.row_map is None else into.row_map, into.weight,
        into.weight if into.bias is None else into.bias, D=dim, BLOCK_D=padded(dim), BLOCK_K=8,
        HAS_BIAS=into.bias is not None, HAS_MAP=into.row_map is not None, num_warps=1 if dim <= 256 else 2,
    )  # fmt: skip
