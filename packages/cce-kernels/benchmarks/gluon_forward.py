"""The full loss's forward with its warps specialized by hand: a study beside `cce_kernels.full.kernels.forward`.

One warp streams the item table by the copy engine into a ring of buffers; two groups of four warps multiply. Up to D
256 each group owns 64 tokens, so that the softmax of one runs under the products of the other, and the softmax of a
tile of items under the product of the one before it. At D 512 the groups share 64 tokens: each scores half of a tile of
items, gives its probabilities to the other through shared memory, and adds up half of the columns of A.

    s_mj = h_m . w_j,  r_m = max(s_mt, first tile's best),  T_m = sum_{j != t} e^(s_mj - r_m),  A_m = the same with w_j
    lse_m = r_m + log(T_m + e^(s_mt - r_m)),   dH_m = (A_m - T_m w_t) / (T_m + e^(s_mt - r_m))

FLOPs: 2 M V D without dH, 4 M V D with it. bf16, no bias, no cap, no split of the items, no second pass where a sum
leaves fp32's range, all targets valid: what it takes to know whether the shape of the program pays.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

LOG2E = gl.constexpr(1.4426950408889634)
LN2 = gl.constexpr(0.6931471805599453)
NEVER = gl.constexpr(2**31 - 1)
# D -> items of a tile, buffers of the ring; with dH and without.
RINGS = {64: ((64, 6), (128, 6)), 128: ((64, 5), (128, 4)), 256: ((64, 3), (64, 4)), 512: ((64, 2), (32, 3))}
REGISTERS = 240, 24  # of a thread of the second group and of the copying warp; the first group has the rest


@gluon.jit
def _produce(hidden, weight, held, held_ready, ring, ready, empty, start, steps, HELD: gl.constexpr,
             HALVES: gl.constexpr, BLOCK_V: gl.constexpr, WIDTH: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """Copy the tokens once, HELD tiles of 64 rows and of WIDTH columns, then all tiles of items, round the ring."""
    mbarrier.expect(held_ready.index(0), HELD * HALVES * 64 * WIDTH * 2)
    for i in gl.static_range(HELD):
        for q in gl.static_range(HALVES):
            into = held.index(i * HALVES + q)
            tma.async_copy_global_to_shared(hidden, [start + i * 64, q * WIDTH], held_ready.index(0), into)
    for i in range(steps):
        slot = i % STAGES
        mbarrier.wait(empty.index(slot), ((i // STAGES) & 1) ^ 1)
        mbarrier.expect(ready.index(slot), BLOCK_V * HALVES * WIDTH * 2)
        rows: gl.constexpr = BLOCK_V // HALVES
        for r in gl.static_range(HALVES):
            for q in gl.static_range(HALVES):
                place = ring.index(slot * HALVES * HALVES + r * HALVES + q)
                tma.async_copy_global_to_shared(
                    weight, [i * BLOCK_V + r * rows, q * WIDTH], ready.index(slot), place
                )  # fmt: skip


@gluon.jit
def _score_targets(hidden, weight, targets, start, num_tokens, D: gl.constexpr, TO: gl.constexpr):
    """Score of each of 64 tokens' own target, fp32 [64] in the layout TO."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    tokens = start + gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
    columns = gl.arange(0, 64, layout=gl.SliceLayout(0, layout))
    there = (tokens < num_tokens)[:, None]
    target = gl.load(targets + tokens, mask=tokens < num_tokens, other=0)
    score = gl.zeros([64], gl.float32, gl.SliceLayout(1, layout))
    for first in range(0, D, 64):
        h = gl.load(hidden + tokens.to(gl.int64)[:, None] * D + first + columns[None, :], mask=there, other=0.0)
        w = gl.load(weight + target[:, None] * D + first + columns[None, :], mask=there, other=0.0)
        score += gl.sum(h.to(gl.float32) * w.to(gl.float32), axis=1)
    return gl.convert_layout(score, TO)


