"""Full loss, forward over a split vocabulary: merge the partial sums of every split.

Split i of token m left T_i, r_i and A_i; with r = max r_i and c_i = 2^(r_i - r):

    T = sum_i c_i T_i,   A = sum_i c_i A_i,   then loss, log-sum-exp and dH as in forward.py

Bytes: splits * M * D * 4 read once; FLOPs: 2 per byte. The splits are added in order: deterministic.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from cce_kernels.full.call import FullCall
from cce_kernels.full.kernels.epilogue import finish_tokens, read_targets, score_targets, write_dhidden
from cce_kernels.full.kernels.state import FullOutputs, block_widths, exponent_scale
from cce_kernels.full.kernels.tiles import load_tile


@triton.jit(do_not_specialize=["num_tokens", "num_splits"])
def full_merge_kernel(hidden, weight, bias, targets, loss, lse, predicted, lse2, others, dhidden,
                      partial_sum, partial_base, partial_acc, partial_best, partial_item,
                      num_tokens, num_items, num_splits, ignore_index, softcap, log2e,
                      DIM: tl.constexpr, DIM0: tl.constexpr, DIM1: tl.constexpr, BLOCK_M: tl.constexpr,
                      HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, WITH_DHIDDEN: tl.constexpr):  # fmt: skip
    """Grid (tiles of tokens,); see the head of this file."""
    start = tl.program_id(0) * BLOCK_M
    tokens = start + tl.arange(0, BLOCK_M)
    inside = tokens < num_tokens
    safe, ignored, invalid = read_targets(targets, tokens, num_tokens, num_items, ignore_index)
    h0 = load_tile(hidden, start, num_tokens - start, 0, DIM0, BLOCK_M, DIM, True)
    h1 = h0
    if DIM1 > 0:
        h1 = load_tile(hidden, start, num_tokens - start, DIM0, DIM1, BLOCK_M, DIM, True)
    target_score = score_targets(h0, h1, weight, bias, safe, softcap, DIM, DIM0, DIM1, HAS_BIAS, HAS_SOFTCAP)

    base = tl.load(partial_base + tokens, mask=inside, other=0.0)
    for i in range(1, num_splits):
        row = tl.cast(i, tl.int64) * num_tokens
        base = tl.maximum(base, tl.load(partial_base + row + tokens, mask=inside, other=0.0))
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    acc0 = tl.zeros([BLOCK_M, DIM0], dtype=tl.float32)
    acc1 = tl.zeros([BLOCK_M, DIM1 if DIM1 > 0 else 16], dtype=tl.float32)
    for i in range(num_splits):
        row = tl.cast(i, tl.int64) * num_tokens
        part = tl.load(partial_base + row + tokens, mask=inside, other=0.0)
        share = tl.exp2(part - base)
        total += share * tl.load(partial_sum + row + tokens, mask=inside, other=0.0)
        if WITH_DHIDDEN:
            acc0 += share[:, None] * load_tile(
                partial_acc, row + start, num_tokens - start, 0, DIM0, BLOCK_M, DIM, True
            )
            if DIM1 > 0:
                acc1 += share[:, None] * load_tile(
                    partial_acc, row + start, num_tokens - start, DIM0, DIM1, BLOCK_M, DIM, True
                )
    loss_m, lse_m, lse2_m, others_m, inverse = finish_tokens(
        total, base, target_score, ignored, invalid, softcap, log2e, HAS_SOFTCAP
    )
    tl.store(loss + tokens, loss_m, mask=inside)
    tl.store(lse + tokens, lse_m, mask=inside)
    if predicted is not None:
        best = tl.load(partial_best + tokens, mask=inside, other=0.0)
        item = tl.load(partial_item + tokens, mask=inside, other=0)
        for i in range(1, num_splits):
            row = tl.cast(i, tl.int64) * num_tokens
            other = tl.load(partial_best + row + tokens, mask=inside, other=0.0)
            item = tl.where(other > best, tl.load(partial_item + row + tokens, mask=inside, other=0), item)
            best = tl.maximum(best, other)
        tl.store(predicted + tokens, item, mask=inside)
    tl.store(lse2 + tokens, lse2_m, mask=inside)
    tl.store(others + tokens, others_m, mask=inside)
    if WITH_DHIDDEN:
        write_dhidden(acc0, acc1, others_m, inverse, safe, ignored, invalid, weight, dhidden, start,
                      num_tokens, h0.dtype, DIM, DIM0, DIM1, BLOCK_M)  # fmt: skip


class Splits(NamedTuple):
    """What each of S splits leaves of M tokens, in fp32; bases and scores are in log2 units."""

    sums: Tensor  # [S, M]
    bases: Tensor  # [S, M]
    vectors: Tensor  # [S, M, D]: A, empty without dH
    best: Tensor | None  # [S, M], the highest score, None where it is not wanted
    item: Tensor | None  # int32 [S, M], its item


def launch_merge(call: FullCall, outputs: FullOutputs, parts: Splits) -> None:
    """Write the final numbers of a split forward into `outputs`."""
    hidden, weight, bias = call.hidden, call.weight, call.bias
    num_tokens, dim = hidden.shape
    dim0, dim1 = block_widths(hidden)
    block = max(4, 4096 // (1 << (dim0 + dim1 - 1).bit_length()))
    full_merge_kernel[(-(-num_tokens // block),)](
        hidden, weight, weight if bias is None else bias, call.targets, *outputs,
        *parts, num_tokens, weight.shape[0], parts.sums.shape[0], call.ignore_index,
        call.softcap or 1.0, exponent_scale(call), DIM=dim, DIM0=dim0, DIM1=dim1, BLOCK_M=block,
        HAS_BIAS=bias is not None, HAS_SOFTCAP=call.softcap is not None, WITH_DHIDDEN=call.with_dhidden, num_warps=4,
    )  # fmt: skip
