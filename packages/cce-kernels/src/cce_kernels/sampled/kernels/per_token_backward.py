"""Sampled losses, every token with its own negatives: dW, item by item, without atomics.

The draws of a chunk of tokens are sorted by item. The program of item j holds w_j and reads the vectors of the tokens
that drew it, or have it as their target: `dW_j += sum_m c_mj h_m`, with `c_mj = g_m exp(s'_mj - shift_m)` (softmax) or
`g_m c sigma(s_mj)` for a negative, `-g_m pull_m` for the target; hits were sorted out. Scores are
computed anew: neither scores nor gathered rows are stored.

A popular item is drawn tens of thousands of times where most are drawn ten: what goes past the first PIECE draws of an
item is added up beforehand, by a program for each piece of the order, and in the order's order.

Bytes: M (N + 1) D of h, from L2 while [M, D] fits there, against M (N + 1) D of fp32 atomics on dW; the rows of dW
touched by a chunk are read and written once a chunk. FLOPs: 4 M N D on the CUDA cores.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from cce_kernels.sampled import tuning
from cce_kernels.sampled.kernels.math import sigmoid
from cce_kernels.sampled.kernels.state import UNSPECIALIZED, SampledState, WeightGradient
from cce_kernels.sampled.kernels.sum_by_item import Segments
from cce_kernels.sampled.tuning import GatherTiles


@triton.jit
def _sum_draws(
    start, stop, item, hidden, weight, bias, shift, pull, log_q, grad, order, first_token, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, DRAWS: tl.constexpr,
    SOFTMAX: tl.constexpr, HAS_LOGQ: tl.constexpr, HAS_BIAS: tl.constexpr, GRAD_STRIDE: tl.constexpr,
):  # fmt: skip
    """Gradients [BLOCK_D] of an item's row and of its bias from the draws start .. stop of the order, all its own."""
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    narrow = hidden.dtype.element_ty
    w = tl.load(weight + item * D + columns, mask=inside, other=0.0).to(narrow).to(tl.float32)
    offset = tl.zeros((), tl.float32)
    if HAS_BIAS:
        offset += tl.load(bias + item).to(tl.float32)
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
        scores = tl.sum(h * w[None, :], 1) + offset
        if SOFTMAX:
            slopes = tl.exp(scores - tl.load(shift + token, mask=exists, other=float("inf")))
        else:
            slopes = scale * sigmoid(scores)
        slopes = tl.where(is_target, -tl.load(pull + token, mask=exists & is_target, other=0.0), slopes)
        slopes = tl.where(exists, slopes * upstream, 0.0)
        row_sum += tl.sum(slopes[:, None] * h, 0)
        scalar_sum += tl.sum(slopes, 0)
    return row_sum, scalar_sum


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _later_draws(
    hidden, weight, bias, shift, pull, log_q,
    grad, order, ordered, starts, stops, part_rows, part_scalars,
    first_token, scale, num_items,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, DRAWS: tl.constexpr, PIECE: tl.constexpr,
    SOFTMAX: tl.constexpr, HAS_LOGQ: tl.constexpr, HAS_BIAS: tl.constexpr, GRAD_STRIDE: tl.constexpr,
):  # fmt: skip
    """One program a piece of the order: whatever in it lies PIECE draws or more past its item's first.

    All of that is of one item, the one at the piece's first place: any other begins inside the piece.
    """
    piece = tl.program_id(0)
    item = tl.load(ordered + piece * PIECE).to(tl.int64)
    if item < num_items:
        first = tl.maximum(tl.load(starts + item) + PIECE, piece * PIECE)
        last = tl.minimum(tl.load(stops + item), piece * PIECE + PIECE)
        if first < last:
            row_sum, scalar_sum = _sum_draws(
                first, last, item, hidden, weight, bias, shift, pull, log_q, grad, order, first_token, scale,
                D, BLOCK_D, BLOCK_K, DRAWS, SOFTMAX, HAS_LOGQ, HAS_BIAS, GRAD_STRIDE,
            )  # fmt: skip
            columns = tl.arange(0, BLOCK_D)
            tl.store(part_rows + piece.to(tl.int64) * D + columns, row_sum, mask=columns < D)
            if HAS_BIAS:
                tl.store(part_scalars + piece, scalar_sum)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def _backward(
    hidden, weight, bias, shift, pull, log_q,
    grad, order, starts, stops, part_rows, part_scalars, row_map, dweight, dbias,
    first_token, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, DRAWS: tl.constexpr, PIECE: tl.constexpr,
    SOFTMAX: tl.constexpr, HAS_LOGQ: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MAP: tl.constexpr,
    GRAD_STRIDE: tl.constexpr,
):  # fmt: skip
    """One program an item: its first PIECE draws, and then the sums that `_later_draws` left of the others."""
    item = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_D)
    inside = columns < D
    start, stop = tl.load(starts + item), tl.load(stops + item)
    if start < stop:
        row_sum, scalar_sum = _sum_draws(
            start, tl.minimum(stop, start + PIECE), item, hidden, weight, bias, shift, pull, log_q, grad, order,
            first_token, scale, D, BLOCK_D, BLOCK_K, DRAWS, SOFTMAX, HAS_LOGQ, HAS_BIAS, GRAD_STRIDE,
        )  # fmt: skip
        if stop - start > PIECE:
            end = tl.cdiv(stop, PIECE)
            for first in range((start + PIECE) // PIECE, end, BLOCK_K):
                pieces = first + tl.arange(0, BLOCK_K)
                exists = pieces < end
                place = part_rows + pieces.to(tl.int64)[:, None] * D + columns[None, :]
                row_sum += tl.sum(tl.load(place, mask=exists[:, None] & inside[None, :], other=0.0), 0)
                if HAS_BIAS:
                    scalar_sum += tl.sum(tl.load(part_scalars + pieces, mask=exists, other=0.0), 0)
        out = item
        if HAS_MAP:
            out = tl.load(row_map + item).to(tl.int64)
        place = dweight + out * D + columns
        tl.store(place, tl.load(place, mask=inside, other=0.0) + row_sum, mask=inside)
        if HAS_BIAS:
            tl.store(dbias + out, tl.load(dbias + out) + scalar_sum)


def launch_none_backward(
    state: SampledState, grad: Tensor, segments: Segments, first_token: int, into: WeightGradient, tiles: GatherTiles
) -> None:
    """Add the gradients of the draws of a chunk, N + 1 a token from `first_token` on, to `into`."""
    tensors = state.tensors()
    names = ("hidden", "weight", "bias", "shift", "pull", "log_q")
    pieces = -(-segments.order.numel() // tuning.PIECE)
    part_rows = into.weight.new_empty(pieces, state.hidden.shape[1])
    shared = {
        **{name: tensors[name] for name in names},
        "grad": grad,
        "order": segments.order,
        "starts": segments.starts,
        "stops": segments.stops,
        "part_rows": part_rows,
        "part_scalars": part_rows if into.bias is None else into.bias.new_empty(pieces),
        "first_token": first_token,
        "scale": state.terms.scale,
        "D": state.hidden.shape[1],
        "BLOCK_D": state.block_d,
        "BLOCK_K": tiles.block_n,
        "DRAWS": state.num_negatives + 1,
        "PIECE": tuning.PIECE,
        "SOFTMAX": state.terms.softmax,
        "HAS_LOGQ": state.log_q is not None,
        "HAS_BIAS": state.bias is not None,
        "GRAD_STRIDE": grad.dim(),
        "enable_fp_fusion": True,
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
    }
    num_items = state.weight.shape[0]
    _later_draws[(pieces,)](ordered=segments.ordered, num_items=num_items, **shared)
    _backward[(num_items,)](
        row_map=segments.starts if into.row_map is None else into.row_map,
        dweight=into.weight,
        dbias=into.weight if into.bias is None else into.bias,
        HAS_MAP=into.row_map is not None,
        **shared,
    )
