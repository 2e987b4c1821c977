"""Lookup of rows of the item table, with or without a second gradient table.

The table is tied: the loss computes a dense gradient [V, D] for it, and an ordinary lookup would compute a second one.
`lookup_into_grad` adds the rows it touched to the gradient that the loss has already written to ``table.grad``. This
saves a table, and two passes over V rows to fill it and to add it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Lookup = Callable[[Tensor, Tensor], Tensor]


def lookup(items: Tensor, table: Tensor) -> Tensor:
    """Rows of a table: items [T] int64, table [V, D] to [T, D]; an ordinary operation of autograd."""
    return functional.embedding(items, table)


def lookup_into_grad(items: Tensor, table: Tensor) -> Tensor:
    """Like `lookup`, but backward adds to ``table.grad`` in place instead of returning a gradient.

    Only for a backward pass into ``.grad``: `torch.autograd.grad` and DDP's hooks do not see this gradient. The loss
    must use the table after the lookup, so that its gradient exists first; if there is none, zeros are allocated.
    """
    anchor = torch.empty(0, device=table.device, requires_grad=True)  # makes autograd call backward at all
    # In a tuple the table is not an input to autograd, so the loss's gradient is complete before this backward runs.
    rows: Tensor = _LookupIntoGrad.apply(anchor, items, (table,))  # type: ignore[no-untyped-call]
    return rows


def gradient_of(table: Tensor) -> Tensor:
    """``table.grad``, zeros if there was none."""
    if table.grad is None:
        table.grad = torch.zeros_like(table)
    return table.grad


class _LookupIntoGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, items: Tensor, holder: tuple[Tensor]) -> Tensor:
        ctx.save_for_backward(items)
        (ctx.table,) = holder
        ctx.set_materialize_grads(False)
        return functional.embedding(items, ctx.table)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> tuple[None, None, None]:
        if grad is not None:
            (items,) = ctx.saved_tensors
            into = gradient_of(ctx.table)
            # On a GPU this uses atomics, as the loss does for its rows, unless torch must use deterministic algorithms.
            # Sorting takes longer, and adds up the rows of a popular item one after another (TUNING.md).
            into.index_add_(0, items, grad.to(into.dtype))
        return None, None, None
