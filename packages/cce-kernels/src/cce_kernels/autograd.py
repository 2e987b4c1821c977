"""Gradients that say so when they are differentiated again, instead of passing for constants."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


def first_order(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Decorate the `backward` of an autograd function that has no derivative of its own.

    With `create_graph=True` every gradient gets a `grad_fn` that raises a RuntimeError, on the way to all that it
    depends on. torch's `once_differentiable` adds it only where the upstream gradient is itself part of a graph; for a
    loss it is the constant 1, so a gradient penalty would be left out without a word.
    """

    @wraps(backward)
    def run(ctx: Any, *upstream: Tensor | None) -> Gradients:
        if not torch.is_grad_enabled():  # as ever, without create_graph
            return backward(ctx, *upstream)
        with torch.no_grad():
            gradients = backward(ctx, *upstream)
        on = [x for x in (*ctx.saved_tensors, *upstream) if x is not None and x.requires_grad]
        return tuple(x if x is None else _Final.apply(x.requires_grad_(), *on) for x in gradients)  # type: ignore[no-untyped-call]

    return run


class _Final(torch.autograd.Function):
    """The first argument, whose derivative by any of them is refused."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *_: Tensor) -> Tensor:
        return gradient.detach()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            "cce_kernels: the gradient of a loss cannot be differentiated again (create_graph=True); "
            "compute gradient penalties from logits in plain torch"
        )