@gluon.jit
def _probabilities(s, base, target, next_target, first, num_items, ROWS: gl.constexpr, LAYOUT: gl.constexpr):
    """2^(s - base) [64, ROWS] of the items from `first` on, 0 at targets and past the end; and the next target."""
    items = first + gl.arange(0, ROWS, layout=gl.SliceLayout(0, LAYOUT))
    p = gl.exp2(s * LOG2E - base[:, None])
    if next_target < first + ROWS:
        p = gl.where(items[None, :] == target[:, None], 0.0, p)
        next_target = gl.min(gl.where(target >= first + ROWS, target, NEVER), axis=0)
    if first + ROWS > num_items:
        p = gl.where((items < num_items)[None, :], p, 0.0)
    return p, next_target


@gluon.jit
def _finish(total, base, own2):
    """Log-sum-exp, 1 / Z and o = T / Z from T, its base and the target's score, both in log2 units; all [64]."""
    z = total + gl.exp2(own2 - base)
    inverse = 1.0 / z
    return (base + gl.log2(z)) * LN2, inverse, total * inverse


@gluon.jit
def _write_dhidden(acc, inverse, others, weight, targets, dhidden, start, num_tokens, first_column, D: gl.constexpr,
                   WIDTH: gl.constexpr, LAYOUT: gl.constexpr):  # fmt: skip
    """DH [64, WIDTH] from first_column on: A / Z, then the target's row, 64 columns at a time to spare registers."""
    tokens = start + gl.arange(0, 64, layout=gl.SliceLayout(1, LAYOUT))
    columns = first_column + gl.arange(0, WIDTH, layout=gl.SliceLayout(0, LAYOUT))
    scale = gl.convert_layout(inverse, gl.SliceLayout(1, LAYOUT))
    there = (tokens < num_tokens)[:, None]
    gl.store(dhidden + tokens.to(gl.int64)[:, None] * D + columns[None, :], acc * scale[:, None], mask=there)
    gl.thread_barrier()
    layout: gl.constexpr = gl.BlockedLayout([1, 4], [2, 16], [4, 1], [1, 0])
    rows = start + gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
    some = gl.arange(0, 64, layout=gl.SliceLayout(0, layout))
    pull = gl.convert_layout(others, gl.SliceLayout(1, layout))
    inside = (rows < num_tokens)[:, None]
    target = gl.load(targets + rows, mask=rows < num_tokens, other=0)
    for first in range(first_column, first_column + WIDTH, 64):
        w = gl.load(weight + target[:, None] * D + first + some[None, :], mask=inside, other=0.0).to(gl.float32)
        place = dhidden + rows.to(gl.int64)[:, None] * D + first + some[None, :]
        gl.store(place, gl.load(place, mask=inside, other=0.0) - pull[:, None] * w, mask=inside)


