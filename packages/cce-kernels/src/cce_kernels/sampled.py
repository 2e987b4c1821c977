"""The sampled losses in Triton: the way in, and gradients that hold only the rows touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cce_kernels.kernels.sampled_keys import launch_group_ids, launch_mark_items
from cce_kernels.kernels.sampled_state import SampledState, WeightGradient
from cce_kernels.masking import masks, sparse_rows
from cce_kernels.objectives import Objective, Terms, encode
from cce_kernels.reference_sampled import Draw
from cce_kernels.sampled_ops import accumulate, backward, forward, make_state, sampled_forward, scaled, setup_context

# The flat argument lists of the operators are passed through as they are.
_forward: Callable[..., Any] = forward
_backward: Callable[..., Any] = backward
_make_state: Callable[..., SampledState] = make_state


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
) -> Tensor:
    """Loss of every token.

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

    Returns:
        loss fp32 [M].
    """
    source, groups = draw.source, draw.groups
    tensors = (source.size if isinstance(source.size, Tensor) else None, source.table, source.log_q, source.log_rest)
    sizes = [0 if isinstance(source.size, Tensor) else source.size, draw.num_negatives, *groups, ignore_index]
    wanted = hidden.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    with_grad = torch.is_grad_enabled() and wanted
    inputs = (hidden, weight, bias, targets, draw.seed, draw.step, *tensors, sizes, source.alias, *encode(objective))
    if torch.compiler.is_compiling() and not sparse_grad:
        compiled: Tensor = sampled_forward(*inputs, with_grad, deterministic)[0]
        return compiled
    loss: Tensor = _Sampled.apply(with_grad, deterministic, sparse_grad, *inputs)
    return loss


class _Sampled(torch.autograd.Function):
    """The operators without their dispatch, which costs more than the kernels of a small batch.

    The number of rows of sparse gradients is known on the device only: their backward synchronises once.
    """

    @staticmethod
    def forward(ctx: Any, with_grad: bool, deterministic: bool, sparse: bool, *inputs: Any) -> Tensor:
        output: tuple[Tensor, ...] = _forward(*inputs, with_grad, deterministic)
        setup_context(ctx, (*inputs, with_grad, deterministic), output)
        ctx.sparse = sparse
        return output[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[3:6]
        if grad is None:
            return (None,) * 17
        run = _sparse_backward if ctx.sparse and (needs[1] or needs[2]) else _backward
        gradients = run(grad, *ctx.saved_tensors, *ctx.options, needs[1] or needs[2], ctx.deterministic)
        wanted = (gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
        return None, None, None, *wanted, *(None,) * 11


def _sparse_backward(
    grad: Tensor,
    dhidden: Tensor,
    shift: Tensor,
    pull: Tensor,
    copied: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `sampled_ops.backward`, with sparse gradients of weight and bias."""
    *arguments, _, deterministic = others
    upstream = grad.to(torch.float32).contiguous()
    table = copied if copied.numel() else weight
    state: SampledState = _make_state(hidden, table, bias, *arguments, shift, pull)
    items, row_map = touched_items(state)
    into = WeightGradient(
        upstream.new_zeros(items.numel(), weight.shape[1]),
        None if bias is None else upstream.new_zeros(items.numel()),
        row_map,
    )
    accumulate(state, upstream, into, deterministic)
    d_bias = None if bias is None or into.bias is None else sparse_rows(items, into.bias, bias)
    return scaled(dhidden, upstream), sparse_rows(items, into.weight, weight), d_bias


def touched_items(state: SampledState) -> tuple[Tensor, Tensor]:
    """Items that the batch draws or has as targets, int64 [R] ascending, and their rows int32 [V]."""
    items = state.weight.shape[0]
    touched = torch.zeros(items, dtype=torch.int32, device=state.hidden.device)
    launch_mark_items(state, touched)
    targets = state.targets
    valid, _, safe = masks(targets, state.ignore_index, items)
    touched.scatter_reduce_(0, safe, valid.to(torch.int32), "amax")
    return touched.nonzero().squeeze(1), (touched.cumsum(0) - 1).to(torch.int32)


def drawn_ids(hidden: Tensor, weight: Tensor, draw: Draw) -> Tensor:
    """The ids int64 [G, N] of every group, written out by the kernels' own code (for tests)."""
    source, absent = draw.source, hidden.new_empty(0)
    size = source.size if isinstance(source.size, Tensor) else None
    positions = 0 if isinstance(source.size, Tensor) else source.size
    state = SampledState(
        hidden, weight, None, absent, absent, absent, draw.seed, draw.step, positions, size, source.table,
        source.alias, None, None, draw.groups, draw.num_negatives, -1, Terms(True, 1.0, 1.0),
    )  # fmt: skip
    ids = torch.empty(draw.groups.number, draw.num_negatives, dtype=torch.int64, device=hidden.device)
    launch_group_ids(state, ids)
    return ids
