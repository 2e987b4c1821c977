"""The full loss of a small batch on a GPU, from scores that exist: plain products around two Triton kernels.

A fused pass costs more launches and more work of the host than its kernels take where tokens x items is small.
Products sum in fp32, nothing is rounded at the size of the scores, and each gradient is rounded once. The coefficients
are rounded to hidden's dtype before the products: those of the targets too, as in eager torch, where the fused kernels
keep them in fp32.

Memory: M V numbers in fp32 from forward to backward, and M V in hidden's dtype in backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cce_kernels.autograd import CustomLoss, Gradients
from cce_kernels.full.call import FullCall
from cce_kernels.full.kernels.rows import launch_coefficients, launch_softmax_rows
from cce_kernels.full.upstream import upstream
from cce_kernels.kernels.mean_loss import reduce_in_one_launch


class SmallOutputs(NamedTuple):
    """What a forward writes: the loss and the log-sum-exp for the user, the rest for the backward."""

    loss: Tensor  # [M] fp32
    lse: Tensor  # [M] fp32
    predicted: Tensor | None  # [M] int64, None where it is not wanted
    lse2: Tensor  # [M] fp32: log-sum-exp in log2 units, infinite where a token has no gradient
    others: Tensor  # [M] fp32: o_m = 1 - p_mt
    wrong: Tensor  # [M, 1] in hidden's dtype: NaN where the target is out of range, else 0
    scores: Tensor  # [M, V] fp32


def _empty_outputs(call: FullCall, scores: Tensor | None = None) -> SmallOutputs:
    hidden = call.hidden
    loss, lse, lse2, others = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(4))
    if scores is None:
        scores = loss.new_empty(hidden.shape[0], call.weight.shape[0])
    predicted = torch.empty_like(call.targets) if call.with_predicted else None
    return SmallOutputs(loss, lse, predicted, lse2, others, hidden.new_empty(hidden.shape[0], 1), scores)


def _product(left: Tensor, right: Tensor, dtype: torch.dtype, add: Tensor | None = None) -> Tensor:
    """A product, plus `add`, summed in fp32 and rounded once to `dtype`: fp32 or that of the operands."""
    if not left.is_cuda:  # torch would round partial sums there
        product = left.float() @ right.float()
        return (product if add is None else product + add).to(dtype)
    if add is not None:
        return torch.addmm(add, left, right)
    return left @ right if left.dtype == dtype else torch.mm(left, right, out_dtype=dtype)


def _forward(call: FullCall) -> SmallOutputs:
    scores = _product(call.hidden, call.weight.to(call.hidden.dtype).T, torch.float32)
    outputs = _empty_outputs(call, scores)
    launch_softmax_rows(call, scores, (outputs.loss, outputs.lse, outputs.lse2, outputs.others, outputs.wrong))
    if outputs.predicted is not None:
        torch.argmax(scores, 1, out=outputs.predicted)
    return outputs


def _backward(
    grad: Tensor, call: FullCall, kept: Sequence[Tensor], with_hidden: bool, with_weight: bool,
    grad_lse: Tensor | None = None,
) -> Gradients:  # fmt: skip
    lse2, others, wrong, scores = kept
    hidden, weight = call.hidden, call.weight
    sent = upstream(call, grad, grad_lse, lse2, others)
    coefficients = launch_coefficients(call, scores, lse2, sent.pull, sent.grad)  # [M, V]
    d_hidden = _product(coefficients, weight.to(hidden.dtype), hidden.dtype, wrong) if with_hidden else None
    if not with_weight:
        return d_hidden, None, None
    own = weight.dtype if weight.dtype in (hidden.dtype, torch.float32) else torch.float32
    return d_hidden, _product(coefficients.T, hidden, own).to(weight.dtype), None


full_small = CustomLoss(
    "small_full", FullCall, _forward, _backward, _empty_outputs,
    shown=3, differentiable=2, kept=("lse2", "others", "wrong", "scores"), reduce=reduce_in_one_launch,
)  # fmt: skip
