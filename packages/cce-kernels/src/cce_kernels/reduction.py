"""Which tokens count, and how their losses are reduced, in plain torch. Kernels do the same in registers."""

from collections.abc import Callable

import torch
from torch import Tensor


def masks(targets: Tensor, ignore_index: int, num_items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Classify targets int64 [M]: valid, bool [M]; out of range, bool [M]; and int64 [M] that are safe as an index."""
    inside = (targets >= 0) & (targets < num_items)
    counted = targets != ignore_index
    return inside & counted, counted & ~inside, torch.where(inside & counted, targets, 0)


def reduce_loss(loss: Tensor, targets: Tensor, ignore_index: int, reduction: str) -> tuple[Tensor, Tensor | None]:
    """Reduce losses [M], 0 at tokens that do not count; for a mean also its divisor (fp32 scalar >= 1), else None."""
    if reduction == "none":
        return loss, None
    if reduction == "sum":
        return loss.sum(), None
    count = (targets != ignore_index).sum(dtype=torch.float32).clamp_(min=1)
    return loss.sum() / count, count


def reduce_weighted(
    loss: Tensor, targets: Tensor, ignore_index: int, reduction: str, token_weights: Tensor | None,
    item_weights: Tensor | None, sum_of_all: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Reduce losses [M], 0 at tokens that do not count, each times its token's weight and that of its target.

    A mean divides by the sum of these factors. The gradient of each loss is then its factor times that of the result,
    which the backward of every loss takes as an upstream gradient per token, as with reduction `none`.

    Args:
        loss: [M].
        targets: int64 [M].
        ignore_index: target of tokens that do not count, whatever their weight is.
        reduction: none, sum or mean.
        token_weights: [M] in any shape, or None.
        item_weights: [V], or None.
        sum_of_all: adds up the sums [n] of all processes, where tokens are spread over several.
    """
    factor = torch.ones_like(loss) if token_weights is None else token_weights.reshape(-1).to(loss.dtype)
    if item_weights is not None:
        _, _, safe = masks(targets, ignore_index, item_weights.shape[0])
        factor = factor * item_weights[safe].to(loss.dtype)
    factor = torch.where(targets != ignore_index, factor, 0)
    loss = loss * factor
    if reduction == "none":
        return loss
    sums = torch.stack((loss.sum(), factor.sum()) if reduction == "mean" else (loss.sum(),))
    total, *divisor = (sums if sum_of_all is None else sum_of_all(sums)).unbind()
    return total / torch.where(divisor[0] == 0, 1, divisor[0]) if divisor else total


def upstream_of(grad: Tensor, count: Tensor | None = None) -> Tensor:
    """Turn the gradient of a reduced loss into that of the losses: [M], or a scalar where all tokens share it."""
    if grad.dim() > 0 and grad.numel() > 0 and (grad.stride(0) == 0 or grad.numel() == 1):
        grad = grad[0]  # a sum or a mean outside gives every token the same number
    return grad if count is None else grad / count


def sparse_rows(ids: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """A coalesced sparse tensor of like's shape and dtype: `values` [R, ...] at rows `ids` int64 [R], ascending."""
    if values.dtype != like.dtype or values.stride() != (*values.shape[1:], 1):
        # With a single row any stride counts as contiguous: `to`, `contiguous` and `clone` keep it, and torch's sparse
        # sums then read past the row.
        values = torch.empty(values.shape, dtype=like.dtype, device=values.device).copy_(values)
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
        return torch.sparse_coo_tensor(ids[None], values, like.shape, is_coalesced=True)
