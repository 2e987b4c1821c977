"""Exact top-k of a catalogue for many users, streamed over tiles of users and items.

A user's k best so far give a threshold; of the next tile only items strictly above it can enter (items come in
increasing order of id, so an equal score loses the tie). Almost all scores fall at this comparison, so that sorting
costs little beside the matrix product.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rec_eval.scoring import check_scoring, tile_scores
from rec_eval.seen import SeenItems

DEFAULT_ITEM_TILE = {"cpu": 4096, "cuda": 65536}
DEFAULT_USER_TILE = {"cpu": 512, "cuda": 2048}
_EMPTY = torch.iinfo(torch.int64).min
_LOW_BITS = (1 << 32) - 1


class TopK(NamedTuple):
    """The k best items of each user, best first."""

    ids: Tensor
    """[U, k] int64, -1 where fewer than k candidates are left."""
    scores: Tensor
    """[U, k] float32, -inf where ids is -1."""


def top_k(
    queries: Tensor,
    items: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    seen_offsets: Tensor | None = None,
    seen_items: Tensor | None = None,
    item_tile: int | None = None,
    user_tile: int | None = None,
) -> TopK:
    """Find each user's k items of highest score ``q . w + b``, without those already seen.

    Equal scores are ordered by lower item id. The order is exact with respect to the float32 scores of the matrix
    product; those may differ in their last bit between tile sizes, because libraries sum in another order.

    Memory beyond inputs and output is at most
    ``user_tile * (20 * item_tile + 48 * (k + candidates)) + 32 * (seen items of a user tile)`` bytes, where
    ``candidates = max(2 * k, 64)``, whatever V and U are.

    Args:
        queries: ``[U, D]`` float32, bfloat16 or float16, on CPU or CUDA.
        items: ``[V, D]``, same dtype and device.
        k: length of the lists, at least 1. Above V the tail is padding.
        bias: ``[V]`` or None; ``-inf`` takes an item out of every list.
        seen_offsets: ``[U + 1]`` integers or None: user u has seen ``seen_items[seen_offsets[u]:seen_offsets[u + 1]]``.
        seen_items: ``[nnz]`` integers in [0, V) or None, any order, repeats allowed. May stay on CPU.
        item_tile: items per tile (by default by device).
        user_tile: users per tile (by default by device).

    Returns:
        ids ``[U, k]`` int64 and scores ``[U, k]`` float32, best first; -1 and -inf where fewer than k candidates
        remain.

    Raises:
        ValueError: a shape, dtype, device or id does not fit, k or a tile is below 1, or a value is NaN or infinite.
    """
    check = check_scoring(queries, items, bias)
    num_users, num_items = queries.shape[0], items.shape[0]
    item_tile = DEFAULT_ITEM_TILE.get(queries.device.type, 4096) if item_tile is None else item_tile
    user_tile = DEFAULT_USER_TILE.get(queries.device.type, 512) if user_tile is None else user_tile
    for name, value in (("k", k), ("item_tile", item_tile), ("user_tile", user_tile)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    seen = SeenItems(seen_offsets, seen_items, num_users, num_items)
    ids = torch.empty(num_users, k, dtype=torch.int64, device=queries.device)
    scores = torch.empty(num_users, k, dtype=torch.float32, device=queries.device)
    bounds = [*range(0, num_items, item_tile), num_items]
    with torch.no_grad():
        for start in range(0, num_users, user_tile):
            end = min(start + user_tile, num_users)
            keys = _rank_users(
                queries[start:end], items, k, bias, seen.tiles(start, end, bounds, ids.device), bounds, check
            )
            ids[start:end], scores[start:end] = decode_keys(keys)
    return TopK(ids, scores)


def _rank_users(
    queries: Tensor,  # [u, D]
    items: Tensor,  # [V, D]
    k: int,
    bias: Tensor | None,  # [V]
    seen_tiles: list[tuple[Tensor, Tensor]],
    bounds: list[int],
    check: bool,
) -> Tensor:
    """Keys of the k best items of one tile of users, descending: ``[u, k]`` int64."""
    keys = torch.full((queries.shape[0], k), _EMPTY, dtype=torch.int64, device=queries.device)
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
    found = torch.full((scores.shape[0], width), _EMPTY, dtype=torch.int64, device=scores.device)
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


def encode_keys(scores: Tensor, ids: Tensor) -> Tensor:
    """Pack score and id into one int64 whose order is: higher score first, then lower id."""
    bits = (scores + 0.0).view(torch.int32)  # adding 0.0 turns -0.0 into 0.0: they are equal scores
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # floats of one sign compare as integers; negatives need a flip
    return (ordered.long() << 32) | (_LOW_BITS - ids)


def decode_keys(keys: Tensor) -> TopK:
    """Undo encode_keys; empty keys become id -1 and score -inf."""
    empty = keys == _EMPTY
    ordered = (keys >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    ids = _LOW_BITS - (keys & _LOW_BITS)
    return TopK(ids.masked_fill(empty, -1), scores.masked_fill(empty, float("-inf")))
