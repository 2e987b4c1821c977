"""The sampled losses in Triton: the way in, and gradients that hold only the rows touched."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cce_kernels.draws import Draw
from cce_kernels.first_order import first_order
from cce_kernels.kernels.mean_loss import launch_mean
from cce_kernels.kernels.sampled_keys import launch_mark_items
from cce_kernels.kernels.sampled_state import SampledState, WeightGradient
from cce_kernels.masking import masks, reduce_loss, scale_rows, sparse_rows, upstream_of
from cce_kernels.objectives import Objective
from cce_kernels.sampled_call import Call, call_of
from cce_kernels.sampled_ops import (
    accumulate,
    backward,
    forward,
    of_counted_tokens,
    sampled_forward,
    setup_context,
    state_of,
)


def sampled_linear_cross_entropy_triton(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    draw: Draw,
    objective: Objective,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    deterministic: bool = False,
    sparse_grad: bool = False,
    reduction: str = "none",
) -> Tensor:
    """Loss of every token, or reduced.

    Args:
        hidden: [M, D] contiguous, M >= 1, D <= 512, fp32, bf16 or fp16.
        weight: [V, D] contiguous; rows are rounded to hidden's dtype.
        targets: int64 [M]; `ignore_index` gives loss 0, any other id outside [0, V) gives NaN.
        draw: what is drawn.
        objective: what is summed.
        bias: [V] or None.
        ignore_index: the target of tokens that do not count.
        deterministic: no atomics.
        sparse_grad: weight's and bias's gradients as sparse tensors.
        reduction: `none`, `sum` or `mean`, over the tokens that count.

    Returns:
        loss fp32, [M] or a scalar.
    """
    call = call_of(hidden, weight, bias, targets, draw, objective, ignore_index)
    wanted = hidden.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    with_grad = torch.is_grad_enabled() and wanted
    if torch.compiler.is_compiling() and not sparse_grad:
        loss: Tensor = sampled_forward(*call, with_grad, deterministic)[0]
        return reduce_loss(loss, targets, ignore_index, reduction)[0]
    reduced: Tensor = _Sampled.apply(reduction, sparse_grad, *call, with_grad, deterministic)
    return reduced


class _Sampled(torch.autograd.Function):
    """The operators without their dispatch, which costs more than the kernels of a small batch.

    The number of rows of sparse gradients is known on the device only: their backward synchronises once.
    """

    @staticmethod
    def forward(ctx: Any, reduction: str, sparse: bool, *inputs: Any) -> Tensor:
        output = forward(*inputs)
        setup_context(ctx, inputs, output)
        call = Call(*inputs[:-2])
        ctx.sparse = sparse
        reduce = launch_mean if reduction == "mean" else partial(reduce_loss, reduction=reduction)
        loss, ctx.count = reduce(output[0], call.targets, call.ignore_index)
        return loss

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[2:5]
        if grad is None:
            return (None,) * 18
        with_weight = needs[1] or needs[2]
        run = _sparse_backward if ctx.sparse and with_weight else backward
        upstream = upstream_of(grad, ctx.count)
        gradients = run(upstream, *ctx.saved_tensors, *ctx.options, with_weight, ctx.deterministic)
        wanted = (gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
        return None, None, *wanted, *(None,) * 13


def _sparse_backward(
    grad: Tensor, dhidden: Tensor, shift: Tensor, pull: Tensor, copied: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `sampled_ops.backward`, with sparse gradients of weight and bias."""
    *fields, _, deterministic = arguments
    call = Call(*fields)
    weight, bias = call.weight, call.bias
    grad = of_counted_tokens(grad, call)
    state = state_of(call, copied if copied.numel() else weight, shift, pull)
    items, row_map = touched_items(state)
    into = WeightGradient(
        grad.new_zeros(items.numel(), weight.shape[1]),
        None if bias is None else grad.new_zeros(items.numel()),
        row_map,
    )
    accumulate(state, grad, into, deterministic)
    d_bias = None if bias is None or into.bias is None else sparse_rows(items, into.bias, bias)
    return scale_rows(dhidden, grad), sparse_rows(items, into.weight, weight), d_bias


def touched_items(state: SampledState) -> tuple[Tensor, Tensor]:
    """Items that the batch draws or has as targets, int64 [R] ascending, and their rows int32 [V]."""
    items = state.weight.shape[0]
    touched = torch.zeros(items, dtype=torch.int32, device=state.hidden.device)
    launch_mark_items(state, touched)
    targets = state.targets
    valid, _, safe = masks(targets, state.ignore_index, items)
    touched.scatter_reduce_(0, safe, valid.to(torch.int32), "amax")
    return touched.nonzero().squeeze(1), (touched.cumsum(0) - 1).to(torch.int32)
