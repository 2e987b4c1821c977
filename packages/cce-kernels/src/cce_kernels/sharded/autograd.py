"""The step of a sharded loss: tokens go to all processes, partial results come back, and two numbers a token go out.

Rows of the table never leave their process, except those of targets. In bytes received per process, with P processes of
M tokens each and b bytes per number of hidden: (b D + 8) M (P - 1) for the tokens and their targets, (2 b D + 16) M
(P - 1) for the partial results, and in backward 8 M (P - 1). The gradient of a process's rows needs nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from cce_kernels.autograd import Gradients, first_order
from cce_kernels.reduction import upstream_of
from cce_kernels.shard import Shard
from cce_kernels.sharded.merge import Merged, Partial, exchange

RowGradients = tuple[Tensor, Tensor | None]  # of the own rows [n, D] and their bias [n]


class ShardedLoss(ABC):
    """One call of a loss over sharded rows.

    Attributes:
        shard: the group and its rows.
        targets: int64 [M], the ids of the own tokens.
        ignore_index: target of tokens that do not count.
    """

    def __init__(self, shard: Shard, targets: Tensor, ignore_index: int) -> None:
        self.shard, self.targets, self.ignore_index = shard, targets, ignore_index

    @abstractmethod
    def of_all(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Any, ...]:
        """The arguments, a NamedTuple, of the loss of all tokens over the own rows; `hidden` is [P, M, D]."""

    @abstractmethod
    def partial(self, call: Any) -> Partial:
        """Results [P, M] over the own rows."""

    @abstractmethod
    def merge(self, parts: Partial) -> Merged:
        """Results [P, M] of all processes for the own tokens, put together."""

    @abstractmethod
    def weight_gradient(self, call: Any, shift: Tensor, pull: Tensor, grad: Tensor) -> RowGradients:
        """DW and db of the own rows, from numbers [P, M]; `grad` is [P, M] or a scalar for all tokens."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def run_sharded(
    loss: ShardedLoss, reduction: str, hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The reduced loss, and the log-sum-exp [M] if the loss has one; hidden [M, D], the own rows and their bias.

    A sum and a mean are over the tokens of all processes, the same number in each of them.
    """
    result: tuple[Tensor, Tensor] = _Sharded.apply(loss, reduction, hidden, weight, bias)  # type: ignore[no-untyped-call]
    return result


@torch.compiler.disable  # type: ignore[untyped-decorator]
def sum_over_processes(shard: Shard, mine: Tensor) -> Tensor:
    """The sums of the numbers [n] of all processes, whose gradient is the same in each: that of the own numbers."""
    total: Tensor = _SumOverProcesses.apply(shard, mine)  # type: ignore[no-untyped-call]
    return total


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shard: Shard, mine: Tensor) -> Tensor:
        return shard.gather(mine).sum(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        return None, grad


class _Sharded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loss: ShardedLoss, reduction: str, hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        shard = loss.shard
        call = loss.of_all(shard.gather(hidden), weight, bias)
        merged = loss.merge(exchange(shard, loss.partial(call)))
        tensors = [x if isinstance(x, Tensor) else None for x in call]
        ctx.save_for_backward(merged.shift, merged.pull, merged.dhidden, *tensors)
        ctx.loss, ctx.call_type, ctx.dtype = loss, type(call), hidden.dtype
        ctx.options = [None if isinstance(x, Tensor) else x for x in call]
        ctx.count = None
        ctx.mark_non_differentiable(merged.lse)
        ctx.set_materialize_grads(False)
        if reduction == "none":
            return merged.loss, merged.lse
        counted = (loss.targets != loss.ignore_index).sum(dtype=merged.loss.dtype)
        total, count = shard.gather(torch.stack((merged.loss.sum(), counted))).sum(0)
        if reduction == "sum":
            return total, merged.lse
        ctx.count = count.clamp(min=1)
        return total / ctx.count, merged.lse

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> Gradients:
        if grad is None:
            return (None,) * 5
        loss: ShardedLoss = ctx.loss
        shift, pull, dhidden, *tensors = ctx.saved_tensors
        call = ctx.call_type(*(x if y is None else y for x, y in zip(ctx.options, tensors, strict=True)))
        _, _, with_hidden, *with_rows = ctx.needs_input_grad
        # Every process must send the same: a gradient of single tokens goes out even where it is one number for all.
        counted = loss.targets != loss.ignore_index
        grad = upstream_of(grad, ctx.count) if grad.dim() == 0 else torch.where(counted, grad, 0)
        d_weight = d_bias = None
        if any(with_rows):
            numbers = loss.shard.gather(torch.stack((shift, pull) if grad.dim() == 0 else (shift, pull, grad)))
            sent = numbers.unbind(1)
            d_weight, d_bias = loss.weight_gradient(call, sent[0], sent[1], grad if grad.dim() == 0 else sent[2])
        d_hidden = (dhidden * grad.view(-1, 1)).to(ctx.dtype) if with_hidden else None
        return None, None, d_hidden, d_weight, d_bias
