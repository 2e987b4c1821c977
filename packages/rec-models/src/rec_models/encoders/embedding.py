"""Looking up rows of the item table, with or without a gradient table of its own.

The table is tied: the loss makes a dense gradient [V, D] of it, and so would the lookup. `lookup_into_grad` adds the
rows it touches to the gradient that the loss has already left in ``table.grad``: one table instead of two, and no sweep
over V rows to fill and add the second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Lookup = Callable[[Tensor, Tensor], Tensor]


def lookup(items: Tensor, table: Tensor) -> Tensor:
    """Rows of a table: items [T] int64, table [V, D] to [T, D]; an ordinary part of the graph."""
    return functional.embedding(items, table)


def sparse_lookup(items: Tensor, table: Tensor) -> Tensor:
    """As `lookup`, with a sparse gradient of the rows it touched; the loss's must be sparse too."""
    return functional.embedding(items, table, sparse=True)


def lookup_into_grad(items: Tensor, table: Tensor) -> Tensor:
    """As `lookup`, but backward adds to ``table.grad`` in place instead of returning a gradient.

    For a whole backward pass into ``.grad`` in one process only: `torch.autograd.grad` and hooks of DDP would not see
    it. The loss must use the table later in forward, so that its gradient is there first; without one, one is made.
    """
    anchor = torch.empty(0, device=table.device, requires_grad=True)  # makes autograd call backward at all
    # In a tuple the table is no input to autograd, so its gradient from the loss is complete before this backward runs.
    rows: Tensor = _LookupIntoGrad.apply(anchor, items, (table,))  # type: ignore[no-untyped-call]
    return rows


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
            table: Tensor = ctx.table
            if table.grad is None:
                table.grad = torch.zeros_like(table)
            # By atomics on a GPU, as the loss adds its own rows, unless torch is asked for deterministic algorithms:
            # sorting takes longer, and sums the rows of a popular item one after another (TUNING.md).
            table.grad.index_add_(0, items, grad.to(table.grad.dtype))
        return None, None, None
