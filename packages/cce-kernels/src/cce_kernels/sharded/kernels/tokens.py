"""What a process computes per token over sharded rows: scores and rows of own targets, and the merge of results.

Formulas are at the heads of `cce_kernels.sharded.full` and `cce_kernels.sharded.sampled`. Bytes, with P processes of M
tokens and b bytes per number of hidden: for own targets 2 b P M D read and b P M D written, and a row of the table per
own target; for the merge 2 b P M D read and 4 M D written. Sums are in the order of the processes: deterministic.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cce_kernels.full.kernels.epilogue import finish_tokens
from cce_kernels.full.kernels.tiles import LOG2E, gather_rows, load_tile, store_tile
from cce_kernels.sampled.kernels.math import log1p_exp, sigmoid
from cce_kernels.sampled.kernels.state import padded
from cce_kernels.sampled.objectives import Terms
from cce_kernels.sharded.merge import Merged, Partial

_BLOCK_NUMBERS = 2048  # of a tile of vectors
_WARPS = 4


@triton.jit(do_not_specialize=["num_tokens"])
def own_targets_kernel(hidden, weight, bias, rows, score, found, num_tokens, DIM: tl.constexpr, WIDTH: tl.constexpr,
                       BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr):  # fmt: skip
    """Grid (tiles of tokens,): see `own_targets`."""
    start = tl.program_id(0) * BLOCK
    tokens = start + tl.arange(0, BLOCK)
    row = tl.load(rows + tokens, mask=tokens < num_tokens, other=-1)
    own = row >= 0
    h = load_tile(hidden, start, num_tokens - start, 0, WIDTH, BLOCK, DIM, True)
    w = gather_rows(weight, tl.maximum(row, 0), own, 0, WIDTH, DIM).to(h.dtype)
    value = tl.sum(h.to(tl.float32) * w.to(tl.float32), axis=1)
    if HAS_BIAS:
        value += tl.load(bias + tl.maximum(row, 0), mask=own, other=0.0).to(tl.float32)
    tl.store(score + tokens, value, mask=tokens < num_tokens)
    store_tile(found, start, num_tokens - start, w, 0, WIDTH, BLOCK, DIM)


def own_targets(hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor) -> tuple[Tensor, Tensor]:
    """`cce_kernels.sharded.targets.own_targets` for fp32 sums, at least one token and one row; all are contiguous."""
    num_tokens, dim = hidden.shape
    score, found = torch.empty(num_tokens, dtype=torch.float32, device=hidden.device), torch.empty_like(hidden)
    width = padded(dim)
    block = max(1, _BLOCK_NUMBERS // width)
    own_targets_kernel[(-(-num_tokens // block),)](
        hidden, weight, weight if bias is None else bias, rows, score, found, num_tokens,
        DIM=dim, WIDTH=width, BLOCK=block, HAS_BIAS=bias is not None, num_warps=_WARPS,
    )  # fmt: skip
    return score, found


@triton.jit
def share_of(base, total, places, inside, top, KIND: tl.constexpr):
    """The part of one process in the sum over all, [BLOCK]."""
    part = tl.load(total + places, mask=inside, other=0.0)
    if KIND == "full":
        part *= tl.exp2(tl.load(base + places, mask=inside, other=0.0) - top)
    if KIND == "softmax":
        part *= tl.exp(tl.load(base + places, mask=inside, other=0.0) - top)
    return part


@triton.jit(do_not_specialize=["num_tokens", "num_items", "ranks", "ignore_index", "of_rank", "of_rank_rows"])
def merge_kernel(base, total, left, score, mean, target_row, targets, log_rest, loss, lse, shift, pull, dhidden,
                 num_tokens, num_items, ranks, ignore_index, of_rank, of_token, of_rank_rows, of_token_rows,
                 rest, softcap, positive_weight, scale, KIND: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
                 HAS_REST: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Grid (tiles of tokens,): see `launch_merge`."""
    start = tl.program_id(0) * BLOCK
    tokens = start + tl.arange(0, BLOCK)
    inside = tokens < num_tokens
    target = tl.load(targets + tokens, mask=inside, other=0)
    ignored = (target == ignore_index) | (tokens >= num_tokens)
    invalid = ((target < 0) | (target >= num_items)) & (target != ignore_index) & inside
    places = tokens.to(tl.int64) * of_token
    top = tl.load(base + places, mask=inside, other=0.0)
    own, kept = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for rank in range(ranks):
        place = places + tl.cast(rank, tl.int64) * of_rank
        top = tl.maximum(top, tl.load(base + place, mask=inside, other=0.0))
        own += tl.load(score + place, mask=inside, other=0.0)  # all but one are 0
        kept += tl.load(left + place, mask=inside, other=0.0)
    if KIND == "full":
        top = tl.maximum(top, own * LOG2E)
    sums = tl.zeros([BLOCK], tl.float32)
    for rank in range(ranks):
        sums += share_of(base, total, places + tl.cast(rank, tl.int64) * of_rank, inside, top, KIND)
    out_loss, out_pull = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    factor, out_shift = tl.zeros([BLOCK], tl.float32) + 1.0, tl.zeros([BLOCK], tl.float32)
    if KIND == "full":
        out_loss, out_lse, out_shift, out_pull, factor = finish_tokens(
            sums, top, own, ignored, invalid, softcap, LOG2E, HAS_SOFTCAP
        )
        tl.store(lse + tokens, out_lse, mask=inside)
    if KIND == "softmax":
        if HAS_REST:
            rest = tl.load(log_rest + tokens, mask=inside, other=0.0)
        # The difference first, so that nothing else is rounded at the size of the scores; NaN where the target's score
        # is no finite number: 0 would be a plausible loss.
        z = (top - own) + tl.log(sums) + rest - tl.log(tl.maximum(kept, 1.0)) + (own - own)
        out_loss, out_pull = log1p_exp(z), sigmoid(z)
        out_shift = tl.where(sums != 0.0, top + (tl.log(sums) + log1p_exp(-z)), float("inf"))
        factor = tl.where(sums != 0.0, out_pull / tl.where(sums != 0.0, sums, 1.0), 0.0)
        out_shift = tl.where(ignored | invalid, float("inf"), out_shift)
    if KIND == "pointwise":
        out_loss = scale * (positive_weight * log1p_exp(-own) + sums)
        out_pull = scale * positive_weight * sigmoid(-own)
    out_loss = tl.where(ignored, 0.0, tl.where(invalid, float("nan"), out_loss))
    out_pull = tl.where(ignored | invalid, 0.0, out_pull)
    tl.store(loss + tokens, out_loss, mask=inside)
    tl.store(shift + tokens, out_shift, mask=inside)
    tl.store(pull + tokens, out_pull, mask=inside)
    columns = tl.arange(0, WIDTH)
    masked = inside[:, None] & (columns[None, :] < DIM)
    vectors = tokens.to(tl.int64)[:, None] * of_token_rows + columns[None, :]
    out, row = tl.zeros([BLOCK, WIDTH], tl.float32), tl.zeros([BLOCK, WIDTH], tl.float32)
    for rank in range(ranks):
        at = tl.cast(rank, tl.int64)
        share = share_of(base, total, places + at * of_rank, inside, top, KIND)
        if KIND == "pointwise":
            share = tl.zeros([BLOCK], tl.float32) + 1.0
        of_rank_mean = tl.load(mean + vectors + at * of_rank_rows, mask=masked, other=0.0)
        out += (share * factor)[:, None] * of_rank_mean.to(tl.float32)
        row += tl.load(target_row + vectors + at * of_rank_rows, mask=masked, other=0.0).to(tl.float32)
    out -= out_pull[:, None] * row
    out = tl.where(ignored[:, None], 0.0, tl.where(invalid[:, None], float("nan"), out))
    store_tile(dhidden, start, num_tokens - start, out, 0, WIDTH, BLOCK, DIM)


