"""Which tokens count: the one place that says what an ignored and an impossible target are."""

import torch
from torch import Tensor


def masks(targets: Tensor, ignore_index: int, num_items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort out targets.

    Args:
        targets: int64 [M].
        ignore_index: the target of tokens that do not count.
        num_items: V.

    Returns:
        bool [M] of tokens that count, bool [M] of tokens whose target is impossible, and int64 [M] of targets that are
        safe as an index.
    """
    inside = (targets >= 0) & (targets < num_items)
    counted = targets != ignore_index
    return inside & counted, counted & ~inside, torch.where(inside & counted, targets, 0)


def sparse_rows(ids: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """A coalesced sparse tensor of like's shape and dtype: `values` [R, ...] at rows `ids` int64 [R], ascending."""
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
        return torch.sparse_coo_tensor(ids[None], values.to(like.dtype), like.shape, is_coalesced=True)
