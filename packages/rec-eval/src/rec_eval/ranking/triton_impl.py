"""Top-k on a GPU without a score matrix: a fused product and filter, in a few passes of growing size.

After n random items, another random item beats a user's floor (the k-th best score so far) with probability k / n. A
pass over r n further items therefore leaves about k r survivors for every n: the number of passes grows with log V, and
every list of survivors stays short.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from rec_eval.ranking.seen import SeenItems
from rec_eval.ranking.sort_keys import EMPTY, decode_keys, encode_keys

if TYPE_CHECKING:
    from rec_eval.ranking.kernels.filter import Survivors, Tiles

DEFAULT_USER_TILE = 8192
DTYPES = (torch.bfloat16, torch.float16)
_INTERPRETER_PROGRAMS = 2
_WAVES = 8  # programs per multiprocessor, enough to balance the load at the end
_TILES = [(128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2), (16, 16, 4, 2)]
"""Users, items, warps, stages; in order of preference."""
_SKIP_BELOW = 0.01  # expected survivors per tile below which checking for any survivor pays off, without PTX
_MOST_CELLS = 1 << 25
"""Limit for the places of all survivor lists together, which bounds memory and keeps offsets within 32 bits."""
_Named = TypeVar("_Named", bound=NamedTuple)


@dataclass(frozen=True)
class Plan:
    """How the catalogue is divided: passes over tiles, which are visited with a stride."""

    tiles: "Tiles"
    stride: int
    passes: list[tuple[int, int]]
    """First visit and one past the last of each pass; together they cover every tile once."""
    capacity: int
    """Places of a user's list of survivors."""


def choose_tiles(dim: int, device: torch.device) -> "Tiles | None":
    """Choose the largest tiles that fit into the shared memory of one multiprocessor, or None if none do.

    None as well on a GPU of compute capability below 8.0, where Triton multiplies matrices without tensor cores and
    leaves scores where the kernel's PTX does not expect them.

    The kernel keeps a tile of users and ``stages`` tiles of items there. If it does not write survivors by thread, it
    also converts the layout of the scores there.
    """
    import triton

    from rec_eval.ranking.kernels.filter import Tiles, split_dimension, writes_by_thread

    room = 1 << 30  # the interpreter has no limit
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        if torch.cuda.get_device_properties(index).major < 8:
            return None
        room = triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"]
    row = 2 * sum(split_dimension(dim))  # bytes
    for tiles in map(Tiles._make, _TILES):
        exchanged = 0 if writes_by_thread(tiles) else 4 * tiles.users * tiles.items
        if row * (tiles.users + tiles.stages * tiles.items) + exchanged <= room:
            return tiles
    return None


