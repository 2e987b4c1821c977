"""The full loss in Triton: autograd and torch.compile around the kernels of kernels/full_*.py.

`forward` gives the loss, the log-sum-exp and, where the hidden vectors need it, dH before the upstream gradient is
known; `backward` scales dH and computes dW and db. Eager mode calls them from an autograd function; torch.compile sees
them as two custom operators, whose dispatch costs more than the kernels of a small batch. They launch without looking
at the device: no synchronisation, and a CUDA graph can hold them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cce_kernels import tuning
from cce_kernels.kernels.full_backward import launch_backward
from cce_kernels.kernels.full_forward import launch_forward
from cce_kernels.kernels.full_state import HALF_SHIFT, BackwardState, ForwardState


def linear_cross_entropy_triton(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: float | None = None,
    filter_eps: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss and log-sum-exp of every token (formulas: kernels/full_forward.py, kernels/full_backward.py).

    Args:
        hidden: [M, D] contiguous, M >= 1, D <= 512, fp32, bf16 or fp16.
        weight: [V, D] contiguous, in any of these dtypes; products are made in the dtype of `hidden`.
        targets: int64 [M]; `ignore_index` gives loss 0 and no gradient, any other id outside [0, V) gives NaN.
        bias: [V] or None.
        ignore_index: the target of tokens that do not count.
        softcap: scores become `softcap * tanh(s / softcap)`.
        filter_eps: skip tiles whose probabilities are all below this; None is exact.

    Returns:
        loss [M] fp32, differentiable in hidden, weight and bias, and lse [M] fp32, a value.

    Raises:
        ValueError: D is above 512.
    """
    with_dhidden = torch.is_grad_enabled() and hidden.requires_grad
    inputs = (hidden, weight, targets, bias, ignore_index, softcap, filter_eps, with_dhidden)
    loss, lse, *_ = full_forward(*inputs) if torch.compiler.is_compiling() else _Full.apply(*inputs)
    return loss, lse


def forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    softcap: float | None,
    filter_eps: float | None,
    with_dhidden: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the forward; see the fields of ForwardState for (loss, lse, lse2, others, dhidden)."""
    state = ForwardState(
        hidden=hidden,
        # A 16-bit copy for this pass alone: the table is streamed once a tile of tokens. Backward reads it once.
        weight=weight.to(hidden.dtype) if hidden.dtype.itemsize < weight.dtype.itemsize else weight,
        bias=bias,
        targets=targets,
        scale=_stored_scale(hidden),
        loss=hidden.new_empty(hidden.shape[0], dtype=torch.float32),
        lse=hidden.new_empty(hidden.shape[0], dtype=torch.float32),
        lse2=hidden.new_empty(hidden.shape[0], dtype=torch.float32),
        others=hidden.new_empty(hidden.shape[0], dtype=torch.float32),
        dhidden=torch.empty_like(hidden) if with_dhidden else hidden.new_empty(0),
        ignore_index=ignore_index,
        softcap=softcap,
    )
    num_tokens, dim = hidden.shape
    tiles, _ = tuning.full_tiles(hidden.device, hidden.dtype, dim)
    programs, streamed = -(-num_tokens // tiles.block_m), -(-weight.shape[0] // tiles.block_v)
    splits = tuning.full_splits(hidden.device, programs, streamed, tiles.num_warps, 4 * num_tokens * dim)
    launch_forward(state, tiles, splits, filter_eps)
    return state.loss, state.lse, state.lse2, state.others, state.dhidden


full_forward = torch.library.custom_op("cce_kernels::full_forward", forward, mutates_args=())


@full_forward.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    softcap: float | None,
    filter_eps: float | None,
    with_dhidden: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    loss, lse, lse2, others = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(4))
    dhidden = torch.empty_like(hidden) if with_dhidden else hidden.new_empty(0)
    return loss, lse, lse2, others, dhidden


def backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    lse2: Tensor,
    others: Tensor,
    dhidden: Tensor,
    softcap: float | None,
    filter_eps: float | None,
    with_dweight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale dH by the upstream gradient [M] (or [1]: shared by all tokens), compute dW and db; empty if not wanted."""
    out = torch.empty_like(dhidden)
    if dhidden.numel() > 0:
        torch.mul(dhidden, (grad / _stored_scale(hidden))[:, None], out=out)
    if not with_dweight:
        return out, weight.new_empty(0), weight.new_empty(0)
    per_token = grad.shape[0] == hidden.shape[0] and hidden.shape[0] > 1
    p_shift = HALF_SHIFT if hidden.dtype == torch.float16 else 0
    state = BackwardState(
        hidden=hidden,
        weight=weight,
        bias=bias,
        targets=targets,
        lse2=lse2,
        others=others,
        grad=grad,
        range_scale=_range_scale(grad) if per_token and p_shift > 0 else grad,
        per_token=per_token,
        p_shift=p_shift,
        softcap=softcap,
    )
    num_items, dim = weight.shape
    _, tiles = tuning.full_tiles(hidden.device, hidden.dtype, dim)
    programs, streamed = -(-num_items // tiles.block_v), -(-hidden.shape[0] // tiles.block_m)
    splits = tuning.full_splits(hidden.device, programs, streamed, tiles.num_warps, 4 * num_items * dim)
    dweight, dbias = launch_backward(state, tiles, splits, filter_eps)
    return out, dweight, weight.new_empty(0) if dbias is None else dbias


full_backward = torch.library.custom_op("cce_kernels::full_backward", backward, mutates_args=())


@full_backward.register_fake
def _(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    lse2: Tensor,
    others: Tensor,
    dhidden: Tensor,
    softcap: float | None,
    filter_eps: float | None,
    with_dweight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dweight = torch.empty_like(weight) if with_dweight else weight.new_empty(0)
    dbias = torch.empty_like(bias) if with_dweight and bias is not None else weight.new_empty(0)
    return torch.empty_like(dhidden), dweight, dbias


def _stored_scale(hidden: Tensor) -> float:
    """Factor that dH is stored with until backward knows the upstream gradient.

    1 / M is what a mean over all tokens sends: scaling by the ratio, 1, then rounds nothing a second time. fp16 has no
    room for it.
    """
    return 1.0 / hidden.shape[0] if hidden.dtype == torch.bfloat16 else 1.0


def _range_scale(grad: Tensor) -> Tensor:
    """Power of two [1] that brings the largest upstream gradient to between one half and 1."""
    _, exponent = torch.frexp(grad.abs().amax(0, keepdim=True))
    return torch.ldexp(torch.ones_like(grad[:1]), -exponent)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, bias, _, softcap, filter_eps, _ = inputs
    _, _, lse2, others, dhidden = output
    ctx.save_for_backward(hidden, weight, targets, bias, lse2, others, dhidden)
    ctx.softcap, ctx.filter_eps = softcap, filter_eps
    ctx.set_materialize_grads(False)


def _setup_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _setup(ctx, inputs, output)
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx: Any, run: Callable[..., tuple[Tensor, ...]], grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    hidden, weight, targets, bias, lse2, others, dhidden = ctx.saved_tensors
    # A sum or a mean hands every token the same number: one multiplication of the result instead of M * V.
    shared = grad[:1] if grad.stride(0) == 0 else grad
    need_hidden, need_weight, _, need_bias = ctx.needs_input_grad[:4]
    dh, dw, db = run(
        shared.float().contiguous(), hidden, weight, targets, bias, lse2, others, dhidden, ctx.softcap,
        ctx.filter_eps, need_weight or need_bias,
    )  # fmt: skip
    wanted = (dh if need_hidden else None, dw if need_weight else None, None, db if need_bias else None)
    return *wanted, None, None, None, None


class _Full(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = forward(*inputs)
        _setup(ctx, inputs, output)
        loss, lse, *_ = output
        ctx.mark_non_differentiable(lse)
        return loss, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, backward, grad)


def _operator_backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, full_backward, grad)


full_forward.register_autograd(_operator_backward, setup_context=_setup_operator)
