"""Top-k with plain torch: a running top-k over tiles of users and items.

The first tile gives every user a list of k items, whose last score is the threshold for later tiles: items come in
ascending order of id, so an equal score loses the tie. This one comparison discards almost all scores.
"""

import torch
from torch import Tensor

from rec_eval.ranking.scores import tile_scores
from rec_eval.ranking.seen import SeenItems
from rec_eval.ranking.sort_keys import EMPTY, decode_keys, encode_keys

BLOCK = 32
"""Items whose highest score is compared first."""


def tiles_for(num_users: int, device: str) -> tuple[int, int]:
    """Items and users per tile on a type of device, for so many users.

    On a CPU a tile of scores stays in its cache: 8 MiB, from 32,768 items for a few users to 4,096 items for 512.
    """
    if device == "cuda":
        return 65536, 2048
    users = max(1, min(num_users, 512))
    return min(max((1 << 21) // users // BLOCK * BLOCK, 4096), 32768), users


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
    """Rank one tile of users, who have places ``users`` in ``seen``: sort keys ``[u, k]`` int64, descending."""
    bounds = [*range(0, items.shape[0], item_tile), items.shape[0]]
    seen_tiles = seen.tiles(*users, bounds, queries.device)
    keys = torch.full((queries.shape[0], k), EMPTY, dtype=torch.int64, device=queries.device)
    for first, last, (rows, columns) in zip(bounds[:-1], bounds[1:], seen_tiles, strict=True):
        scores = tile_scores(queries, items[first:last], None if bias is None else bias[first:last], check)  # [u, t]
        scores[rows, columns] = float("-inf")
        found = None if first == 0 else _above(scores, decode_keys(keys[:, -1:]).scores, max(2 * k, 64))
        found = _best(scores, k) if found is None else found  # [u, c]
        if found.shape[1]:
            # Keys end in 2^32 - 1 - id: subtracting the first id turns columns of the tile into item ids.
            shifted = torch.where(found == EMPTY, EMPTY, found - first)
            keys = torch.cat([keys, shifted], dim=1).topk(k, dim=1).values
    return keys


def _above(scores: Tensor, floor: Tensor, limit: int) -> Tensor | None:
    """Find the keys of all items above the floor ``[u, 1]``, or None if a user has more than ``limit``.

    Scores are ``[u, t]``, -inf for excluded items. Keys are ``[u, c]`` int64, padded with empty keys, with ids counted
    from the tile's first item. The highest score of each block of items says whether to look into the block.
    """
    num_users, num_items = scores.shape
    size = min(BLOCK, num_items)
    whole = num_items // size * size
    blocks, rest = scores.unfold(1, size, size), scores[:, whole:]  # [u, b, size] and what fills no block
    above = blocks.amax(dim=2) > floor
    if int(torch.count_nonzero(above)) > limit * num_users:
        return None  # before the blocks are listed, which would take as much memory as the tile
    rows, places = above.nonzero(as_tuple=True)
    inside, columns = (blocks[rows, places] > floor[rows]).nonzero(as_tuple=True)
    rows, columns = rows[inside], places[inside] * size + columns
    if rest.shape[1]:
        rest_rows, rest_columns = (rest > floor).nonzero(as_tuple=True)
        rows, order = torch.cat([rows, rest_rows]).sort(stable=True)
        columns = torch.cat([columns, rest_columns + whole])[order]
    counts = torch.bincount(rows, minlength=num_users)
    longest = int(counts.max())
    if longest > limit:
        return None
    keys = torch.full((num_users, longest), EMPTY, dtype=torch.int64, device=scores.device)
    slots = torch.arange(rows.numel(), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    keys[rows, slots] = encode_keys(scores[rows, columns], columns)
    return keys


def _best(scores: Tensor, k: int) -> Tensor:
    """Find the keys of each user's k best items, ids from the tile's first: ``[u, min(k, t)]`` int64, unordered."""
    num_users, num_items = scores.shape
    if k >= num_items:
        values, columns = scores, torch.arange(num_items, device=scores.device).expand(num_users, -1)
    else:
        values, columns = scores.topk(k + 1, dim=1)
        # If the k-th and the next score are equal, topk chose among equals arbitrarily: choose again, by id.
        tied = ((values[:, k - 1] == values[:, k]) & (values[:, k] > float("-inf"))).nonzero().squeeze(1)
        values, columns = values[:, :k], columns[:, :k]
        if tied.numel():
            again = scores[tied]  # [n, t]
            chosen = _best_of_ties(again, values[tied, k - 1 :], k).nonzero()[:, 1].view(-1, k)
            columns[tied], values[tied] = chosen, again.gather(1, chosen)
    return encode_keys(values, columns).masked_fill(torch.isneginf(values), EMPTY)


def _best_of_ties(scores: Tensor, kth: Tensor, k: int) -> Tensor:
    """Mark each row's k largest scores, the leftmost among equals: ``[n, t]`` bool, exactly k per row."""
    equal = scores == kth
    higher = scores > kth
    room = k - higher.sum(dim=1, keepdim=True, dtype=torch.int32)
    return higher | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= room))
