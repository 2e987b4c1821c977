"""Full loss by chunks of tokens: kernels around two plain matrix products per chunk.

With C tokens of a chunk, s_mj = h_m . w_j, and the rest as in epilogue.py:

    n_mj = 2^(s_mj log2 e - r_m) for j != t, n_mt = 0       [C, V] in 16 bits, the only thing of that size
    T_m = sum_j n_mj                                        of the numbers before they are rounded
    dH = diag(1 / Z) n W - o w_t                            n W: a plain product
    dW += n^T (h / Z),   at last dW_t -= o_m h_m            n^T (h / Z): a plain product, h / Z rounded to 16 bits

A rounded probability is off by up to 2^-9 of itself whatever the base, so n may stay as it is: its factor 1 / Z goes to
the rows of the one product and of an operand of the other. Scores are computed once, where the fused kernels compute
them twice: 6 M V D FLOPs for 8. The coefficient of a target never meets 16 bits, as there.

The base r_m is fixed before the first product: the larger of the target's score and the best of the first items. Where
a token's Z leaves the middle half of the exponents, the chunk is computed again, from its true maxima: kernels with a
`flag` end at once where it is 0, so that the host need not look. There a product s log2 e, which a base may equal, is
rounded before the subtraction (`enable_fp_fusion=False`): fused, it would leave its rounding error in the exponent.

Bytes per pair of a token and an item: 2 written, and 2 read by each of the plain products.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from cce_kernels.full.call import FullCall
from cce_kernels.full.kernels.epilogue import finish_tokens, read_targets, score_targets, write_dhidden
from cce_kernels.full.kernels.state import block_widths, can_stream, dot_precision, exponent_scale
from cce_kernels.full.kernels.targets import PARTS, SLOTS, add_targets, first_from, sort_by_tile
from cce_kernels.full.kernels.tiles import BELOW_HALF_RANGE, load_tile, score_tile, store_tile
from cce_kernels.full.tuning import ChunkTiles
from cce_kernels.kernels.dot import dot

_ROWS = 32  # tokens of a program of the small kernels
_TARGET_ITEMS = 64  # rows of a tile of dW
_FIRST_ITEMS = 64  # those whose best score may become a base
_BLOCK_T = 32  # tokens that one product adds to a tile of dW, times the parts of a coefficient


@triton.jit(do_not_specialize=["num_tokens", "ignore_index"])
def bases_kernel(hidden, weight, targets, target_scores, bases, num_tokens, num_items, ignore_index, log2e,
                 DIM: tl.constexpr, DIM0: tl.constexpr, DIM1: tl.constexpr, BLOCK_M: tl.constexpr,
                 BLOCK_V: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Grid (tiles of tokens,). The base of a token that does not count is infinite: its numerators are 0."""
    start = tl.program_id(0) * BLOCK_M
    tokens = start + tl.arange(0, BLOCK_M)
    safe, ignored, invalid = read_targets(targets, tokens, num_tokens, num_items, ignore_index)
    h0 = load_tile(hidden, start, num_tokens - start, 0, DIM0, BLOCK_M, DIM, True)
    h1 = h0
    w0 = load_tile(weight, 0, num_items, 0, DIM0, BLOCK_V, DIM, True)
    w1 = w0
    if DIM1 > 0:
        h1 = load_tile(hidden, start, num_tokens - start, DIM0, DIM1, BLOCK_M, DIM, True)
        w1 = load_tile(weight, 0, num_items, DIM0, DIM1, BLOCK_V, DIM, True)
    score = score_targets(h0, h1, weight, None, safe, 1.0, DIM, DIM0, DIM1, False, False)
    first = score_tile(h0, h1, w0, w1, BLOCK_M, BLOCK_V, DIM1, PRECISION)
    first = tl.where((tl.arange(0, BLOCK_V) < num_items)[None, :], first, float("-inf"))
    base = tl.maximum(score, tl.max(first, axis=1)) * log2e
    base = tl.where(ignored | invalid, float("inf"), base)
    tl.store(target_scores + tokens, score, mask=tokens < num_tokens)
    tl.store(bases + tokens, base, mask=tokens < num_tokens)


