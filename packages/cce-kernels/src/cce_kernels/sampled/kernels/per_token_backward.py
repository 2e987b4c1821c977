"""Sampled losses with negatives per token, backward: dW, item by item, without atomics.

With s'_mj the corrected score of item j at token m and g_m the upstream gradient, the derivative of the loss is

    softmax:    dL/ds'_mj = g_m sigma(z_m) exp(s'_mj) / sum_n exp(s'_mn) = g_m exp(s'_mj - shift_m)
    pointwise:  dL/ds_mj = g_m c sigma(s_mj),        target:  dL/ds_mt = -g_m pull_m
    dW_j = sum_m c_mj h_m over the tokens that drew j or have it as their target,    db_j = sum_m c_mj

with c the derivative that applies. The draws of a chunk of tokens are sorted by item, without those that hit the
target. The program of item j holds w_j and reads the vectors of its tokens. Scores are computed again: neither scores
nor gathered rows are stored.

A popular item is drawn tens of thousands of times where most are drawn ten times: draws past the first PIECE of an item
are summed beforehand, by one program per piece of the sorted order, and their sums are added in that order.

Bytes: M (N + 1) D of h, from L2 while [M, D] fits there, against M (N + 1) D of fp32 atomics on dW; the rows of dW
touched by a chunk are read and written once per chunk. FLOPs: 4 M N D on the CUDA cores.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cce_kernels.sampled import tuning
from cce_kernels.sampled.call import SampledCall
from cce_kernels.sampled.kernels.math import sigmoid
from cce_kernels.sampled.kernels.state import UNSPECIALIZED, Upstream, WeightGradient, kernel_arguments
from cce_kernels.sampled.kernels.sum_by_item import SortedDraws
from cce_kernels.sampled.tuning import PerTokenTiles


@triton.jit
def _sum_draws(
    start, stop, item, hidden, weight, bias, shift, pull, log_q, grad, order, first_token, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, DRAWS: tl.constexpr,
    SOFTMAX: tl.constexpr, HAS_LOGQ: tl.constexpr, HAS_BIAS: tl.constexpr, GRAD_STRIDE: tl.constexpr,
    SCALED: tl.constexpr,
):  # fmt: skip
    """Gradients [BLOCK_D] of an item's row and of its bias from the draws start .. stop of the order, all its own."""
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    narrow = hidden.dtype.element_ty
    w = tl.load(weight + item * D + columns, mask=inside, other=0.0).to(narrow).to(tl.float32)
    offset = tl.zeros((), tl.float32)
    if HAS_BIAS:
        offset += tl.load(bias + item).to(tl.float32)
    if SCALED:
        offset *= scale
    if HAS_LOGQ:
        offset -= tl.load(log_q + item)
    row_sum = tl.zeros((BLOCK_D,), tl.float32)
    scalar_sum = tl.zeros((), tl.float32)
    for first in range(start, stop, BLOCK_K):
        places = first + tl.arange(0, BLOCK_K)
        exists = places < stop
        draw = tl.load(order + places, mask=exists, other=0).to(tl.int32)
        local = draw // DRAWS
        is_target = draw - local * DRAWS == DRAWS - 1
        token = (first_token + local).to(tl.int64)
        h = tl.load(
            hidden + token[:, None] * D + columns[None, :], mask=exists[:, None] & inside[None, :], other=0.0
        ).to(tl.float32)
        upstream = tl.load(grad + token * GRAD_STRIDE, mask=exists, other=0.0)
        scores = tl.sum(h * w[None, :], 1)
        if SCALED:
            scores *= scale
        scores += offset
        if SOFTMAX:
            slopes = tl.exp(scores - tl.load(shift + token, mask=exists, other=float("inf")))
            if SCALED:
                slopes *= scale
        else:
            slopes = scale * sigmoid(scores)
        slopes = tl.where(is_target, -tl.load(pull + token, mask=exists & is_target, other=0.0), slopes)
        slopes = tl.where(exists, slopes * upstream, 0.0)
        row_sum += tl.sum(slopes[:, None] * h, 0)
        scalar_sum += tl.sum(slopes, 0)
    return row_sum, scalar_sum


