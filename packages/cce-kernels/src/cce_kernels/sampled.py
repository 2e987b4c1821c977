"""The sampled losses in Triton: the way in, and gradients that hold only the rows touched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cce_kernels.kernels.sampled_keys import launch_group_ids, launch_mark_items
from cce_kernels.kernels.sampled_scale import launch_scale
from cce_kernels.kernels.sampled_state import SampledState, WeightGradient
from cce_kernels.objectives import Terms
from cce_kernels.reference_sampled import Draw
from cce_kernels.sampled_ops import accumulate, make_state, sampled_forward, setup_context

MAX_DIM = 512


def sampled_linear_cross_entropy_triton(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    draw: Draw,
    terms: Terms,
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
        terms: the objective.
        bias: [V] or None.
        ignore_index: the target of tokens that do not count.
        deterministic: no atomics.
        sparse_grad: weight's and bias's gradients as sparse tensors.

    Returns:
        loss fp32 [M].

    Raises:
        ValueError: D is above 512.
    """
    if hidden.shape[1] > MAX_DIM:
        raise ValueError(f"hidden has {hidden.shape[1]} columns; impl='triton' takes up to {MAX_DIM}")
    source, groups = draw.source, draw.groups
    tensors = (source.size if isinstance(source.size, Tensor) else None, source.table, source.log_q, source.log_rest)
    sizes = [0 if isinstance(source.size, Tensor) else source.size, draw.num_negatives, *groups, ignore_index]
    with_grad = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    numbers = (terms.positive_weight, terms.scale)
    flags = (source.alias, terms.softmax)
    inputs = (hidden, weight, bias, targets, draw.seed, draw.step, *tensors, sizes, *flags, *numbers)
    if sparse_grad and with_grad:
        loss: Tensor = _SparseSampled.apply(deterministic, *inputs)
        return loss
    plain: Tensor = sampled_forward(*inputs, with_grad, deterministic)[0]
    return plain


class _SparseSampled(torch.autograd.Function):
    """The same with sparse gradients. Their number of rows is known on the device only: backward synchronises once."""

    @staticmethod
    def forward(ctx: Any, deterministic: bool, *inputs: Any) -> Tensor:
        output: tuple[Tensor, ...] = sampled_forward(*inputs, True, deterministic)
        setup_context(ctx, (*inputs, True, deterministic), output)
        return output[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dhidden, shift, pull, copied, *saved = ctx.saved_tensors
        hidden, weight, bias = saved[:3]
        upstream = grad.to(torch.float32).contiguous()
        d_hidden = torch.empty_like(hidden)
        launch_scale(dhidden, upstream, d_hidden)
        table = copied if copied.numel() else weight
        arguments: list[Any] = [hidden, table, bias, *saved[3:], *ctx.options, shift, pull]
        state = make_state(*arguments)
        items, row_map = touched_items(state)
        into = WeightGradient(
            upstream.new_zeros(items.numel(), weight.shape[1]),
            None if bias is None else upstream.new_zeros(items.numel()),
            row_map,
        )
        accumulate(state, upstream, into, ctx.deterministic)
        d_weight = _sparse(items, into.weight, weight)
        d_bias = None if bias is None or into.bias is None else _sparse(items, into.bias, bias)
        return None, d_hidden, d_weight, d_bias, *(None,) * 12


def touched_items(state: SampledState) -> tuple[Tensor, Tensor]:
    """Items that the batch draws or has as targets, int64 [R] ascending, and their rows int32 [V]."""
    items = state.weight.shape[0]
    touched = torch.zeros(items, dtype=torch.int32, device=state.hidden.device)
    launch_mark_items(state, touched)
    targets = state.targets
    valid = (targets != state.ignore_index) & (targets >= 0) & (targets < items)
    touched.scatter_reduce_(0, torch.where(valid, targets, 0), valid.to(torch.int32), "amax")
    return touched.nonzero().squeeze(1), (touched.cumsum(0) - 1).to(torch.int32)


def _sparse(items: Tensor, values: Tensor, like: Tensor) -> Tensor:
    # The items ascend without repeats, so the tensor is coalesced as it is.
    return torch.sparse_coo_tensor(
        items[None], values.to(like.dtype), like.shape, is_coalesced=True, check_invariants=False
    )


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
