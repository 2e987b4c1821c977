"""Full loss of few tokens, from scores that exist: the softmax of a row, and the coefficients of both gradients.

With the scores s [M, V] in fp32 from a plain product, and everything else as in epilogue.py:

    forward   T_m = sum_{j != t} 2^(s_mj log2 e - r_m), r_m the running maximum; then loss, lse, o_m = 1 - p_mt
    backward  c_mj = g_m p_mj,  c_mt = -pull_m,   for dH = c W and dW = c^T h (pull_m: see upstream.py)

o_m is the sum over the others, never `1 - p_mt`: rounding it to 16 bits loses no more digits at a fitted token.

Bytes: 4 M V read in each; backward writes M V of hidden's dtype. FLOPs: a few per score.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from cce_kernels.full.call import FullCall
from cce_kernels.full.kernels.epilogue import finish_tokens, read_targets
from cce_kernels.full.kernels.state import exponent_scale

_BLOCK = 4096


@triton.jit(do_not_specialize=["num_tokens", "ignore_index"])
def softmax_rows_kernel(scores, targets, loss, lse, lse2, others, wrong, num_tokens, num_items, ignore_index,
                        log2e, BLOCK: tl.constexpr):  # fmt: skip
    """Grid (tokens,); `wrong` becomes NaN at a token whose target is out of range, else 0."""
    token = tl.program_id(0) + tl.arange(0, 1)
    row = scores + tl.program_id(0).to(tl.int64) * num_items
    safe, ignored, invalid = read_targets(targets, token, num_tokens, num_items, ignore_index)
    target_score = tl.load(row + safe)
    base = target_score * log2e
    total = tl.zeros([1], dtype=tl.float32)
    for first in range(0, num_items, BLOCK):
        items = first + tl.arange(0, BLOCK)
        others_only = (items < num_items) & (items != tl.sum(safe, axis=0))
        score2 = tl.load(row + items, mask=others_only, other=float("-inf")) * log2e
        raised = tl.maximum(base, tl.max(score2, axis=0))
        total = total * tl.exp2(base - raised) + tl.sum(tl.exp2(score2 - raised), axis=0)
        base = raised
    loss_m, lse_m, lse2_m, others_m, _ = finish_tokens(total, base, target_score, ignored, invalid, 1.0, log2e, False)
    tl.store(loss + token, loss_m)
    tl.store(lse + token, lse_m)
    tl.store(lse2 + token, lse2_m)
    tl.store(others + token, others_m)
    tl.store(wrong + token, tl.where(invalid, float("nan"), 0.0).to(wrong.dtype.element_ty))


@triton.jit
def coefficients_kernel(scores, targets, lse2, pull, grad, coefficients, num_items, log2e, PER_TOKEN: tl.constexpr,
                        BLOCK: tl.constexpr):  # fmt: skip
    """Grid (tokens, blocks of items)."""
    token = tl.program_id(0)
    row = token.to(tl.int64) * num_items
    items = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = items < num_items
    shift = tl.load(lse2 + token)
    own = -tl.load(pull + token)
    if PER_TOKEN:
        factor = tl.load(grad + token)
    else:
        factor = tl.load(grad)
        own *= factor
    p = tl.exp2(tl.load(scores + row + items, mask=inside, other=0.0) * log2e - shift)
    p = tl.where(items == tl.load(targets + token), own, p * factor)
    # Whatever arrives for a token that does not count (its lse2 is infinite), it must not make a NaN.
    p = tl.where(shift == float("inf"), 0.0, p)
    tl.store(coefficients + row + items, p.to(coefficients.dtype.element_ty), mask=inside)


def launch_softmax_rows(call: FullCall, scores: Tensor, outputs: tuple[Tensor, ...]) -> None:
    """Write loss, lse, lse2 and others, fp32 [M], and `wrong` [M, 1] of every token, from its scores fp32 [M, V]."""
    num_tokens, num_items = scores.shape
    softmax_rows_kernel[(num_tokens,)](
        scores,
        call.targets,
        *outputs,
        num_tokens,
        num_items,
        call.ignore_index,
        exponent_scale(call),
        BLOCK=_BLOCK,
        num_warps=8,
    )


def launch_coefficients(call: FullCall, scores: Tensor, lse2: Tensor, pull: Tensor, grad: Tensor) -> Tensor:
    """The coefficients [M, V], in hidden's dtype; `grad` and `pull` are those of `upstream.Upstream`."""
    num_tokens, num_items = scores.shape
    coefficients = call.hidden.new_empty(num_tokens, num_items)
    coefficients_kernel[(num_tokens, -(-num_items // _BLOCK))](
        scores, call.targets, lse2, pull, grad, coefficients, num_items, exponent_scale(call),
        PER_TOKEN=grad.dim() > 0, BLOCK=_BLOCK, num_warps=8,
    )  # fmt: skip
    return coefficients