def launch_merge(
    parts: Partial, targets: Tensor, ignore_index: int, num_items: int, *, softcap: float | None = None,
    terms: Terms | None = None, rest: float | Tensor = 0.0,
) -> Merged:  # fmt: skip
    """Merge fp32 results [P, M] and [P, M, D] of all processes for the own tokens, whose targets [M] are ids.

    Of the full loss without `terms`, else of a sampled one; `rest` is log(V - 1) or log(1 - q_t), fp32 [M]. The fields
    of `parts` have the same strides, those of numbers and those of rows.
    """
    ranks, num_tokens, dim = parts.mean.shape
    loss, shift, pull = (parts.base.new_empty(num_tokens) for _ in range(3))
    lse = loss.new_empty(num_tokens if terms is None else 0)
    dhidden = loss.new_empty(num_tokens, dim)
    assert parts.base.stride() == parts.total.stride() == parts.left.stride() == parts.target_score.stride()
    assert parts.mean.stride() == parts.target_row.stride()
    assert parts.mean.stride(2) == 1
    kind = "full" if terms is None else "softmax" if terms.softmax else "pointwise"
    width = padded(dim)
    block = max(1, _BLOCK_NUMBERS // width)
    merge_kernel[(-(-num_tokens // block),)](
        *parts[:4], parts.mean, parts.target_row, targets, rest if isinstance(rest, Tensor) else loss, loss, lse, shift,
        pull, dhidden, num_tokens, num_items, ranks, ignore_index, *parts.base.stride(), *parts.mean.stride()[:2],
        0.0 if isinstance(rest, Tensor) else rest, softcap or 1.0, 1.0 if terms is None else terms.positive_weight,
        1.0 if terms is None else terms.scale, KIND=kind, HAS_SOFTCAP=softcap is not None,
        HAS_REST=isinstance(rest, Tensor), DIM=dim, WIDTH=width, BLOCK=block, num_warps=_WARPS,
    )  # fmt: skip
    return Merged(loss, lse, shift, pull, dhidden)
