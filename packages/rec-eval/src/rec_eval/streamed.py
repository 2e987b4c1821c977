"""Top-k with plain torch: scores of a tile of users against a tile of items, and what survives of them.

A user's k best so far give a threshold; of the next tile only items strictly above it can enter (items come in
increasing order of id, so an equal score loses the tie). Almost all scores fall at this comparison, so that sorting
costs little beside the product.
"""

import torch
from torch import Tensor

from rec_eval.keys import EMPTY, decode_keys, encode_keys
from rec_eval.scoring import tile_scores
from rec_eval.seen import SeenItems

_DEFAULT_ITEM_TILE = {"cpu": 4096, "cuda": 65536}
_DEFAULT_USER_TILE = {"cpu": 512, "cuda": 2048}


def default_tiles(device: torch.device) -> tuple[int, int]:
    """Items and users of a tile on a device."""
    return _DEFAULT_ITEM_TILE.get(device.type, 4096), _DEFAULT_USER_TILE.get(device.type, 512)


def rank_users(
    queries: Tensor,  # [u, D]
    items: Tensor,  # [V, D]
    k: int,
    bias: Tensor | None,  # [V]
    seen: SeenItems,
    users: tuple[int, int],
    item_tile: int,
    check: bool,
) -> Tensor:
    """Rank one tile of users, who stand at places ``users`` in ``seen``: keys ``[u, k]`` int64, descending."""
    bounds = [*range(0, items.shape[0], item_tile), items.shape[0]]
    seen_tiles = seen.tiles(*users, bounds, queries.device)
    keys = torch.full((queries.shape[0], k), EMPTY, dtype=torch.int64, device=queries.device)
    floor = torch.full((queries.shape[0], 1), float("-inf"), device=queries.device)
    for first, last, (rows, columns) in zip(bounds[:-1], bounds[1:], seen_tiles, strict=True):
        scores = tile_scores(queries, items[first:last], None if bias is None else bias[first:last], check)  # [u, t]
        scores[rows, columns] = float("-inf")
        found = _candidates(scores, floor, k, first)  # [u, c]
        if found.shape[1]:
            keys = torch.cat([keys, found], dim=1).topk(k, dim=1).values
            floor = decode_keys(keys[:, -1:]).scores
    return keys


def _candidates(scores: Tensor, floor: Tensor, k: int, first_id: int) -> Tensor:
    """Keys of the items that may enter the lists: at least the tile's k best above the floor, in no order.

    Args:
        scores: ``[u, t]`` float32, -inf for excluded items.
        floor: ``[u, 1]`` float32: only scores strictly above it can enter.
        k: length of the lists.
        first_id: id of the tile's first item.

    Returns:
        ``[u, c]`` int64 keys, padded with empty ones; ``c <= max(2 * k, 64)``.
    """
    above = scores > floor  # [u, t]
    counts = above.sum(dim=1, dtype=torch.int32)  # [u]; int64 would first copy the mask eight times as large
    limit = max(2 * k, 64)
    crowded = (counts > limit).nonzero().squeeze(1)
    if crowded.numel():
        everyone = crowded.numel() == counts.numel()
        above[crowded] &= best_of_rows(scores if everyone else scores[crowded], k)
        counts = above.sum(dim=1, dtype=torch.int32)
    width = int(counts.max()) if counts.numel() else 0
    found = torch.full((scores.shape[0], width), EMPTY, dtype=torch.int64, device=scores.device)
    if width:
        rows, columns = above.nonzero(as_tuple=True)
        slots = torch.arange(rows.numel(), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        found[rows, slots] = encode_keys(scores[rows, columns], columns + first_id)
    return found


def best_of_rows(scores: Tensor, k: int) -> Tensor:
    """Mark each row's k largest scores, the leftmost of equal ones: ``[n, t]`` bool; ``t > k``."""
    kth = scores.topk(k, dim=1).values[:, -1:]  # [n, 1]
    best = scores >= kth
    tied = (best.sum(dim=1, dtype=torch.int32) > k).nonzero().squeeze(1)
    if tied.numel():
        equal = scores[tied] == kth[tied]
        room = k - (scores[tied] > kth[tied]).sum(dim=1, keepdim=True, dtype=torch.int32)
        best[tied] &= ~equal | (equal.cumsum(dim=1, dtype=torch.int32) <= room)
    return best
