"""The full loss in Triton: autograd and torch.compile around the kernels of kernels/full_*.py.

`forward` gives the loss, the log-sum-exp and, where the hidden vectors need it, dH before the upstream gradient is
known; `backward` scales dH and computes dW and db. Eager mode calls them from an autograd function, which reduces the
loss too; torch.compile sees them as two custom operators, whose dispatch costs more than the kernels of a small batch.
They launch without looking at the device: no synchronisation, and a CUDA graph can hold them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cce_kernels.autograd import first_order
from cce_kernels.full import tuning
from cce_kernels.full.kernels.backward import launch_backward
from cce_kernels.full.kernels.forward import launch_forward
from cce_kernels.full.kernels.state import HALF_SHIFT, BackwardState, ForwardState
from cce_kernels.kernels.mean_loss import launch_mean
from cce_kernels.reduction import reduce_loss, scale_rows, upstream_of


def linear_cross_entropy_triton(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: float | None = None,
    filter_eps: float | None = None,
    reduction: str = "none",
) -> tuple[Tensor, Tensor]:
    """Loss, and log-sum-exp of every token (formulas: kernels/full_forward.py, kernels/full_backward.py).

    Args:
        hidden: [M, D] contiguous, M >= 1, bf16 or fp16 with D <= 512, or fp32 with D <= 256.
        weight: [V, D] contiguous, in any of these dtypes; products are made in the dtype of `hidden`.
        targets: int64 [M]; `ignore_index` gives loss 0 and no gradient, any other id outside [0, V) gives NaN.
        bias: [V] or None.
        ignore_index: the target of tokens that do not count.
        softcap: scores become `softcap * tanh(s / softcap)`.
        filter_eps: skip tiles whose probabilities are all below this; None is exact.
        reduction: `none`, `sum` or `mean`, over the tokens that count.

    Returns:
        loss fp32, [M] or a scalar, differentiable in hidden, weight and bias, and lse [M] fp32, a value.

    Raises:
        ValueError: D is above that.
    """
    with_dhidden = torch.is_grad_enabled() and hidden.requires_grad
    inputs = (hidden, weight, targets, bias, ignore_index, softcap, filter_eps, with_dhidden)
    if torch.compiler.is_compiling():
        loss, lse, *_ = full_forward(*inputs)
        return reduce_loss(loss, targets, ignore_index, reduction)[0], lse
    loss, lse = _Full.apply(reduction, *inputs)  # type: ignore[no-untyped-call]
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
    loss, lse, lse2, others, dhidden = _outputs(hidden, with_dhidden)
    state = ForwardState(
        hidden=hidden,
        # A 16-bit copy for this pass alone: the table is streamed once a tile of tokens. Backward reads it once.
        weight=weight.to(hidden.dtype) if hidden.dtype.itemsize < weight.dtype.itemsize else weight,
        bias=bias,
        targets=targets,
        scale=_stored_scale(hidden),
        loss=loss,
        lse=lse,
        lse2=lse2,
        others=others,
        dhidden=dhidden,
        ignore_index=ignore_index,
        softcap=softcap,
    )
    num_tokens, dim = hidden.shape
    tiles, _ = tuning.full_tiles(hidden.device, hidden.dtype, dim)
    programs, streamed = -(-num_tokens // tiles.block_m), -(-weight.shape[0] // tiles.block_v)
    splits = tuning.full_splits(hidden.device, programs, streamed, tiles.num_warps, 4 * num_tokens * dim)
    launch_forward(state, tiles, splits, filter_eps)
    return loss, lse, lse2, others, dhidden


def _outputs(hidden: Tensor, with_dhidden: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, lse, lse2 and others fp32 [M], and dH, uninitialised."""
    loss, lse, lse2, others = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(4))
    return loss, lse, lse2, others, torch.empty_like(hidden) if with_dhidden else hidden.new_empty(0)


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
    """Scale dH by the upstream gradient (fp32 [M], or a scalar for all), compute dW and db; empty if not wanted."""
    per_token = grad.dim() > 0
    if per_token:
        # Whatever comes for a token that does not count (its lse2 is infinite), it must not make a NaN.
        grad = torch.where(lse2.isinf(), 0.0, grad)
    scale = _stored_scale(hidden)
    wanted = dhidden.numel() > 0
    out = scale_rows(dhidden, grad if scale == 1.0 else grad / scale) if wanted else hidden.new_empty(0)
    if not with_dweight:
        return out, weight.new_empty(0), weight.new_empty(0)
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


class _Full(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reduction: str, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = forward(*inputs)
        _setup(ctx, inputs, output)
        loss, lse, *_ = output
        ctx.mark_non_differentiable(lse)
        reduce = launch_mean if reduction == "mean" else partial(reduce_loss, reduction=reduction)
        loss, ctx.count = reduce(loss, inputs[2], inputs[4])
        return loss, lse

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_gradients(ctx, backward, None if grad is None else upstream_of(grad, ctx.count))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, bias, _, softcap, filter_eps, _ = inputs
    _, _, lse2, others, dhidden = output
    ctx.save_for_backward(hidden, weight, targets, bias, lse2, others, dhidden)
    ctx.options = softcap, filter_eps
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, run: Callable[..., tuple[Tensor, ...]], upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 8
    need_hidden, need_weight, need_bias = (ctx.needs_input_grad[-8 + i] for i in (0, 1, 3))
    dh, dw, db = run(upstream, *ctx.saved_tensors, *ctx.options, need_weight or need_bias)
    wanted = (dh if need_hidden else None, dw if need_weight else None, None, db if need_bias else None)
    return *wanted, None, None, None, None


# The operators: the signatures of `forward` and `backward` are their schemas.
full_forward = torch.library.custom_op("cce_kernels::full_forward", forward, mutates_args=())
full_backward = torch.library.custom_op("cce_kernels::full_backward", backward, mutates_args=())


@full_forward.register_fake
def _(hidden: Tensor, *options: Any) -> tuple[Tensor, ...]:
    return _outputs(hidden, options[-1])


@full_backward.register_fake
def _(
    grad: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Any, ...]:
    dhidden, with_dweight = rest[2], rest[-1]
    dweight = torch.empty_like(weight) if with_dweight else weight.new_empty(0)
    dbias = torch.empty_like(bias) if with_dweight and bias is not None else weight.new_empty(0)
    return torch.empty_like(dhidden), dweight, dbias


def _setup_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _setup(ctx, inputs, output)
    ctx.mark_non_differentiable(*output[1:])


def _operator_backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, full_backward, None if grad is None else upstream_of(grad, None))


full_forward.register_autograd(_operator_backward, setup_context=_setup_operator)
