"""Residual connection, dropout and layer norm in one pass over the stream, forward and backward.

With x the stream, b what a half of a block adds to it, and n the norm's output:

    x' = x + dropout(b)
    n = (x' - mean) / sqrt(var + eps) * gain + shift,  mean and variance of each row

Backward, from dn and from the gradient dx' that the stream has from later layers, with u = (x' - mean) rstd:

    dx = dx' + rstd (gain dn - mean(gain dn) - u mean(u gain dn)),   db = dropout'(dx)
    dgain = sum dn u,   dshift = sum dn,   and the sum of db, which is the gradient of the bias that made b

The stream is fp32; b, n and their gradients have the dtype of matrix products. Sums over rows are collected by program
and added up in a fixed order. Bytes per element of [T, D], in 16 bits: 12 forward and 16 backward.

The stream begins with the embeddings, x' = dropout(b): b is given, or read from the tables of items and positions.
Their gradients are then added up by atomics.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rec_models.encoders.fused.dropout import scale_kept

_FORWARD = 1024, 4  # elements of a tile, and its warps
_BACKWARD = 512  # elements of a tile, all in one warp: the sums of a row need no barrier


class Normed(NamedTuple):
    """What a forward leaves."""

    stream: Tensor  # fp32 [T, D], x'
    out: Tensor  # [T, D], n
    mean: Tensor  # fp32 [T]
    rstd: Tensor  # fp32 [T]


class Embeddings(NamedTuple):
    """Where a stream begins: ``table[items] * factor + positions[from_end]``."""

    table: Tensor  # fp32 [V, D]
    items: Tensor  # int64 [T]
    from_end: Tensor  # int64 [T]
    positions: Tensor  # fp32 [L, D]
    factor: float


class Dropout(NamedTuple):
    """Which mask: of the whole network the seed, int64 [] on the device, and of its dropouts the number of this one."""

    seed: Tensor
    site: int
    probability: float


@triton.jit(do_not_specialize=["num_rows", "site"])
def norm_forward_kernel(
    stream, branch, items, from_end, positions, gain, shift, seed_ptr, out_stream, out, mean_ptr, rstd_ptr,
    num_rows, site, eps, factor,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, HAS_STREAM: tl.constexpr, EMBEDS: tl.constexpr,
    PROBABILITY: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of rows,); see the head of this file. With EMBEDS the branch is the item table."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (rows < num_rows)[:, None] & (columns < D)[None, :]
    places = rows.to(tl.int64)[:, None] * D + columns[None, :]
    if EMBEDS:
        item = tl.load(items + rows, mask=rows < num_rows, other=0)
        place = tl.load(from_end + rows, mask=rows < num_rows, other=0)
        x = tl.load(branch + item[:, None] * D + columns[None, :], mask=inside, other=0.0) * factor
        x += tl.load(positions + place[:, None] * D + columns[None, :], mask=inside, other=0.0)
    else:
        x = tl.load(branch + places, mask=inside, other=0.0).to(tl.float32)
    before = x
    if HAS_STREAM:
        before = tl.load(stream + places, mask=inside, other=0.0)
    weights = tl.load(gain + columns, mask=columns < D, other=0.0)
    added = tl.load(shift + columns, mask=columns < D, other=0.0)
    if PROBABILITY > 0:
        x = scale_kept(x, tl.load(seed_ptr), site, rows, PROBABILITY, ROWS, BLOCK)
    if HAS_STREAM:
        x += before
    tl.store(out_stream + places, x, mask=inside)
    mean = tl.sum(x, 1) / D
    centred = tl.where(inside, x - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / D + eps)
    normed = centred * rstd[:, None] * weights[None, :] + added[None, :]
    tl.store(out + places, normed.to(out.dtype.element_ty), mask=inside)
    tl.store(mean_ptr + rows, mean, mask=rows < num_rows)
    tl.store(rstd_ptr + rows, rstd, mask=rows < num_rows)


@triton.jit(do_not_specialize=["num_rows", "site"])
def norm_backward_kernel(
    grad_out, grad_later, stream, items, from_end, mean_ptr, rstd_ptr, gain, seed_ptr, grad_stream, grad_branch,
    grad_positions, sums, num_rows, site, factor, sums_stride,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, HAS_LATER: tl.constexpr, HAS_STREAM: tl.constexpr,
    EMBEDS: tl.constexpr, PROBABILITY: tl.constexpr,
):  # fmt: skip
    """Grid (programs,), each of which takes every so many tiles of rows; sums [programs, 3 D]."""
    columns = tl.arange(0, BLOCK)
    weights = tl.load(gain + columns, mask=columns < D, other=0.0)
    seed = tl.load(seed_ptr)
    gain_sum = tl.zeros((ROWS, BLOCK), tl.float32)
    shift_sum = tl.zeros((ROWS, BLOCK), tl.float32)
    branch_sum = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(tl.program_id(0) * ROWS, num_rows, tl.num_programs(0) * ROWS):
        rows = first + tl.arange(0, ROWS)
        inside = (rows < num_rows)[:, None] & (columns < D)[None, :]
        places = rows.to(tl.int64)[:, None] * D + columns[None, :]
        slope = tl.load(grad_out + places, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(stream + places, mask=inside, other=0.0)
        mean = tl.load(mean_ptr + rows, mask=rows < num_rows, other=0.0)
        rstd = tl.load(rstd_ptr + rows, mask=rows < num_rows, other=0.0)
        later = x
        if HAS_LATER:
            later = tl.load(grad_later + places, mask=inside, other=0.0)
        unit = tl.where(inside, (x - mean[:, None]) * rstd[:, None], 0.0)
        gain_sum += slope * unit
        shift_sum += slope
        slope = slope * weights[None, :]
        along = tl.sum(slope * unit, 1) / D
        level = tl.sum(slope, 1) / D
        grad = (slope - level[:, None] - unit * along[:, None]) * rstd[:, None]
        if HAS_LATER:
            grad += later
        if HAS_STREAM:
            tl.store(grad_stream + places, grad, mask=inside)
        if PROBABILITY > 0:
            grad = scale_kept(grad, seed, site, rows, PROBABILITY, ROWS, BLOCK)
        grad = tl.where(inside, grad, 0.0)
        if EMBEDS:
            item = tl.load(items + rows, mask=rows < num_rows, other=0)
            place = tl.load(from_end + rows, mask=rows < num_rows, other=0)
            into = grad_branch + item[:, None] * D + columns[None, :]
            tl.atomic_add(into, grad * factor, mask=inside, sem="relaxed")
            tl.atomic_add(grad_positions + place[:, None] * D + columns[None, :], grad, mask=inside, sem="relaxed")
        else:
            tl.store(grad_branch + places, grad.to(grad_branch.dtype.element_ty), mask=inside)
        branch_sum += grad
    mine = sums + tl.program_id(0) * sums_stride + columns
    tl.store(mine, tl.sum(gain_sum, 0), mask=columns < D)
    tl.store(mine + D, tl.sum(shift_sum, 0), mask=columns < D)
    tl.store(mine + 2 * D, tl.sum(branch_sum, 0), mask=columns < D)


def _tile(width: int, elements: int) -> tuple[int, int]:
    """Columns of a tile, and its rows."""
    block = triton.next_power_of_2(width)
    return block, max(1, elements // block)


def _places(branch: Tensor | Embeddings) -> Embeddings:
    """A branch as arguments; of one that embeds nothing, the others are never read."""
    return branch if isinstance(branch, Embeddings) else Embeddings(branch, branch, branch, branch, 1.0)


def launch_norm_forward(
    stream: Tensor | None, branch: Tensor | Embeddings, gain: Tensor, shift: Tensor, eps: float, dropout: Dropout,
    dtype: torch.dtype,
) -> Normed:  # fmt: skip
    """The stream after a branch [T, D] was added to it, and its norm; without a stream, the branch begins it."""
    embeds = isinstance(branch, Embeddings)
    table, items, from_end, positions, factor = _places(branch)
    num_rows, width = items.shape[0], gain.shape[0]
    block, rows = _tile(width, _FORWARD[0])
    found = Normed(
        torch.empty(num_rows, width, dtype=torch.float32, device=gain.device),
        torch.empty(num_rows, width, dtype=dtype, device=gain.device),
        *(torch.empty(num_rows, dtype=torch.float32, device=gain.device) for _ in range(2)),
    )
    norm_forward_kernel[(triton.cdiv(num_rows, rows),)](
        table if stream is None else stream, table, items, from_end, positions, gain, shift, dropout.seed, *found,
        num_rows, dropout.site, eps, factor,
        D=width, BLOCK=block, ROWS=rows, HAS_STREAM=stream is not None, EMBEDS=embeds, PROBABILITY=dropout.probability,
        num_warps=_FORWARD[1],
    )  # fmt: skip
    return found


def launch_norm_backward(
    grad_out: Tensor, grad_later: Tensor | None, normed: Normed, gain: Tensor, dropout: Dropout, sums: Tensor,
    grad_branch: Tensor | Embeddings, *, first: bool = False,
) -> Tensor | None:  # fmt: skip
    """The gradient of the stream, None where the branch began it; that of the branch [T, D] is written.

    Embeddings are the gradients of the tables here, and are added to. Fills sums, fp32 [programs, 3 D], a part of each
    row of a larger tensor: parts of dgain, dshift and the sum of the branch's gradient.
    """
    embeds = isinstance(grad_branch, Embeddings)
    into, items, from_end, positions, factor = _places(grad_branch)
    num_rows, width = grad_out.shape
    block, rows = _tile(width, _BACKWARD)
    stream = None if first else torch.empty_like(normed.stream)
    norm_backward_kernel[(sums.shape[0],)](
        grad_out, grad_out if grad_later is None else grad_later, normed.stream, items, from_end, normed.mean,
        normed.rstd, gain, dropout.seed, into if stream is None else stream, into, positions, sums, num_rows,
        dropout.site, factor, sums.stride(0),
        D=width, BLOCK=block, ROWS=rows, HAS_LATER=grad_later is not None, HAS_STREAM=not first, EMBEDS=embeds,
        PROBABILITY=dropout.probability, num_warps=max(1, block // _BACKWARD),
    )  # fmt: skip
    return stream