def make_plan(num_items: int, k: int, tiles: "Tiles", capacity: int | None = None) -> Plan:
    """Divide the catalogue into passes whose survivors fit into the lists.

    The default capacity of a survivor list is such that k keys and a full list fill the smallest power of two that is
    above 4 k and at least 256: short sorts in many passes, with tight floors, were fastest. The survivors of a pass
    over r n items after n have mean k r and standard deviation slightly above sqrt(k) r (negative binomial); twelve of
    these fit, and longer lists need a second launch.
    """
    capacity = max(256, 1 << (4 * k).bit_length()) - k if capacity is None else capacity
    capacity = max(capacity, tiles.items)
    blocks = -(-num_items // tiles.items)
    growth = max(0.5, 0.9 * capacity / (k + 12 * math.sqrt(k)))
    first = min(blocks, max(1, capacity // tiles.items))  # every item of the first pass survives
    passes = [(0, first)]
    while passes[-1][1] < blocks:
        done = passes[-1][1]
        passes.append((done, min(blocks, done + max(1, int(done * growth)))))
    return Plan(tiles, _stride(blocks), passes, capacity)


def most_users(plan: Plan) -> int:
    """Largest number of users whose survivor lists may exist together."""
    return max(1, _MOST_CELLS // plan.capacity)


def _stride(blocks: int) -> int:
    """A step coprime to ``blocks`` and near its golden section, so that consecutive visits are spread evenly."""
    step = max(1, round(blocks * 0.6180339887))
    while math.gcd(step, blocks) != 1:
        step += 1
    return step


class _SeenTile:
    """The seen items of one tile of users, sorted by user, then item."""

    def __init__(self, seen: SeenItems, users: tuple[int, int], num_items: int, device: torch.device) -> None:
        rows, items = seen.rows(*users, device)
        self.num_items = num_items
        self.pairs = (rows * num_items + items).sort().values  # [n] int64
        lengths = torch.bincount(rows, minlength=users[1] - users[0])
        self.starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])  # [u + 1] int64
        self.longest = int(lengths.max())
        self.ids = (self.pairs % num_items).int() if self.longest else rows.new_zeros(1).int()  # [n] int32


class _Lists(NamedTuple):
    """The k best items so far of each user, and the floor that further items must beat."""

    keys: Tensor
    """``[u, k]`` int64, descending."""
    floor_scores: Tensor
    """``[u]`` float32, -inf while a list is not full."""
    floor_ids: Tensor
    """``[u]`` int32, -1 while a list is not full."""


def rank_users(
    queries: Tensor,  # [u, D] bf16 or fp16
    items: Tensor,  # [V, D]
    k: int,
    bias: Tensor | None,  # [V]
    seen: SeenItems,
    users: tuple[int, int],
    plan: Plan,
) -> Tensor:
    """Rank one tile of users, who have places ``users`` in ``seen``: sort keys ``[u, k]`` int64, descending."""
    num_users, device = queries.shape[0], queries.device
    queries = queries.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    tile = _SeenTile(seen, users, items.shape[0], device)
    lists = _Lists(
        torch.full((num_users, k), EMPTY, dtype=torch.int64, device=device),
        torch.full((num_users,), float("-inf"), device=device),
        torch.full((num_users,), -1, dtype=torch.int32, device=device),
    )
    everyone = torch.arange(num_users, device=device)
    most = torch.zeros(num_users, dtype=torch.int32, device=device)  # survivors of one pass
    empty = lists
    for visits in plan.passes:
        found = _launch(queries, items, bias, lists, visits, plan, plan.capacity)
        most = torch.maximum(most, found.counts)
        lists = _merge(lists, found, plan.capacity, everyone, tile)
    full = (most > plan.capacity).nonzero().squeeze(1)  # between passes the host never waits
    if full.numel():
        lists.keys[full] = _rank_with_overflow(queries[full], items, bias, _pick(empty, full), full, tile, plan)
    return lists.keys


def _rank_with_overflow(
    queries: Tensor, items: Tensor, bias: Tensor | None, lists: _Lists, users: Tensor, tile: _SeenTile, plan: Plan
) -> Tensor:
    """Rank users whose survivor lists overflow: keys [u, k], from empty lists.

    Lists that are too short are computed again with more places, a few users at a time, so that memory stays bounded.
    """
    everyone = torch.arange(len(users), device=users.device)
    for visits in plan.passes:
        found = _launch(queries, items, bias, lists, visits, plan, plan.capacity)
        full = found.counts > plan.capacity
        _update(lists, everyone[~full], users[~full], _pick(found, ~full), plan.capacity, tile)
        longest = int(found.counts.max())
        if longest <= plan.capacity:
            continue
        for chosen in torch.split(everyone[full], max(1, len(users) * plan.capacity // longest)):
            redone = _launch(queries[chosen], items, bias, _pick(lists, chosen), visits, plan, longest)
            _update(lists, chosen, users[chosen], redone, longest, tile)
    return lists.keys


def _pick(tensors: _Named, chosen: Tensor) -> _Named:
    """Select the rows of some users."""
    return type(tensors)(*(tensor[chosen] for tensor in tensors))


def _update(lists: _Lists, chosen: Tensor, users: Tensor, found: "Survivors", longest: int, tile: _SeenTile) -> None:
    """Merge survivors into the lists ``chosen`` in place; ``users`` are their rows in the tile."""
    if chosen.numel():
        for whole, merged in zip(lists, _merge(_pick(lists, chosen), found, longest, users, tile), strict=True):
            whole[chosen] = merged


def _launch(
    queries: Tensor,
    items: Tensor,
    bias: Tensor | None,
    lists: _Lists,
    visits: tuple[int, int],
    plan: Plan,
    capacity: int,
) -> "Survivors":
    """Filter the tiles of some visits."""
    from rec_eval.ranking.kernels.filter import filter_items

    programs = _INTERPRETER_PROGRAMS
    if queries.is_cuda:
        programs = _WAVES * torch.cuda.get_device_properties(queries.device).multi_processor_count
    # An item after n others survives with probability k / n, which gives the expected survivors of a tile.
    expected = plan.tiles.users * lists.keys.shape[1] / max(visits[0], 1)
    return filter_items(
        queries, items, bias, lists.floor_scores, lists.floor_ids, visits, plan.stride, capacity, plan.tiles, programs,
        skip_empty=expected < _SKIP_BELOW,
    )  # fmt: skip


def _merge(lists: _Lists, found: "Survivors", longest: int, users: Tensor, tile: _SeenTile) -> _Lists:
    """Merge the unseen survivors into the k best so far; ``users`` are the rows of these lists in the tile."""
    from rec_eval.ranking.kernels.merge import LONGEST, merge_survivors

    k = lists.keys.shape[1]
    if k + longest <= LONGEST:
        return _Lists(*merge_survivors(lists.keys, found, longest, users, tile.starts, tile.ids, tile.longest))
    scores, ids = found.scores[:, :longest], found.ids[:, :longest].long()  # [u, longest]
    filled = torch.arange(longest, device=ids.device) < found.counts[:, None]
    fresh = encode_keys(scores, ids).masked_fill(~filled, EMPTY)
    if tile.longest:
        pairs = torch.where(filled, users[:, None] * tile.num_items + ids, -1)
        place = torch.searchsorted(tile.pairs, pairs).clamp(max=tile.pairs.numel() - 1)
        fresh = fresh.masked_fill(tile.pairs[place] == pairs, EMPTY)
    keys = torch.cat([lists.keys, fresh], dim=1).topk(k, dim=1).values
    floor = decode_keys(keys[:, -1])
    return _Lists(keys, floor.scores, floor.ids.int())
