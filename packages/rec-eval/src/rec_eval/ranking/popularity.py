"""The popularity baseline: every user gets the most popular unseen items."""

import torch
from torch import Tensor

from rec_eval.ranking.seen import SeenItems
from rec_eval.ranking.sort_keys import TopK

_USERS_PER_TILE = 16384


def popularity_top_k(
    counts: Tensor,
    k: int,
    *,
    num_users: int | None = None,
    seen_offsets: Tensor | None = None,
    seen_items: Tensor | None = None,
) -> TopK:
    """Rank the catalogue by count for each user, without seen items; equal counts by lower id.

    All users share one order of items, so no list is sorted: the j-th unseen item of a user is at place ``j + m`` of
    the common order, where m is the number of seen items before it.

    Args:
        counts: ``[V]`` integers, not negative.
        k: length of the lists, at least 1.
        num_users: U; only needed if ``seen_offsets`` is None.
        seen_offsets: ``[U + 1]`` integers or None.
        seen_items: ``[nnz]`` integers in [0, V) or None.

    Returns:
        ids ``[U, k]`` int64 and counts as scores ``[U, k]`` float32; -1 and -inf if fewer than k items remain. The
        order is that of the exact counts, also above 2^24, where float32 cannot represent every integer.

    Raises:
        ValueError: counts, k or the seen items do not fit.
    """
    if counts.ndim != 1 or counts.numel() == 0 or counts.is_floating_point():
        raise ValueError(f"counts must be one row of integers, one per item, got {list(counts.shape)} {counts.dtype}")
    if int(counts.min()) < 0:
        raise ValueError(f"counts must not be negative, got {int(counts.min())}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if num_users is None:
        if seen_offsets is None:
            raise ValueError("num_users is None; allowed: the number of users, if seen_offsets is None")
        num_users = seen_offsets.numel() - 1
    num_items = counts.numel()
    seen = SeenItems(seen_offsets, seen_items, num_users, num_items)
    order = torch.argsort(counts.long(), descending=True, stable=True)  # [V] item at each place
    place = torch.empty_like(order)  # [V] place of each item
    place[order] = torch.arange(num_items, device=order.device)
    ids = torch.full((num_users, k), -1, dtype=torch.int64, device=counts.device)
    for start in range(0, num_users, _USERS_PER_TILE):
        end = min(start + _USERS_PER_TILE, num_users)
        rows, items = seen.rows(start, end, counts.device)
        places = _unseen_places(rows, place[items], end - start, num_items, k)  # [u, k]
        inside = places < num_items
        ids[start:end] = torch.where(inside, order[places.clamp(max=num_items - 1)], -1)
    scores = torch.where(ids >= 0, counts[ids.clamp(min=0)].float(), float("-inf"))
    return TopK(ids, scores)


def _unseen_places(rows: Tensor, places: Tensor, num_users: int, num_items: int, k: int) -> Tensor:
    """Find the places of each user's first k unseen items in the common order: ``[u, k]`` int64, >= V for none."""
    pairs = torch.unique(rows * num_items + places)  # distinct, sorted by user, then place
    rows, places = pairs // num_items, pairs % num_items
    per_user = torch.bincount(rows, minlength=num_users)
    before = torch.arange(pairs.numel(), device=pairs.device) - (per_user.cumsum(0) - per_user)[rows]
    # The i-th seen item, at place p, shifts every unseen item that has at least p - i unseen items before it.
    unseen_before = places - before
    near = unseen_before < k
    shifts = torch.zeros(num_users, k, dtype=torch.int64, device=pairs.device)
    shifts.index_put_(
        (rows[near], unseen_before[near]), torch.ones(1, dtype=torch.int64, device=pairs.device), accumulate=True
    )
    return torch.arange(k, device=pairs.device) + shifts.cumsum(dim=1)