@gluon.jit
def _consume(group: gl.constexpr, hidden, weight, targets, lse, scores, dhidden, held, held_ready, ring, ready, empty,
             start, num_tokens, num_items, steps, D: gl.constexpr, BLOCK_V: gl.constexpr, STAGES: gl.constexpr,
             GRAD: gl.constexpr):  # fmt: skip
    """64 tokens of one group of warps against all items."""
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_V, 16])
    A: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D if D < 256 else 256, 16])
    ROWS: gl.constexpr = gl.SliceLayout(1, S)
    start += group * 64
    tokens = start + gl.arange(0, 64, layout=ROWS)
    target = gl.load(targets + tokens, mask=tokens < num_tokens, other=0).to(gl.int32)
    own = _score_targets(hidden, weight, targets, start, num_tokens, D, ROWS)
    own2 = own * LOG2E
    none = gl.zeros([64, BLOCK_V], gl.float32, S)
    mbarrier.wait(held_ready.index(0), 0)
    h = held.index(group)
    mbarrier.wait(ready.index(0), 0)
    s = warpgroup_mma(h, ring.index(0).permute((1, 0)), none, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(0, (s,))
    items = gl.arange(0, BLOCK_V, layout=gl.SliceLayout(0, S))
    best = gl.max(gl.where((items < num_items)[None, :], s, float("-inf")), axis=1)
    base = gl.maximum(own2, best * LOG2E)
    p, next_target = _probabilities(s, base, target, gl.min(target, axis=0), 0, num_items, BLOCK_V, S)
    total = gl.sum(p, axis=1)
    if GRAD:
        acc = gl.zeros([64, D], gl.float32, A)
        for i in range(1, steps):
            slot, before = i % STAGES, (i - 1) % STAGES
            mbarrier.wait(ready.index(slot), (i // STAGES) & 1)
            s = warpgroup_mma(h, ring.index(slot).permute((1, 0)), none, use_acc=False, is_async=True)
            operand = gl.convert_layout(p.to(gl.bfloat16), gl.DotOperandLayout(0, A, 2))
            added = warpgroup_mma(operand, ring.index(before), acc, is_async=True)
            s = warpgroup_mma_wait(1, (s,))
            p, next_target = _probabilities(s, base, target, next_target, i * BLOCK_V, num_items, BLOCK_V, S)
            total += gl.sum(p, axis=1)
            acc, _ = warpgroup_mma_wait(0, (added, operand))
            mbarrier.arrive(empty.index(before))
        operand = gl.convert_layout(p.to(gl.bfloat16), gl.DotOperandLayout(0, A, 2))
        acc = warpgroup_mma(operand, ring.index((steps - 1) % STAGES), acc, is_async=True)
        acc = warpgroup_mma_wait(0, (acc,))
    else:
        mbarrier.arrive(empty.index(0))
        for i in range(1, steps):
            slot = i % STAGES
            mbarrier.wait(ready.index(slot), (i // STAGES) & 1)
            s = warpgroup_mma(h, ring.index(slot).permute((1, 0)), none, use_acc=False, is_async=True)
            s = warpgroup_mma_wait(0, (s,))
            mbarrier.arrive(empty.index(slot))
            p, next_target = _probabilities(s, base, target, next_target, i * BLOCK_V, num_items, BLOCK_V, S)
            total += gl.sum(p, axis=1)
    found, inverse, others = _finish(total, base, own2)
    gl.store(lse + tokens, found, mask=tokens < num_tokens)
    gl.store(scores + tokens, own, mask=tokens < num_tokens)
    if GRAD:
        _write_dhidden(acc, inverse, others, weight, targets, dhidden, start, num_tokens, 0, D, D, A)


@gluon.jit(do_not_specialize=["num_tokens"])
def forward_kernel(hidden_tiles, weight_tiles, hidden, weight, targets, lse, scores, dhidden, num_tokens, num_items,
                   D: gl.constexpr, BLOCK_V: gl.constexpr, STAGES: gl.constexpr, GRAD: gl.constexpr,
                   REGISTERS: gl.constexpr, COPY_REGISTERS: gl.constexpr):  # fmt: skip
    """Grid (tiles of 128 tokens,); see the head of this file."""
    start = gl.program_id(0) * 128
    steps = gl.cdiv(num_items, BLOCK_V)
    held = gl.allocate_shared_memory(gl.bfloat16, [2, 64, D], hidden_tiles.layout)
    ring = gl.allocate_shared_memory(gl.bfloat16, [STAGES, BLOCK_V, D], weight_tiles.layout)
    held_ready = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(held_ready.index(0), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(ready.index(i), count=1)
        mbarrier.init(empty.index(i), count=2)
    gl.warp_specialize(
        [
            (_consume, (0, hidden, weight, targets, lse, scores, dhidden, held, held_ready, ring, ready, empty, start,
                        num_tokens, num_items, steps, D, BLOCK_V, STAGES, GRAD)),
            (_consume, (1, hidden, weight, targets, lse, scores, dhidden, held, held_ready, ring, ready, empty, start,
                        num_tokens, num_items, steps, D, BLOCK_V, STAGES, GRAD)),
            (_produce, (hidden_tiles, weight_tiles, held, held_ready, ring, ready, empty, start, steps, 2, 1, BLOCK_V,
                        D, STAGES)),
        ],
        [4, 1],
        [REGISTERS, COPY_REGISTERS],
    )  # fmt: skip


@gluon.jit
def _exchange(value, places, arrived, group: gl.constexpr, LAYOUT: gl.constexpr):
    """What the other group gives, fp32 [64], for what this one gives; the places are used once."""
    places.index(group).store(value)
    mbarrier.arrive(arrived)
    mbarrier.wait(arrived, 0)
    return places.index(1 - group).load(LAYOUT)


@gluon.jit
def _consume_half(group: gl.constexpr, hidden, weight, targets, lse, scores, dhidden, held, held_ready, ring, ready,
                  empty, given, given_ready, sums, more, swapped, start, num_tokens, num_items, steps, D: gl.constexpr,
                  BLOCK_V: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """The same 64 tokens as the other group: scores of half of the items, and half of the columns of A."""
    HALF: gl.constexpr = BLOCK_V // 2
    WIDTH: gl.constexpr = D // 2
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HALF, 16])
    A: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, WIDTH, 16])
    ROWS: gl.constexpr = gl.SliceLayout(1, S)
    tokens = start + gl.arange(0, 64, layout=ROWS)
    target = gl.load(targets + tokens, mask=tokens < num_tokens, other=0).to(gl.int32)
    own = _score_targets(hidden, weight, targets, start, num_tokens, D, ROWS)
    own2 = own * LOG2E
    none = gl.zeros([64, HALF], gl.float32, S)
    mbarrier.wait(held_ready.index(0), 0)
    mbarrier.wait(ready.index(0), 0)
    s = warpgroup_mma(held.index(0), ring.index(group * 2).permute((1, 0)), none, use_acc=False, is_async=True)
    s = warpgroup_mma(held.index(1), ring.index(group * 2 + 1).permute((1, 0)), s, is_async=True)
    s = warpgroup_mma_wait(0, (s,))
    items = group * HALF + gl.arange(0, HALF, layout=gl.SliceLayout(0, S))
    best = gl.max(gl.where((items < num_items)[None, :], s, float("-inf")), axis=1)
    best = gl.maximum(best, _exchange(best, sums, swapped.index(0), group, ROWS))
    base = gl.maximum(own2, best * LOG2E)
    mine = gl.min(gl.where(target >= group * HALF, target, NEVER), axis=0)
    p, mine = _probabilities(s, base, target, mine, group * HALF, num_items, HALF, S)
    total = gl.sum(p, axis=1)
    given.index(group).store(p.to(gl.bfloat16))
    fence_async_shared()
    mbarrier.arrive(given_ready.index(0))
    acc = gl.zeros([64, WIDTH], gl.float32, A)
    for i in range(1, steps):
        slot, before, last = i % STAGES, (i - 1) % STAGES, (i - 1) & 1
        mbarrier.wait(ready.index(slot), (i // STAGES) & 1)
        place = slot * 4 + group * 2
        s = warpgroup_mma(held.index(0), ring.index(place).permute((1, 0)), none, use_acc=False, is_async=True)
        s = warpgroup_mma(held.index(1), ring.index(place + 1).permute((1, 0)), s, is_async=True)
        mbarrier.wait(given_ready.index(last), ((i - 1) // 2) & 1)
        added = warpgroup_mma(given.index(last * 2), ring.index(before * 4 + group), acc, is_async=True)
        added = warpgroup_mma(given.index(last * 2 + 1), ring.index(before * 4 + 2 + group), added, is_async=True)
        s = warpgroup_mma_wait(2, (s,))
        first = i * BLOCK_V + group * HALF
        p, mine = _probabilities(s, base, target, mine, first, num_items, HALF, S)
        total += gl.sum(p, axis=1)
        acc = warpgroup_mma_wait(0, (added,))
        mbarrier.arrive(empty.index(before))
        # The other group has read what it was given two steps ago: it arrived at the step before after that product.
        given.index((i & 1) * 2 + group).store(p.to(gl.bfloat16))
        fence_async_shared()
        mbarrier.arrive(given_ready.index(i & 1))
    before, last = (steps - 1) % STAGES, (steps - 1) & 1
    mbarrier.wait(given_ready.index(last), ((steps - 1) // 2) & 1)
    acc = warpgroup_mma(given.index(last * 2), ring.index(before * 4 + group), acc, is_async=True)
    acc = warpgroup_mma(given.index(last * 2 + 1), ring.index(before * 4 + 2 + group), acc, is_async=True)
    acc = warpgroup_mma_wait(0, (acc,))
    total += _exchange(total, more, swapped.index(1), group, ROWS)
    found, inverse, others = _finish(total, base, own2)
    if group == 0:
        gl.store(lse + tokens, found, mask=tokens < num_tokens)
        gl.store(scores + tokens, own, mask=tokens < num_tokens)
    _write_dhidden(acc, inverse, others, weight, targets, dhidden, start, num_tokens, group * WIDTH, D, WIDTH, A)


@gluon.jit(do_not_specialize=["num_tokens"])
def wide_forward_kernel(hidden_tiles, weight_tiles, hidden, weight, targets, lse, scores, dhidden, num_tokens,
                        num_items, D: gl.constexpr, BLOCK_V: gl.constexpr, STAGES: gl.constexpr,
                        REGISTERS: gl.constexpr, COPY_REGISTERS: gl.constexpr):  # fmt: skip
    """Grid (tiles of 64 tokens,); see the head of this file."""
    start = gl.program_id(0) * 64
    steps = gl.cdiv(num_items, BLOCK_V)
    exchanged: gl.constexpr = gl.NVMMASharedLayout.get_default_for([64, BLOCK_V // 2], gl.bfloat16)
    numbers: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    held = gl.allocate_shared_memory(gl.bfloat16, [2, 64, D // 2], hidden_tiles.layout)
    ring = gl.allocate_shared_memory(gl.bfloat16, [STAGES * 4, BLOCK_V // 2, D // 2], weight_tiles.layout)
    given = gl.allocate_shared_memory(gl.bfloat16, [4, 64, BLOCK_V // 2], exchanged)
    sums = gl.allocate_shared_memory(gl.float32, [2, 64], numbers)
    more = gl.allocate_shared_memory(gl.float32, [2, 64], numbers)
    held_ready = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    given_ready = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    swapped = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    mbarrier.init(held_ready.index(0), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(ready.index(i), count=1)
        mbarrier.init(empty.index(i), count=2)
    for i in gl.static_range(2):
        mbarrier.init(given_ready.index(i), count=2)
        mbarrier.init(swapped.index(i), count=2)
    gl.warp_specialize(
        [
            (_consume_half, (0, hidden, weight, targets, lse, scores, dhidden, held, held_ready, ring, ready, empty,
                             given, given_ready, sums, more, swapped, start, num_tokens, num_items, steps, D, BLOCK_V,
                             STAGES)),
            (_consume_half, (1, hidden, weight, targets, lse, scores, dhidden, held, held_ready, ring, ready, empty,
                             given, given_ready, sums, more, swapped, start, num_tokens, num_items, steps, D, BLOCK_V,
                             STAGES)),
            (_produce, (hidden_tiles, weight_tiles, held, held_ready, ring, ready, empty, start, steps, 1, 2, BLOCK_V,
                        D // 2, STAGES)),
        ],
        [4, 1],
        [REGISTERS, COPY_REGISTERS],
    )  # fmt: skip


def forward(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, grad: bool, ring: tuple[int, int] | None = None,
    registers: tuple[int, int] = REGISTERS,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Log-sum-exp [M], target's score [M] and dH [M, D] (empty without `grad`), fp32, of bf16 [M, D] and [V, D].

    `ring` is one of `RINGS`, `registers` as `REGISTERS`.
    """
    num_tokens, dim = hidden.shape
    num_items = weight.shape[0]
    lse, scores = (torch.empty(num_tokens, dtype=torch.float32, device=hidden.device) for _ in range(2))
    dhidden = torch.empty((num_tokens, dim) if grad else (0,), dtype=torch.float32, device=hidden.device)
    block_v, stages = ring or RINGS[dim][0 if grad else 1]
    wide = dim > 256 and grad
    rows, width = (block_v // 2, dim // 2) if wide else (block_v, dim)
    tiles = []
    for matrix, height in ((hidden, 64), (weight, rows)):
        layout = gl.NVMMASharedLayout.get_default_for([height, width], gl.bfloat16)
        tiles.append(TensorDescriptor.from_tensor(matrix, [height, width], layout))
    arguments = (*tiles, hidden, weight, targets, lse, scores, dhidden, num_tokens, num_items)
    sizes = {"D": dim, "BLOCK_V": block_v, "STAGES": stages, "REGISTERS": registers[0], "COPY_REGISTERS": registers[1]}
    if wide:
        wide_forward_kernel[(-(-num_tokens // 64),)](*arguments, **sizes, num_warps=4)
    else:
        forward_kernel[(-(-num_tokens // 128),)](*arguments, **sizes, GRAD=grad, num_warps=4)
    return lse, scores, dhidden
