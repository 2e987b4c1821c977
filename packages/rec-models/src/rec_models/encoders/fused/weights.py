"""Gradients of a block's matrices: sums over places of outer products, all of the block in one launch.

    dW_i = sum_t g_i[t]' x_i[t],   g_i [T, N_i], x_i [T, K_i]

Alone each is a product with few tiles and a long sum, which a library splits and adds up in two launches; together they
have tiles enough for the GPU with few parts of the sum. Parts are fp32 and added up in a fixed order. FLOPs: 2 T N K
each; bytes: 2 T (N + K) for each 128 columns of the other side, from L2, and 8 parts N K.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from cce_kernels import hardware
from cce_kernels.kernels.dot import dot
from rec_models.encoders.fused.sums import column_sums

_TILE, _PLACES, _WARPS, _STAGES = 128, 64, 8, 3
_PROGRAMS = 2  # per multiprocessor


@triton.jit
def _one_matrix(tile, grad, inputs, out, begin, end, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
                PLACES: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """A part of a tile of a matrix [HEIGHT, WIDTH], if it is one of this; returns number and place for the next one."""
    across: tl.constexpr = (WIDTH + TILE - 1) // TILE
    tiles: tl.constexpr = (HEIGHT + TILE - 1) // TILE * across
    if (tile >= 0) & (tile < tiles):
        rows = (tile // across) * TILE + tl.arange(0, TILE)
        columns = (tile % across) * TILE + tl.arange(0, TILE)
        acc = tl.zeros((TILE, TILE), tl.float32)
        for first in range(begin, end, PLACES):
            places = first + tl.arange(0, PLACES)
            there = (places < end)[:, None]
            left = grad + places.to(tl.int64)[:, None] * HEIGHT + rows[None, :]
            right = inputs + places.to(tl.int64)[:, None] * WIDTH + columns[None, :]
            g = tl.load(left, mask=there & (rows < HEIGHT)[None, :], other=0.0)
            x = tl.load(right, mask=there & (columns < WIDTH)[None, :], other=0.0)
            acc = dot(tl.trans(g), x, acc, PRECISION)
        inside = (rows < HEIGHT)[:, None] & (columns < WIDTH)[None, :]
        tl.store(out + rows[:, None] * WIDTH + columns[None, :], acc, mask=inside)
    return tile - tiles, out + HEIGHT * WIDTH


@triton.jit(do_not_specialize=["num_rows", "rows_per_part"])
def weight_gradients_kernel(
    grads, inputs, parts, num_rows, rows_per_part, part_stride, HEIGHTS: tl.constexpr, WIDTHS: tl.constexpr,
    TILE: tl.constexpr, PLACES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of all matrices, parts); parts fp32 [parts, all elements of all matrices]."""
    tile = tl.program_id(0)
    begin = tl.program_id(1) * rows_per_part
    end = tl.minimum(begin + rows_per_part, num_rows)
    out = parts + tl.program_id(1).to(tl.int64) * part_stride
    for i in tl.static_range(len(HEIGHTS)):
        tile, out = _one_matrix(
            tile, grads[i], inputs[i], out, begin, end, HEIGHTS[i], WIDTHS[i], TILE, PLACES, PRECISION
        )


def weight_gradients(grads: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """From gradients of products [T, N] and what was multiplied [T, K] to those of the matrices, fp32 [N, K] each."""
    heights, widths = (tuple(tensor.shape[1] for tensor in side) for side in (grads, inputs))
    num_rows, device = grads[0].shape[0], grads[0].device
    tiles = sum(-(-height // _TILE) * -(-width // _TILE) for height, width in zip(heights, widths, strict=True))
    sizes = [height * width for height, width in zip(heights, widths, strict=True)]
    interpreted = hardware.is_interpreted(device)
    places = 2 if interpreted else _PROGRAMS * hardware.device_properties(device.index or 0)[1]
    rows = _PLACES * max(1, -(-num_rows // (_PLACES * max(1, places // tiles))))
    number = max(1, -(-num_rows // rows))
    parts = torch.empty(number, sum(sizes), dtype=torch.float32, device=device)
    precision = "tf32x3" if grads[0].dtype == torch.float32 else "as they are"
    weight_gradients_kernel[(tiles, number)](
        tuple(grads), tuple(inputs), parts, num_rows, rows, parts.stride(0), HEIGHTS=heights, WIDTHS=widths,
        TILE=_TILE, PLACES=_PLACES, PRECISION="upcast" if interpreted else precision,
        num_warps=_WARPS, num_stages=_STAGES,
    )  # fmt: skip
    total = parts[0] if number == 1 else column_sums(parts)
    split = total.split(sizes)
    return [part.view(height, width) for part, height, width in zip(split, heights, widths, strict=True)]
