"""Attention within packed histories, several of which share a tile, forward and backward.

A tile is a run of packed places, whatever histories they belong to. The places of a history are one run, so a tile of
queries looks at the keys from the start of its first history on, and a mask tells the histories apart: nothing is
computed for padding, and short histories do not cost a tile each. With s = q k' / sqrt(d) over the keys of a query:

    p = exp(s - lse),   o = p v
    dv = p' do,   ds = p (do v' - delta) / sqrt(d),   delta = sum(do o),   dq = ds k,   dk = ds' q

Scores are computed again in backward. Queries, keys and values are read where the projection wrote them, their
gradients go where its backward reads them, and the sums of these over all places, the gradient of the projection's
bias, are collected by tile. FLOPs: 4 d per pair of places forward, 14 d backward.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cce_kernels import hardware
from cce_kernels.kernels.dot import dot
from rec_models.encoders.packing import TILE, Layout

_WARPS, _STAGES = 4, 2
_LOG2_E = tl.constexpr(1.4426950408889634)


class Heads(NamedTuple):
    """How [T, 3 D] is divided."""

    number: int
    causal: bool

    def of(self, qkv: Tensor) -> int:
        """Width of a head."""
        return qkv.shape[1] // (3 * self.number)


@triton.jit
def _tile_of(order, ORDERED: tl.constexpr):
    """Tile and head of a program of the grid (heads, tiles); `order` [tiles] is read with ORDERED."""
    tile = tl.program_id(1)
    if ORDERED:
        tile = tl.load(order + tile)
    return tile, tl.program_id(0)


@triton.jit
def _seen(places, from_end, first, rows, num_rows, width, TILE: tl.constexpr, BEFORE: tl.constexpr,
          AFTER: tl.constexpr):  # fmt: skip
    """The first and the last place, int32 [TILE], that a tile's places pair with, and those of the whole tile.

    They are in the same history: with BEFORE from its start on, else from the place itself on; with AFTER up to its
    end, else up to the place itself.
    """
    begin, begin_all = rows, first
    if BEFORE:
        column = tl.load(places + rows, mask=rows < num_rows, other=0).to(tl.uint32) % width.to(tl.uint32)
        begin = rows - column.to(tl.int32)
        begin_all = first - (tl.load(places + first).to(tl.uint32) % width.to(tl.uint32)).to(tl.int32)
    end = rows
    end_all = tl.minimum(first + TILE, num_rows) - 1
    if AFTER:
        end = rows + tl.load(from_end + rows, mask=rows < num_rows, other=0).to(tl.int32)
        end_all += tl.load(from_end + end_all).to(tl.int32)
    return begin, end, begin_all, end_all


@triton.jit(do_not_specialize=["width"])
def attention_forward_kernel(
    qkv, places, from_end, order, out, lse_ptr, num_rows, width, scale,
    HEADS: tl.constexpr, HEAD: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
    ORDERED: tl.constexpr,
):  # fmt: skip
    """Grid (heads, tiles of queries); lse fp32 [H, T], to base 2."""
    tile, head = _tile_of(order, ORDERED)
    first = tile * TILE
    rows, columns = first + tl.arange(0, TILE), tl.arange(0, HEAD)
    stride: tl.constexpr = 3 * HEADS * HEAD
    heads = qkv + head * HEAD + columns[None, :]
    q = tl.load(heads + rows.to(tl.int64)[:, None] * stride, mask=(rows < num_rows)[:, None], other=0.0)
    begin, end, begin_all, end_all = _seen(places, from_end, first, rows, num_rows, width, TILE, True, not CAUSAL)
    top = tl.zeros((TILE,), tl.float32) - float("inf")
    total = tl.zeros((TILE,), tl.float32)
    acc = tl.zeros((TILE, HEAD), tl.float32)
    for start in range(begin_all, end_all + 1, TILE):
        others = start + tl.arange(0, TILE)
        there = (others < num_rows)[:, None]
        k = tl.load(heads + HEADS * HEAD + others.to(tl.int64)[:, None] * stride, mask=there, other=0.0)
        v = tl.load(heads + 2 * HEADS * HEAD + others.to(tl.int64)[:, None] * stride, mask=there, other=0.0)
        scores = dot(q, tl.trans(k), tl.zeros((TILE, TILE), tl.float32), PRECISION) * (scale * _LOG2_E)
        seen = (others[None, :] >= begin[:, None]) & (others[None, :] <= end[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        shares = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(top - base)
        total = total * shrink + tl.sum(shares, 1)
        acc = dot(shares.to(v.dtype), v, acc * shrink[:, None], PRECISION)
        top = new_top
    there = rows < num_rows
    result = acc / tl.where(there, total, 1.0)[:, None]
    target = out + rows.to(tl.int64)[:, None] * (HEADS * HEAD) + head * HEAD + columns[None, :]
    tl.store(target, result.to(out.dtype.element_ty), mask=there[:, None])
    tl.store(lse_ptr + head * num_rows + rows, top + tl.log2(total), mask=there)


@triton.jit(do_not_specialize=["width"])
def attention_query_kernel(
    qkv, out, grad_out, places, from_end, order, lse_ptr, delta_ptr, grad, sums, num_rows, width, scale, sums_stride,
    HEADS: tl.constexpr, HEAD: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
    ORDERED: tl.constexpr,
):  # fmt: skip
    """Gradient of the queries, and delta fp32 [H, T]; grid (heads, tiles of queries), sums [tiles, 3 D]."""
    tile, head = _tile_of(order, ORDERED)
    first = tile * TILE
    rows, columns = first + tl.arange(0, TILE), tl.arange(0, HEAD)
    stride: tl.constexpr = 3 * HEADS * HEAD
    heads = qkv + head * HEAD + columns[None, :]
    exists = rows < num_rows
    q = tl.load(heads + rows.to(tl.int64)[:, None] * stride, mask=exists[:, None], other=0.0)
    narrow = rows.to(tl.int64)[:, None] * (HEADS * HEAD) + head * HEAD + columns[None, :]
    upstream = tl.load(grad_out + narrow, mask=exists[:, None], other=0.0)
    found = tl.load(out + narrow, mask=exists[:, None], other=0.0)
    delta = tl.sum(upstream.to(tl.float32) * found.to(tl.float32), 1)
    tl.store(delta_ptr + head * num_rows + rows, delta, mask=exists)
    lse = tl.load(lse_ptr + head * num_rows + rows, mask=exists, other=float("inf"))
    begin, end, begin_all, end_all = _seen(places, from_end, first, rows, num_rows, width, TILE, True, not CAUSAL)
    acc = tl.zeros((TILE, HEAD), tl.float32)
    for start in range(begin_all, end_all + 1, TILE):
        others = start + tl.arange(0, TILE)
        there = (others < num_rows)[:, None]
        k = tl.load(heads + HEADS * HEAD + others.to(tl.int64)[:, None] * stride, mask=there, other=0.0)
        v = tl.load(heads + 2 * HEADS * HEAD + others.to(tl.int64)[:, None] * stride, mask=there, other=0.0)
        scores = dot(q, tl.trans(k), tl.zeros((TILE, TILE), tl.float32), PRECISION) * (scale * _LOG2_E)
        seen = (others[None, :] >= begin[:, None]) & (others[None, :] <= end[:, None])
        shares = tl.where(seen, tl.exp2(scores - lse[:, None]), 0.0)
        slopes = dot(upstream, tl.trans(v), tl.zeros((TILE, TILE), tl.float32), PRECISION)
        slopes = shares * (slopes - delta[:, None]) * scale
        acc = dot(slopes.to(k.dtype), k, acc, PRECISION)
    target = grad + rows.to(tl.int64)[:, None] * stride + head * HEAD + columns[None, :]
    tl.store(target, acc.to(grad.dtype.element_ty), mask=exists[:, None])
    acc = tl.where(exists[:, None], acc, 0.0)
    tl.store(sums + (first // TILE).to(tl.int64) * sums_stride + head * HEAD + columns, tl.sum(acc, 0))


@triton.jit(do_not_specialize=["width"])
def attention_key_kernel(
    qkv, grad_out, places, from_end, order, lse_ptr, delta_ptr, grad, sums, num_rows, width, scale, sums_stride,
    HEADS: tl.constexpr, HEAD: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
    ORDERED: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values; grid (heads, tiles of keys), sums as above."""
    tile, head = _tile_of(order, ORDERED)
    first = tile * TILE
    rows, columns = first + tl.arange(0, TILE), tl.arange(0, HEAD)
    stride: tl.constexpr = 3 * HEADS * HEAD
    heads = qkv + head * HEAD + columns[None, :]
    exists = rows < num_rows
    wide = rows.to(tl.int64)[:, None] * stride
    k = tl.load(heads + HEADS * HEAD + wide, mask=exists[:, None], other=0.0)
    v = tl.load(heads + 2 * HEADS * HEAD + wide, mask=exists[:, None], other=0.0)
    begin, end, begin_all, end_all = _seen(places, from_end, first, rows, num_rows, width, TILE, not CAUSAL, True)
    grad_k = tl.zeros((TILE, HEAD), tl.float32)
    grad_v = tl.zeros((TILE, HEAD), tl.float32)
    for start in range(begin_all, end_all + 1, TILE):
        others = start + tl.arange(0, TILE)
        present = others < num_rows
        q = tl.load(heads + others.to(tl.int64)[:, None] * stride, mask=present[:, None], other=0.0)
        narrow = others.to(tl.int64)[:, None] * (HEADS * HEAD) + head * HEAD + columns[None, :]
        upstream = tl.load(grad_out + narrow, mask=present[:, None], other=0.0)
        lse = tl.load(lse_ptr + head * num_rows + others, mask=present, other=float("inf"))
        delta = tl.load(delta_ptr + head * num_rows + others, mask=present, other=0.0)
        scores = dot(k, tl.trans(q), tl.zeros((TILE, TILE), tl.float32), PRECISION) * (scale * _LOG2_E)
        seen = (others[None, :] >= begin[:, None]) & (others[None, :] <= end[:, None]) & exists[:, None]
        shares = tl.where(seen, tl.exp2(scores - lse[None, :]), 0.0)
        grad_v = dot(shares.to(q.dtype), upstream, grad_v, PRECISION)
        slopes = dot(v, tl.trans(upstream), tl.zeros((TILE, TILE), tl.float32), PRECISION)
        slopes = shares * (slopes - delta[None, :]) * scale
        grad_k = dot(slopes.to(q.dtype), q, grad_k, PRECISION)
    target = grad + wide + head * HEAD + columns[None, :]
    tl.store(target + HEADS * HEAD, grad_k.to(grad.dtype.element_ty), mask=exists[:, None])
    tl.store(target + 2 * HEADS * HEAD, grad_v.to(grad.dtype.element_ty), mask=exists[:, None])
    mine = sums + (first // TILE).to(tl.int64) * sums_stride + head * HEAD + columns
    tl.store(mine + HEADS * HEAD, tl.sum(grad_k, 0))
    tl.store(mine + 2 * HEADS * HEAD, tl.sum(grad_v, 0))


def num_tiles(num_rows: int) -> int:
    """Tiles of T places."""
    return -(-num_rows // TILE)


def _options(qkv: Tensor, layout: Layout, heads: Heads) -> dict[str, object]:
    precision = "tf32x3" if qkv.dtype == torch.float32 else "as they are"
    return {
        "HEADS": heads.number, "HEAD": heads.of(qkv), "TILE": TILE, "CAUSAL": heads.causal,
        "ORDERED": layout.tiles is not None,
        "PRECISION": "upcast" if hardware.is_interpreted(qkv.device) else precision,
    }  # fmt: skip


def _orders(layout: Layout) -> tuple[Tensor, Tensor]:
    """Of the tiles of queries and of those of keys; never read where the layout has none."""
    return (layout.places, layout.places) if layout.tiles is None else (layout.tiles[0], layout.tiles[1])


def launch_attention_forward(qkv: Tensor, layout: Layout, heads: Heads) -> tuple[Tensor, Tensor]:
    """From qkv [T, 3 D] to the output [T, D] and the log-sum-exp of each query, fp32 [H, T]."""
    num_rows, width = qkv.shape
    out = torch.empty(num_rows, width // 3, dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty(heads.number, num_rows, dtype=torch.float32, device=qkv.device)
    queries, _ = _orders(layout)
    attention_forward_kernel[(heads.number, num_tiles(num_rows))](
        qkv, layout.places, layout.from_end, queries, out, lse, num_rows, layout.width, heads.of(qkv) ** -0.5,
        **_options(qkv, layout, heads), num_warps=_WARPS, num_stages=_STAGES,
    )  # fmt: skip
    return out, lse


def launch_attention_backward(
    qkv: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, layout: Layout, heads: Heads, sums: Tensor
) -> Tensor:
    """The gradient of qkv [T, 3 D].

    Fills sums, fp32 [tiles, 3 D], a part of each row of a larger tensor: its sums over the places of each tile.
    """
    num_rows, tiles = qkv.shape[0], sums.shape[0]
    grad, delta = torch.empty_like(qkv), torch.empty_like(lse)
    scale, options = heads.of(qkv) ** -0.5, _options(qkv, layout, heads)
    queries, keys = _orders(layout)
    attention_query_kernel[(heads.number, tiles)](
        qkv, out, grad_out, layout.places, layout.from_end, queries, lse, delta, grad, sums, num_rows, layout.width,
        scale, sums.stride(0), **options, num_warps=_WARPS, num_stages=_STAGES,
    )  # fmt: skip
    attention_key_kernel[(heads.number, tiles)](
        qkv, grad_out, layout.places, layout.from_end, keys, lse, delta, grad, sums, num_rows, layout.width, scale,
        sums.stride(0), **options, num_warps=_WARPS, num_stages=_STAGES,
    )  # fmt: skip
    return grad