@triton.jit(do_not_specialize=["num_tokens"])
def numerators_kernel(hidden, hidden_blocks, weight, weight_blocks, targets, bases, flag, results, numerators,
                      num_tokens, num_items, stride, log2e, DIM: tl.constexpr, BLOCK_M: tl.constexpr,
                      BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, FLAGGED: tl.constexpr, MAXIMA: tl.constexpr,
                      TMA: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Grid (programs,): each works through tiles of tokens x items, those of the same items one after the other.

    `results` [tiles of items, C] gets the sums of the numerators, or with MAXIMA the largest exponents of 2.
    """
    if FLAGGED:
        if tl.load(flag) == 0:
            return
    tiles_m = tl.cdiv(num_tokens, BLOCK_M)
    tiles = tiles_m * tl.cdiv(num_items, BLOCK_V)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        start = tile % tiles_m * BLOCK_M
        first = tile // tiles_m * BLOCK_V
        scores = tl.zeros([BLOCK_M, BLOCK_V], dtype=tl.float32)
        for column in range(0, DIM, BLOCK_D):
            if TMA:
                h = hidden_blocks.load([start, column])
                w = weight_blocks.load([first, column])
            else:
                columns = column + tl.arange(0, BLOCK_D)
                rows_h = start + tl.arange(0, BLOCK_M)
                rows_w = first + tl.arange(0, BLOCK_V)
                at_h = hidden + rows_h.to(tl.int64)[:, None] * DIM + columns[None, :]
                at_w = weight + rows_w.to(tl.int64)[:, None] * DIM + columns[None, :]
                h = tl.load(at_h, mask=(rows_h < num_tokens)[:, None] & (columns < DIM)[None, :], other=0.0)
                w = tl.load(at_w, mask=(rows_w < num_items)[:, None] & (columns < DIM)[None, :], other=0.0)
            scores = dot(h, tl.trans(w), scores, PRECISION)
        tokens = start + tl.arange(0, BLOCK_M)
        items = first + tl.arange(0, BLOCK_V)
        inside = tokens < num_tokens
        exponents = scores * log2e
        at_results = results + tl.cast(tile // tiles_m, tl.int64) * num_tokens + tokens
        if MAXIMA:
            exponents = tl.where((items < num_items)[None, :], exponents, float("-inf"))
            tl.store(at_results, tl.max(exponents, axis=1), mask=inside)
        else:
            base = tl.load(bases + tokens, mask=inside, other=float("inf"))
            n = tl.exp2(exponents - base[:, None])
            own = tl.load(targets + tokens, mask=inside, other=-1)
            here = (own >= first) & (own < first + BLOCK_V)
            if (tl.max(here.to(tl.int32), axis=0) > 0) | (first + BLOCK_V > num_items):
                n = tl.where((items[None, :] == own[:, None]) | (items >= num_items)[None, :], 0.0, n)
            tl.store(at_results, tl.sum(n, axis=1), mask=inside)
            at = numerators + tokens.to(tl.int64)[:, None] * stride + items[None, :]
            tl.store(at, n.to(numerators.dtype.element_ty), mask=inside[:, None] & (items < stride)[None, :])


@triton.jit(do_not_specialize=["num_tokens", "tiles_v"])
def merge_tiles_kernel(results, totals, target_scores, bases, flag, num_tokens, tiles_v, log2e,
                       FLAGGED: tl.constexpr, MAXIMA: tl.constexpr, BLOCK_M: tl.constexpr,
                       BLOCK_T: tl.constexpr):  # fmt: skip
    """Grid (blocks of tokens,): sums to `totals`, or with MAXIMA new bases. Unless FLAGGED it may set the flag."""
    if FLAGGED:
        if tl.load(flag) == 0:
            return
    tokens = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = tokens < num_tokens
    base = tl.load(bases + tokens, mask=inside, other=0.0)
    target = tl.load(target_scores + tokens, mask=inside, other=0.0) * log2e
    merged = tl.zeros([BLOCK_M], dtype=tl.float32)
    if MAXIMA:
        merged += tl.where(base == float("inf"), base, target)
    for k in range(0, tiles_v, BLOCK_T):
        tiles = k + tl.arange(0, BLOCK_T)
        at = results + tiles.to(tl.int64)[:, None] * num_tokens + tokens[None, :]
        mask = (tiles < tiles_v)[:, None] & inside[None, :]
        if MAXIMA:
            merged = tl.maximum(merged, tl.max(tl.load(at, mask=mask, other=float("-inf")), axis=0))
        else:
            merged += tl.sum(tl.load(at, mask=mask, other=0.0), axis=0)
    if MAXIMA:
        tl.store(bases + tokens, merged, mask=inside)
    else:
        tl.store(totals + tokens, merged, mask=inside)
        if not FLAGGED:
            # Z is below 1 only by what two computations of the same score differ, which may be any number where scores
            # are huge. NaN fails the comparisons too. A token that does not count has an infinite base and Z = 0.
            z = merged + tl.exp2(target - base)
            fits = (z < BELOW_HALF_RANGE) & (z > 1.0 / BELOW_HALF_RANGE)
            uncounted = (base == float("inf")) & (z == 0.0)
            if tl.min((fits | uncounted).to(tl.int32), axis=0) == 0:
                tl.store(flag, 1)


@triton.jit(do_not_specialize=["num_tokens", "ignore_index"])
def finish_kernel(hidden, targets, totals, bases, target_scores, loss, lse, others, inverses, scaled,
                  num_tokens, num_items, ignore_index, log2e, DIM: tl.constexpr, DIM0: tl.constexpr,
                  DIM1: tl.constexpr, BLOCK_M: tl.constexpr):  # fmt: skip
    """Grid (tiles of tokens,): what a token leaves, and h / Z."""
    start = tl.program_id(0) * BLOCK_M
    tokens = start + tl.arange(0, BLOCK_M)
    inside = tokens < num_tokens
    _, ignored, invalid = read_targets(targets, tokens, num_tokens, num_items, ignore_index)
    total = tl.load(totals + tokens, mask=inside, other=1.0)
    base = tl.load(bases + tokens, mask=inside, other=0.0)
    target_score = tl.load(target_scores + tokens, mask=inside, other=0.0)
    loss_m, lse_m, _, others_m, inverse = finish_tokens(total, base, target_score, ignored, invalid, 1.0, log2e, False)
    inverse = tl.where(ignored | invalid, 0.0, inverse)
    tl.store(loss + tokens, loss_m, mask=inside)
    tl.store(lse + tokens, lse_m, mask=inside)
    tl.store(others + tokens, others_m, mask=inside)
    tl.store(inverses + tokens, inverse, mask=inside)
    h0 = load_tile(hidden, start, num_tokens - start, 0, DIM0, BLOCK_M, DIM, True).to(tl.float32)
    h0 = tl.where((inverse == 0.0)[:, None], 0.0, h0 * inverse[:, None])
    store_tile(scaled, start, num_tokens - start, h0, 0, DIM0, BLOCK_M, DIM)
    if DIM1 > 0:
        h1 = load_tile(hidden, start, num_tokens - start, DIM0, DIM1, BLOCK_M, DIM, True).to(tl.float32)
        h1 = tl.where((inverse == 0.0)[:, None], 0.0, h1 * inverse[:, None])
        store_tile(scaled, start, num_tokens - start, h1, DIM0, DIM1, BLOCK_M, DIM)


@triton.jit(do_not_specialize=["num_tokens", "ignore_index"])
def dhidden_kernel(products, weight, targets, others, inverses, dhidden, num_tokens, num_items, ignore_index,
                   DIM: tl.constexpr, DIM0: tl.constexpr, DIM1: tl.constexpr, BLOCK_M: tl.constexpr):  # fmt: skip
    """Grid (tiles of tokens,): from n W to dH."""
    start = tl.program_id(0) * BLOCK_M
    tokens = start + tl.arange(0, BLOCK_M)
    inside = tokens < num_tokens
    safe, ignored, invalid = read_targets(targets, tokens, num_tokens, num_items, ignore_index)
    acc0 = load_tile(products, start, num_tokens - start, 0, DIM0, BLOCK_M, DIM, True)
    acc1 = acc0
    if DIM1 > 0:
        acc1 = load_tile(products, start, num_tokens - start, DIM0, DIM1, BLOCK_M, DIM, True)
    other = tl.load(others + tokens, mask=inside, other=0.0)
    inverse = tl.load(inverses + tokens, mask=inside, other=0.0)
    write_dhidden(acc0, acc1, other, inverse, safe, ignored, invalid, weight, dhidden, start, num_tokens,
                  weight.dtype.element_ty, DIM, DIM0, DIM1, BLOCK_M)  # fmt: skip


@triton.jit(do_not_specialize=["num_tokens"])
def targets_kernel(hidden, order, ordered, targets, others, dweight, num_tokens, num_items, DIM: tl.constexpr,
                   DIM0: tl.constexpr, DIM1: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_T: tl.constexpr,
                   PARTS: tl.constexpr, SLOTS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Grid (tiles of items,): dW_t -= o_m h_m for the tokens whose targets are in the tile."""
    tile = tl.program_id(0)
    low = first_from(ordered, num_tokens, tile)
    high = first_from(ordered, num_tokens, tile + 1)
    if low == high:
        return
    first = tile * BLOCK_V
    items = first + tl.arange(0, BLOCK_V)
    acc0 = load_tile(dweight, first, num_items - first, 0, DIM0, BLOCK_V, DIM, True)
    acc1 = tl.zeros([BLOCK_V, DIM1 if DIM1 > 0 else 16], dtype=tl.float32)
    if DIM1 > 0:
        acc1 = load_tile(dweight, first, num_items - first, DIM0, DIM1, BLOCK_V, DIM, True)
    acc0, acc1, _ = add_targets(
        low, high, acc0, acc1, tl.zeros([BLOCK_V], dtype=tl.float32), items, hidden, order, targets, others, 1.0,
        DIM, DIM0, DIM1, BLOCK_T, False, False, 0, PARTS, SLOTS, PRECISION,
    )  # fmt: skip
    store_tile(dweight, first, num_items - first, acc0, 0, DIM0, BLOCK_V, DIM)
    if DIM1 > 0:
        store_tile(dweight, first, num_items - first, acc1, DIM0, DIM1, BLOCK_V, DIM)


class Chunk(NamedTuple):
    """Tokens that are worked on together: their part of the call, and of what all tokens leave."""

    hidden: Tensor  # [C, D]
    targets: Tensor  # [C]
    target_scores: Tensor  # [C] fp32
    bases: Tensor  # [C] fp32: r_m, infinite for a token that does not count
    flag: Tensor  # [1] int32, 0
    loss: Tensor  # [C] fp32, as the next two, all written by `finish_kernel`
    lse: Tensor
    others: Tensor  # o_m = 1 - p_mt


def launch_bases(call: FullCall, table: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the targets and bases of all tokens, fp32 [M]. `table` [V, D] is the weight in hidden's dtype."""
    num_tokens, dim = call.hidden.shape
    dim0, dim1 = block_widths(call.hidden)
    scores, bases = (call.hidden.new_empty(num_tokens, dtype=torch.float32) for _ in range(2))
    bases_kernel[(-(-num_tokens // _ROWS),)](
        call.hidden, table, call.targets, scores, bases, num_tokens, table.shape[0], call.ignore_index,
        exponent_scale(call), DIM=dim, DIM0=dim0, DIM1=dim1, BLOCK_M=_ROWS, BLOCK_V=_FIRST_ITEMS,
        PRECISION=dot_precision(call.hidden), num_warps=4,
    )  # fmt: skip
    return scores, bases


def launch_numerators(
    call: FullCall, table: Tensor, chunk: Chunk, numerators: Tensor, tiles: ChunkTiles, programs: int
) -> tuple[Tensor, Tensor]:
    """Write the numerators [C, stride >= V] of a chunk and what its tokens leave.

    Returns h / Z [C, D] in hidden's dtype and 1 / Z, fp32 [C].
    """
    num_tokens, dim = chunk.hidden.shape
    num_items, log2e = table.shape[0], exponent_scale(call)
    tiles_v = -(-num_items // tiles.block_v)
    results = chunk.bases.new_empty(tiles_v, num_tokens)
    totals, inverses = torch.empty_like(chunk.bases), torch.empty_like(chunk.bases)
    tma = tiles.tma and can_stream(table, table.dtype) and can_stream(chunk.hidden, table.dtype)
    blocks = (chunk.hidden, table)
    if tma:
        rows = (tiles.block_m, tiles.block_v)
        blocks = tuple(TensorDescriptor.from_tensor(x, [n, tiles.block_d]) for x, n in zip(blocks, rows, strict=True))

    def score(*, flagged: bool, maxima: bool) -> None:
        numerators_kernel[(min(programs, tiles_v * -(-num_tokens // tiles.block_m)),)](
            chunk.hidden, blocks[0], table, blocks[1], chunk.targets, chunk.bases, chunk.flag, results, numerators,
            num_tokens, num_items, numerators.stride(0), log2e, DIM=dim, BLOCK_M=tiles.block_m, BLOCK_V=tiles.block_v,
            BLOCK_D=tiles.block_d, FLAGGED=flagged, MAXIMA=maxima, TMA=tma, PRECISION=dot_precision(chunk.hidden),
            num_warps=tiles.num_warps, num_stages=tiles.num_stages, enable_fp_fusion=not flagged,
        )  # fmt: skip
        merge_tiles_kernel[(-(-num_tokens // _ROWS),)](
            results, totals, chunk.target_scores, chunk.bases, chunk.flag, num_tokens, tiles_v, log2e,
            FLAGGED=flagged, MAXIMA=maxima, BLOCK_M=_ROWS, BLOCK_T=32, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip

    score(flagged=False, maxima=False)
    score(flagged=True, maxima=True)
    score(flagged=True, maxima=False)
    dim0, dim1 = block_widths(chunk.hidden)
    scaled = torch.empty_like(chunk.hidden)
    finish_kernel[(-(-num_tokens // _ROWS),)](
        chunk.hidden, chunk.targets, totals, chunk.bases, chunk.target_scores, chunk.loss, chunk.lse, chunk.others,
        inverses, scaled, num_tokens, num_items, call.ignore_index, log2e, DIM=dim, DIM0=dim0, DIM1=dim1,
        BLOCK_M=_ROWS, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return scaled, inverses


def launch_dhidden(
    call: FullCall, table: Tensor, chunk: Chunk, products: Tensor, inverses: Tensor, dhidden: Tensor
) -> None:
    """Write dH [C, D] of a chunk, fp32, from the product of numerators and table, fp32 [C, D]."""
    num_tokens, dim = products.shape
    dim0, dim1 = block_widths(chunk.hidden)
    dhidden_kernel[(-(-num_tokens // _ROWS),)](
        products, table, chunk.targets, chunk.others, inverses, dhidden, num_tokens, table.shape[0],
        call.ignore_index, DIM=dim, DIM0=dim0, DIM1=dim1, BLOCK_M=_ROWS, num_warps=4,
    )  # fmt: skip


def launch_targets(call: FullCall, others: Tensor, dweight: Tensor) -> None:
    """Subtract o_m h_m from the rows of the targets in dW [V, D], fp32."""
    num_items, dim = dweight.shape
    dim0, dim1 = block_widths(call.hidden)
    order, ordered = sort_by_tile(call.targets, _TARGET_ITEMS)
    targets_kernel[(-(-num_items // _TARGET_ITEMS),)](
        call.hidden, order, ordered, call.targets, others, dweight, call.hidden.shape[0], num_items, DIM=dim,
        DIM0=dim0, DIM1=dim1, BLOCK_V=_TARGET_ITEMS, BLOCK_T=_BLOCK_T, PARTS=PARTS[call.hidden.dtype],
        SLOTS=SLOTS[call.hidden.dtype], PRECISION=dot_precision(call.hidden), num_warps=8,
    )  # fmt: skip
