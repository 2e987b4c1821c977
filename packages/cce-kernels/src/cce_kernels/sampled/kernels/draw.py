"""Drawing ids by counter: `cce_kernels.sampled.draws` in registers, bit for bit.

A draw costs half a Philox4x32-10 block (about 50 integer instructions) and, from a table, one 8-byte read.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cce_kernels.sampled.draws import STREAM_NEGATIVES

NO_TABLE = tl.constexpr(0)  # the position is the id
ALIAS_TABLE = tl.constexpr(1)
POOL_TABLE = tl.constexpr(2)  # the number of positions is read from the device
STORED_TABLE = tl.constexpr(3)  # each row's ids are stored (sharded/kernels/own_draws.py), and how many there are
SORTED_TABLE = tl.constexpr(4)  # each row's ids are stored, all of them, in ascending order (sum_by_item.py)
_STREAM = tl.constexpr(STREAM_NEGATIVES)


@triton.jit
def read_size(size, size_ptr, TABLE: tl.constexpr):
    """Positions that are drawn from, uint64."""
    if TABLE == POOL_TABLE:
        return tl.load(size_ptr).to(tl.uint64)
    return tl.zeros((), tl.uint64) + size


@triton.jit
def first_group(offset_ptr, first_row, group_shift, GROUP_TOKENS: tl.constexpr, TABLE: tl.constexpr,
                HAS_OFFSET: tl.constexpr):  # fmt: skip
    """Row counter and shift of the first group, int64: given by the host, or by a row number on the device."""
    first = first_row.to(tl.int64)
    shift = group_shift.to(tl.int64)
    if HAS_OFFSET:
        offset = tl.load(offset_ptr)
        shift = offset % GROUP_TOKENS
        if TABLE < STORED_TABLE:
            first = offset // GROUP_TOKENS
    return first, shift


@triton.jit
def count_draws(num_negatives, size_ptr, row, TABLE: tl.constexpr):
    """How many ids a row draws: N, or what is stored."""
    if TABLE == STORED_TABLE:
        return tl.load(size_ptr + row).to(tl.int32)
    return num_negatives


@triton.jit
def draw_ids(seed, step, row, first_slot, size, id_table, TABLE: tl.constexpr, SLOTS: tl.constexpr):
    """Ids of slots first_slot .. first_slot + SLOTS (both even) of one row, int64 [SLOTS].

    `seed` and `step` are int64 scalars, `row` an integer scalar, `size` the uint64 of `read_size`.
    """
    if TABLE >= STORED_TABLE:
        slots = first_slot + tl.arange(0, SLOTS)
        stored = id_table + row.to(tl.int64) * size.to(tl.int64) + slots
        return tl.load(stored, mask=slots < size.to(tl.int32), other=0).to(tl.int64)
    pairs = first_slot // 2 + tl.arange(0, SLOTS // 2)
    c0 = pairs.to(tl.uint32)
    zero = tl.zeros_like(c0)
    w0, w1, w2, w3 = tl.philox(seed, c0, zero + row.to(tl.uint32), zero + step.to(tl.uint32), zero + _STREAM)
    even = w1.to(tl.uint64) * size + ((w0.to(tl.uint64) * size) >> 32)
    odd = w3.to(tl.uint64) * size + ((w2.to(tl.uint64) * size) >> 32)
    draws = tl.interleave(even, odd)
    ids = (draws >> 32).to(tl.int64)
    if TABLE == ALIAS_TABLE:
        packed = tl.load(id_table + ids)
        coin = (draws & 0xFFFFFFFF).to(tl.int64)
        ids = tl.where(coin < (packed & 0xFFFFFFFF), ids, packed >> 32)
    if TABLE == POOL_TABLE:
        ids = tl.load(id_table + ids)
    return ids


@triton.jit
def draw_once(seed, step, row, first_slot, size, id_table, TABLE: tl.constexpr, SLOTS: tl.constexpr):
    """`draw_ids`, drawn once: where ids are needed in two register layouts they go through shared memory.

    Left to itself the compiler thinks the arithmetic cheaper, and draws every id again in every thread that compares it
    (390 of 1213 instructions of the forward loop, on sm_90 at D 256). It does not repeat a sum of floats, not even one
    over a dimension of one, which is no instruction at all.
    """
    ids = draw_ids(seed, step, row, first_slot, size, id_table, TABLE, SLOTS).to(tl.int32)
    return tl.sum(tl.reshape(ids.to(tl.float32, bitcast=True), [SLOTS, 1]), 1).to(tl.int32, bitcast=True).to(tl.int64)
