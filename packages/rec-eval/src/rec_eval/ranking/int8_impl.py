"""Exact top-k on a CPU that reads an int8 copy of the item vectors: a quarter of the bytes, and integer products.

With a row ``w = s * i + r`` (i int8, s its scale) and a query ``q = p * j + e`` (j int8), a score is bounded by

    q . w  <=  p * s * (i . j) + |e| * |s * i| + |q| * |r|

Items whose bound is below the k-th score found so far cannot be in the list; the others are scored in float32. The
lists are therefore those of the float32 vectors. Each score is a sum of its own, which does not depend on the tiles or
on who else is ranked in the same call, so equal items have equal scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rec_eval.ranking.seen import SeenItems
from rec_eval.ranking.sort_keys import EMPTY, decode_keys, encode_keys

FIRST_TILE = 1 << 16
"""Items of the first tile, which gives the first k-th scores; later tiles double up to `TILE_BOUNDS` / users."""
TILE_BOUNDS = 1 << 22
"""Bounds that exist at once: 16 MiB, beside as many int32 products."""
BLOCK = 128
"""Items whose highest bound is compared first; the sizes of tiles are multiples of it."""
MOST_SCORED = 1024
"""Per user and tile: blocks that are looked into at most, and items that are scored at most. Where bounds exclude
fewer, float32 products are faster."""
MOST_USERS, LEAST_ITEMS = 8, 1 << 16
"""Users up to which, and items from which this beats float32 products, measured on an EPYC with AVX-512 VNNI."""
LEAST_DIM = 8
"""Columns that vectors must have; products of narrow int8 matrices are wrong in torch 2.11 on a CPU."""


def suits(items: Tensor) -> bool:
    """Whether few users are ranked faster with an int8 copy of item vectors ``[V, D]``: where it was measured so."""
    on_cpu = items.device.type == "cpu" and items.dtype == torch.float32
    return (
        on_cpu
        and items.shape[0] >= LEAST_ITEMS
        and items.shape[1] >= LEAST_DIM
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    )


class Int8Table:
    """Item vectors as int8, with a scale per row; ``D + 12`` bytes per item.

    Args:
        items: ``[V, D]`` float32 on the CPU, D at least 8; they are read again for the items that are scored.
    """

    def __init__(self, items: Tensor) -> None:
        self.items = items.detach()
        num_items, dim = items.shape
        whole = -(-num_items // BLOCK) * BLOCK
        self.values = torch.zeros(whole, dim, dtype=torch.int8)
        self.scales, self.norms, self.errors = (torch.zeros(whole) for _ in range(3))
        for start in range(0, num_items, FIRST_TILE):
            part = slice(start, min(start + FIRST_TILE, num_items))
            rows = self.items[part]
            scales = _scales(rows)
            values = (rows / scales).round_().clamp_(-127, 127)
            self.values[part], self.scales[part] = values.to(torch.int8), scales[:, 0]
            rounded = values.mul_(scales)
            norms = rounded.norm(dim=1)
            # Beside the rounding to int8: that of sums of D float32 products, in the score and in its bound.
            slack = 4 * dim * torch.finfo(torch.float32).eps * (norms + rows.norm(dim=1))
            self.norms[part] = norms
            self.errors[part] = (rows - rounded).norm(dim=1) * 1.001 + slack


def rank_users(
    queries: Tensor,  # [u, D]
    table: Int8Table,
    k: int,
    bias: Tensor | None,  # [V], 0 or -inf
    seen: SeenItems,
    users: tuple[int, int],
) -> Tensor | None:
    """Rank one tile of users, who have places ``users`` in ``seen``: sort keys ``[u, k]`` int64, descending.

    None if the bounds exclude too little, as with items that are all alike.
    """
    num_users, num_items = queries.shape[0], table.items.shape[0]
    most_scored = max(MOST_SCORED, 8 * k)
    bounds = _tiles(table.values.shape[0], TILE_BOUNDS // num_users // BLOCK * BLOCK)
    scales = _scales(queries)  # [u, 1]
    small = (queries / scales).round_().clamp_(-127, 127)
    # In units of each query's scale; the largest of the users, so that one number does for all.
    query_error = float(((queries - small * scales).norm(dim=1) / scales[:, 0]).max()) * 1.001
    query_norm = float((queries.norm(dim=1) / scales[:, 0]).max()) * 1.001
    small = small.to(torch.int8)
    keys = torch.full((num_users, k), EMPTY, dtype=torch.int64)
    tiles = zip(bounds[:-1], bounds[1:], seen.tiles(*users, bounds, queries.device), strict=True)
    for first, last, (rows, columns) in tiles:
        part = slice(first, last)
        upper = torch._int_mm(small, table.values[part].T).float().mul_(table.scales[part])  # [u, t]
        upper.add_(table.norms[part], alpha=query_error).add_(table.errors[part], alpha=query_norm)
        if bias is not None:
            upper[:, : num_items - first].addcmul_(bias[part], scales.reciprocal())
        upper[:, num_items - first :] = float("-inf")  # the rows that fill the last block
        upper[rows, columns] = float("-inf")
        floor = _first_floor(queries, table.items, k, bias, upper) if first == 0 else decode_keys(keys[:, -1:]).scores
        floor = (floor / scales).clamp_min(torch.finfo(torch.float32).min)
        blocks = upper.view(num_users, -1, BLOCK)
        rows, places = (blocks.amax(dim=2) >= floor).nonzero(as_tuple=True)
        if rows.numel() > most_scored * num_users:
            return None
        inside, columns = (blocks[rows, places] >= floor[rows]).nonzero(as_tuple=True)
        rows, ids = rows[inside], places[inside] * BLOCK + columns + first
        counts = torch.bincount(rows, minlength=num_users)
        longest = int(counts.max())
        if longest > most_scored:
            return None
        found = torch.full((num_users, longest), EMPTY, dtype=torch.int64)
        slots = torch.arange(rows.numel()) - (counts.cumsum(0) - counts)[rows]
        found[rows, slots] = encode_keys(_scores(queries, table.items, bias, rows, ids), ids)
        keys = torch.cat([keys, found], dim=1).topk(k, dim=1).values
    return keys


def _first_floor(queries: Tensor, items: Tensor, k: int, bias: Tensor | None, upper: Tensor) -> Tensor:
    """A score that at least k items of the first tile reach, ``[u, 1]``: the k-th of those with the highest bounds."""
    num_users = queries.shape[0]
    if k > upper.shape[1]:
        return torch.full((num_users, 1), -torch.inf)
    best = upper.topk(min(max(4 * k, 64), upper.shape[1]), dim=1)
    rows = torch.arange(num_users).repeat_interleave(best.indices.shape[1])
    ids = best.indices.flatten().clamp_max(items.shape[0] - 1)  # a row that fills the last block has no score
    scores = _scores(queries, items, bias, rows, ids).view(num_users, -1)
    return scores.masked_fill_(torch.isneginf(best.values), -torch.inf).topk(k, dim=1).values[:, -1:]


def _scales(rows: Tensor) -> Tensor:
    """What an int8 step is worth in each row: ``[n, 1]``; 1 for rows of zeros and of almost zeros."""
    largest = rows.abs().amax(dim=1, keepdim=True)
    return torch.where(largest > 1e-30, largest / 127, 1.0)


def _tiles(num_rows: int, most: int) -> list[int]:
    """The first row of each tile, and their number at the end: tiles double, so each has about as many better items."""
    bounds = [0, min(num_rows, FIRST_TILE, most)]
    while bounds[-1] < num_rows:
        bounds.append(min(num_rows, bounds[-1] + min(bounds[-1], most)))
    return bounds


def _scores(queries: Tensor, items: Tensor, bias: Tensor | None, rows: Tensor, ids: Tensor) -> Tensor:
    """Scores of pairs of a query and an item, ``[n]``, each summed in the same order."""
    scores = (queries[rows] * items[ids]).sum(dim=1)
    return scores if bias is None else scores + bias[ids]
