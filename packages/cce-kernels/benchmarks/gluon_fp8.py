"""Scores in scaled fp8 (e4m3, a scale per row), gradients in bf16: a study on `gluon_forward`.

    s_mj = a_m b_j (h8_m . w8_j),   h_m ~ a_m h8_m,  w_j ~ b_j w8_j,   largest number of a row -> 448

The products of the scores take half the time and less energy; those of the gradients, and the target's own score, read
bf16 as before. The table streams twice: 3 bytes per element. FLOPs: 4 M V D, half of them in fp8. Up to D 256.
"""

from __future__ import annotations

import torch
from gluon_forward import LOG2E, NEVER, REGISTERS, _finish, _score_targets, _write_dhidden
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

RINGS = {64: (64, 6), 128: (64, 4), 256: (64, 3)}  # D -> items of a tile, buffers of the ring
_LARGEST = 448.0


@gluon.jit
def _produce(hidden8, weight8, weight, held, held_ready, ring8, ring, ready, empty, start, steps,
             BLOCK_V: gl.constexpr, D: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """Copy 128 tokens once, then all tiles of items in both precisions, round the ring."""
    mbarrier.expect(held_ready.index(0), 128 * D)
    for i in gl.static_range(2):
        tma.async_copy_global_to_shared(hidden8, [start + i * 64, 0], held_ready.index(0), held.index(i))
    for i in range(steps):
        slot = i % STAGES
        mbarrier.wait(empty.index(slot), ((i // STAGES) & 1) ^ 1)
        mbarrier.expect(ready.index(slot), BLOCK_V * D * 3)
        tma.async_copy_global_to_shared(weight8, [i * BLOCK_V, 0], ready.index(slot), ring8.index(slot))
        tma.async_copy_global_to_shared(weight, [i * BLOCK_V, 0], ready.index(slot), ring.index(slot))


@gluon.jit
def _probabilities(s, row_scale, item_scales, base, target, next_target, first, num_items, ROWS: gl.constexpr,
                   LAYOUT: gl.constexpr):  # fmt: skip
    items = first + gl.arange(0, ROWS, layout=gl.SliceLayout(0, LAYOUT))
    scale = gl.load(item_scales + items, mask=items < num_items, other=0.0)
    p = gl.exp2(s * (row_scale[:, None] * scale[None, :]) - base[:, None])
    if next_target < first + ROWS:
        p = gl.where(items[None, :] == target[:, None], 0.0, p)
        next_target = gl.min(gl.where(target >= first + ROWS, target, NEVER), axis=0)
    if first + ROWS > num_items:
        p = gl.where((items < num_items)[None, :], p, 0.0)
    return p, next_target


@gluon.jit
def _consume(group: gl.constexpr, hidden, weight, targets, row_scales, item_scales, lse, scores, dhidden, held,
             held_ready, ring8, ring, ready, empty, start, num_tokens, num_items, steps, D: gl.constexpr,
             BLOCK_V: gl.constexpr, STAGES: gl.constexpr):  # fmt: skip
    """As `gluon_forward._consume` with dH."""
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_V, 32])
    A: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    ROWS: gl.constexpr = gl.SliceLayout(1, S)
    start += group * 64
    tokens = start + gl.arange(0, 64, layout=ROWS)
    target = gl.load(targets + tokens, mask=tokens < num_tokens, other=0).to(gl.int32)
    row_scale = gl.load(row_scales + tokens, mask=tokens < num_tokens, other=0.0) * LOG2E
    own = _score_targets(hidden, weight, targets, start, num_tokens, D, ROWS)
    own2 = own * LOG2E
    none = gl.zeros([64, BLOCK_V], gl.float32, S)
    mbarrier.wait(held_ready.index(0), 0)
    h = held.index(group)
    mbarrier.wait(ready.index(0), 0)
    s = warpgroup_mma(h, ring8.index(0).permute((1, 0)), none, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(0, (s,))
    items = gl.arange(0, BLOCK_V, layout=gl.SliceLayout(0, S))
    scale = gl.load(item_scales + items, mask=items < num_items, other=0.0)
    s2 = s * (row_scale[:, None] * scale[None, :])
    base = gl.maximum(own2, gl.max(gl.where((items < num_items)[None, :], s2, float("-inf")), axis=1))
    first_target = gl.min(target, axis=0)
    p, next_target = _probabilities(
        s, row_scale, item_scales, base, target, first_target, 0, num_items, BLOCK_V, S
    )  # fmt: skip
    total = gl.sum(p, axis=1)
    acc = gl.zeros([64, D], gl.float32, A)
    for i in range(1, steps):
        slot, before = i % STAGES, (i - 1) % STAGES
        mbarrier.wait(ready.index(slot), (i // STAGES) & 1)
        s = warpgroup_mma(h, ring8.index(slot).permute((1, 0)), none, use_acc=False, is_async=True)
        operand = gl.convert_layout(p.to(gl.bfloat16), gl.DotOperandLayout(0, A, 2))
        added = warpgroup_mma(operand, ring.index(before), acc, is_async=True)
        s = warpgroup_mma_wait(1, (s,))
        p, next_target = _probabilities(
            s, row_scale, item_scales, base, target, next_target, i * BLOCK_V, num_items, BLOCK_V, S
        )  # fmt: skip
        total += gl.sum(p, axis=1)
        acc, _ = warpgroup_mma_wait(0, (added, operand))
        mbarrier.arrive(empty.index(before))
    operand = gl.convert_layout(p.to(gl.bfloat16), gl.DotOperandLayout(0, A, 2))
    acc = warpgroup_mma(operand, ring.index((steps - 1) % STAGES), acc, is_async=True)
    acc = warpgroup_mma_wait(0, (acc,))
    found, inverse, others = _finish(total, base, own2)
    gl.store(lse + tokens, found, mask=tokens < num_tokens)
    gl.store(scores + tokens, own, mask=tokens < num_tokens)
    _write_dhidden(acc, inverse, others, weight, targets, dhidden, start, num_tokens, 0, D, D, A)


@gluon.jit(do_not_specialize=["num_tokens"])
def fp8_forward_kernel(hidden8_tiles, weight8_tiles, weight_tiles, hidden, weight, targets, row_scales, item_scales,
                       lse, scores, dhidden, num_tokens, num_items, D: gl.constexpr, BLOCK_V: gl.constexpr,
                       STAGES: gl.constexpr, REGISTERS: gl.constexpr, COPY_REGISTERS: gl.constexpr):  # fmt: skip
    """Grid (tiles of 128 tokens,)."""
    start = gl.program_id(0) * 128
    steps = gl.cdiv(num_items, BLOCK_V)
    held = gl.allocate_shared_memory(gl.float8e4nv, [2, 64, D], hidden8_tiles.layout)
    ring8 = gl.allocate_shared_memory(gl.float8e4nv, [STAGES, BLOCK_V, D], weight8_tiles.layout)
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
            (_consume, (0, hidden, weight, targets, row_scales, item_scales, lse, scores, dhidden, held, held_ready,
                        ring8, ring, ready, empty, start, num_tokens, num_items, steps, D, BLOCK_V, STAGES)),
            (_consume, (1, hidden, weight, targets, row_scales, item_scales, lse, scores, dhidden, held, held_ready,
                        ring8, ring, ready, empty, start, num_tokens, num_items, steps, D, BLOCK_V, STAGES)),
            (_produce, (hidden8_tiles, weight8_tiles, weight_tiles, held, held_ready, ring8, ring, ready, empty,
                        start, steps, BLOCK_V, D, STAGES)),
        ],
        [4, 1],
        [REGISTERS, COPY_REGISTERS],
    )  # fmt: skip


def quantize(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a matrix [R, D] in e4m3, and their scales, fp32 [R]."""
    scale = matrix.abs().amax(1).float().clamp_min(1e-30) / _LARGEST
    return (matrix.float() / scale[:, None]).to(torch.float8_e4m3fn), scale


def forward(
    hidden: Tensor, weight: Tensor, targets: Tensor, hidden8: tuple[Tensor, Tensor], weight8: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-sum-exp [M], target's score [M] and dH [M, D], fp32, of bf16 [M, D] and [V, D] and their `quantize`."""
    num_tokens, dim = hidden.shape
    lse, scores = (torch.empty(num_tokens, dtype=torch.float32, device=hidden.device) for _ in range(2))
    dhidden = torch.empty(num_tokens, dim, dtype=torch.float32, device=hidden.device)
    block_v, stages = RINGS[dim]
    tiles = []
    short, whole = gl.float8e4nv, gl.bfloat16
    for matrix, rows, kind in ((hidden8[0], 64, short), (weight8[0], block_v, short), (weight, block_v, whole)):
        layout = gl.NVMMASharedLayout.get_default_for([rows, dim], kind)
        tiles.append(TensorDescriptor.from_tensor(matrix, [rows, dim], layout))
    fp8_forward_kernel[(-(-num_tokens // 128),)](
        *tiles, hidden, weight, targets, hidden8[1], weight8[1], lse, scores, dhidden, num_tokens, weight.shape[0],
        D=dim, BLOCK_V=block_v, STAGES=stages, REGISTERS=REGISTERS[0], COPY_REGISTERS=REGISTERS[1], num_warps=4,
    )  # fmt: skip
    return lse, scores, dhidden