@triton.jit(do_not_specialize=UNSPECIALIZED)
def later_draws_kernel(
    hidden, weight, bias, shift, pull, log_q,
    grad, order, ordered, starts, stops, piece_rows, piece_scalars,
    first_token, scale, num_items,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, DRAWS: tl.constexpr, PIECE: tl.constexpr,
    SOFTMAX: tl.constexpr, HAS_LOGQ: tl.constexpr, HAS_BIAS: tl.constexpr, GRAD_STRIDE: tl.constexpr,
    SCALED: tl.constexpr,
):  # fmt: skip
    """One program per piece of the order: sums the draws that lie PIECE or more places past their item's first.

    They all belong to one item, the one at the piece's first place: any other item begins inside the piece.
    """
    piece = tl.program_id(0)
    item = tl.load(ordered + piece * PIECE).to(tl.int64)
    if item < num_items:
        first = tl.maximum(tl.load(starts + item) + PIECE, piece * PIECE)
        last = tl.minimum(tl.load(stops + item), piece * PIECE + PIECE)
        if first < last:
            row_sum, scalar_sum = _sum_draws(
                first, last, item, hidden, weight, bias, shift, pull, log_q, grad, order, first_token, scale,
                D, BLOCK_D, BLOCK_K, DRAWS, SOFTMAX, HAS_LOGQ, HAS_BIAS, GRAD_STRIDE, SCALED,
            )  # fmt: skip
            columns = tl.arange(0, BLOCK_D)
            tl.store(piece_rows + piece.to(tl.int64) * D + columns, row_sum, mask=columns < D)
            if HAS_BIAS:
                tl.store(piece_scalars + piece, scalar_sum)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def per_token_backward_kernel(
    hidden, weight, bias, shift, pull, log_q,
    grad, order, starts, stops, piece_rows, piece_scalars, row_map, dweight, dbias,
    first_token, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, DRAWS: tl.constexpr, PIECE: tl.constexpr,
    SOFTMAX: tl.constexpr, HAS_LOGQ: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MAP: tl.constexpr,
    GRAD_STRIDE: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """One program per item: its first PIECE draws, and then the sums that `later_draws_kernel` left of the others."""
    item = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    start, stop = tl.load(starts + item), tl.load(stops + item)
    if start < stop:
        row_sum, scalar_sum = _sum_draws(
            start, tl.minimum(stop, start + PIECE), item, hidden, weight, bias, shift, pull, log_q, grad, order,
            first_token, scale, D, BLOCK_D, BLOCK_K, DRAWS, SOFTMAX, HAS_LOGQ, HAS_BIAS, GRAD_STRIDE, SCALED,
        )  # fmt: skip
        if stop - start > PIECE:
            end = tl.cdiv(stop, PIECE)
            for first in range((start + PIECE) // PIECE, end, BLOCK_K):
                pieces = first + tl.arange(0, BLOCK_K)
                exists = pieces < end
                place = piece_rows + pieces.to(tl.int64)[:, None] * D + columns[None, :]
                row_sum += tl.sum(tl.load(place, mask=exists[:, None] & inside[None, :], other=0.0), 0)
                if HAS_BIAS:
                    scalar_sum += tl.sum(tl.load(piece_scalars + pieces, mask=exists, other=0.0), 0)
        out = item
        if HAS_MAP:
            out = tl.load(row_map + item).to(tl.int64)
        place = dweight + out * D + columns
        tl.store(place, tl.load(place, mask=inside, other=0.0) + row_sum, mask=inside)
        if HAS_BIAS:
            tl.store(dbias + out, tl.load(dbias + out) + scalar_sum)


def launch_per_token_backward(
    call: SampledCall, upstream: Upstream, draws: SortedDraws, draws_per_token: int, first_token: int,
    into: WeightGradient, tiles: PerTokenTiles,
) -> None:  # fmt: skip
    """Add the gradients of the draws of a chunk of tokens, the first of which is `first_token`, to `into`.

    A token has `draws_per_token` of the draws, its target last: N + 1, or 1 for the targets alone.
    """
    names = (
        "hidden", "weight", "bias", "shift", "pull", "log_q", "scale", "D", "BLOCK_D", "SOFTMAX", "HAS_LOGQ",
        "HAS_BIAS", "SCALED", "enable_fp_fusion",
    )  # fmt: skip
    arguments, grad = kernel_arguments(call, upstream.shift, upstream.pull), upstream.grad
    pieces = -(-draws.order.numel() // tuning.PIECE)
    piece_rows = into.weight.new_empty(pieces, call.hidden.shape[1])
    shared = dict(
        **{name: arguments[name] for name in names},
        grad=grad, order=draws.order, starts=draws.starts, stops=draws.stops, piece_rows=piece_rows,
        piece_scalars=piece_rows if into.bias is None else into.bias.new_empty(pieces), first_token=first_token,
        BLOCK_K=tiles.block_n, DRAWS=draws_per_token, PIECE=tuning.PIECE, GRAD_STRIDE=grad.dim(),
        num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    num_items = call.weight.shape[0]
    later_draws_kernel[(pieces,)](ordered=draws.ordered, num_items=num_items, **shared)
    per_token_backward_kernel[(num_items,)](
        row_map=draws.starts if into.row_map is None else into.row_map, HAS_MAP=into.row_map is not None,
        dweight=into.weight, dbias=into.weight if into.bias is None else into.bias, **shared,
    )  # fmt: skip
