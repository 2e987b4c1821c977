"""Top-k on a GPU without a score matrix: a fused product and filter, in few and growing parts of the catalogue.

After n items of a fair sample, an item of the next part beats a user's floor with probability k / n, so a part of r n
items leaves about k r survivors whatever n is: the number of parts grows with log V, and every list of survivors stays
short.
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
_WAVES = 8  # programs per multiprocessor: enough for an even end
_TILES = [(128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2), (16, 16, 4, 2)]
"""Users, items, warps, stages; in order of preference."""
_WORTH_LOOKING = 0.01  # survivors of a tile below which asking first whether there are any pays, without PTX
_MOST_CELLS = 1 << 25
"""Places of all lists of survivors together: keeps memory down, and their offsets in 32 bits."""
_Named = TypeVar("_Named", bound=NamedTuple)


@dataclass(frozen=True)
class Plan:
    """How the catalogue is cut: parts of tiles, visited with a stride."""

    tiles: "Tiles"
    stride: int
    parts: list[tuple[int, int]]
    """First visit and one past the last, covering every tile once."""
    capacity: int
    """Room of a user's list of survivors."""


def choose_tiles(dim: int, device: torch.device) -> "Tiles | None":
    """The largest tiles whose rows fit into the shared memory of one multiprocessor, or None if none do.

    The kernel keeps a tile of users and ``stages`` tiles of items there; where it does not write survivors by thread,
    it also passes the scores from one layout to another.
    """
    import triton

    from rec_eval.ranking.kernels.filter import Tiles, split_dimension, writes_by_thread

    room = 1 << 30  # the interpreter has no such limit
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        room = triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"]
    row = 2 * sum(split_dimension(dim))  # bytes
    for tiles in map(Tiles._make, _TILES):
        exchanged = 0 if writes_by_thread(tiles) else 4 * tiles.users * tiles.items
        if row * (tiles.users + tiles.stages * tiles.items) + exchanged <= room:
            return tiles
    return None


def make_plan(num_items: int, k: int, tiles: "Tiles", capacity: int | None = None) -> Plan:
    """Cut the catalogue into parts whose survivors fit.

    Args:
        num_items: V.
        k: length of the lists.
        tiles: sizes of the kernel's tiles.
        capacity: room of a list; by default such that the merge sorts k keys and a full list as one power of two, at
            least 256 and above 4 k: shorter sorts, and more parts, whose floors are nearer to the last one, won.

    Returns:
        The plan. The survivors of a part of r n items after n have mean k r and standard deviation sqrt(k) r or a
        little more (negative binomial); twelve of these fit, and the rest overflows into a second launch.
    """
    capacity = max(256, 1 << (4 * k).bit_length()) - k if capacity is None else capacity
    capacity = max(capacity, tiles.items)
    blocks = -(-num_items // tiles.items)
    growth = max(0.5, 0.9 * capacity / (k + 12 * math.sqrt(k)))
    first = min(blocks, max(1, capacity // tiles.items))  # every item of the first part survives
    parts = [(0, first)]
    while parts[-1][1] < blocks:
        done = parts[-1][1]
        parts.append((done, min(blocks, done + max(1, int(done * growth)))))
    return Plan(tiles, _stride(blocks), parts, capacity)


def most_users(plan: Plan) -> int:
    """Users whose lists of survivors may exist together."""
    return max(1, _MOST_CELLS // plan.capacity)


def _stride(blocks: int) -> int:
    """A step prime to ``blocks`` and near its golden section, so that any run of visits is spread evenly."""
    step = max(1, round(blocks * 0.6180339887))
    while math.gcd(step, blocks) != 1:
        step += 1
    return step


class _SeenTile:
    """What the users of one tile have seen, sorted by user, then item."""

    def __init__(self, seen: SeenItems, users: tuple[int, int], num_items: int, device: torch.device) -> None:
        rows, items = seen.rows(*users, device)
        self.num_items = num_items
        self.keys = (rows * num_items + items).sort().values  # [n] int64
        lengths = torch.bincount(rows, minlength=users[1] - users[0])
        self.starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])  # [u + 1] int64
        self.longest = int(lengths.max())
        self.ids = (self.keys % num_items).int() if self.longest else rows.new_zeros(1).int()  # [n] int32


class _Lists(NamedTuple):
    """The k best so far of each user, and the floor that a newcomer must beat."""

    keys: Tensor
    """[u, k] int64, descending."""
    floor_scores: Tensor
    """[u] float32, -inf while a list is not full."""
    floor_ids: Tensor
    """[u] int32, -1 while a list is not full."""


def rank_users(
    queries: Tensor,  # [u, D] bf16 or fp16
    items: Tensor,  # [V, D]
    k: int,
    bias: Tensor | None,  # [V]
    seen: SeenItems,
    users: tuple[int, int],
    plan: Plan,
) -> Tensor:
    """Rank one tile of users, who stand at places ``users`` in ``seen``: keys ``[u, k]`` int64, descending."""
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
    most = torch.zeros(num_users, dtype=torch.int32, device=device)  # survivors of one part
    empty = lists
    for part in plan.parts:
        found = _launch(queries, items, bias, lists, part, plan, plan.capacity)
        most = torch.maximum(most, found.counts)
        lists = _merge(lists, found, plan.capacity, everyone, tile)
    full = (most > plan.capacity).nonzero().squeeze(1)  # between parts the host never waits
    if full.numel():
        lists.keys[full] = _rank_with_overflow(queries[full], items, bias, _pick(empty, full), full, tile, plan)
    return lists.keys


def _rank_with_overflow(
    queries: Tensor, items: Tensor, bias: Tensor | None, lists: _Lists, users: Tensor, tile: _SeenTile, plan: Plan
) -> Tensor:
    """As `rank_users` for users some of whose lists have no room: keys [u, k], from empty lists.

    A list that is too short is made again with more room, a few users at a time, so that memory stays bounded.
    """
    everyone = torch.arange(len(users), device=users.device)
    for part in plan.parts:
        found = _launch(queries, items, bias, lists, part, plan, plan.capacity)
        full = found.counts > plan.capacity
        _update(lists, everyone[~full], users[~full], _pick(found, ~full), plan.capacity, tile)
        longest = int(found.counts.max())
        if longest <= plan.capacity:
            continue
        for chosen in torch.split(everyone[full], max(1, len(users) * plan.capacity // longest)):
            redone = _launch(queries[chosen], items, bias, _pick(lists, chosen), part, plan, longest)
            _update(lists, chosen, users[chosen], redone, longest, tile)
    return lists.keys


def _pick(tensors: _Named, chosen: Tensor) -> _Named:
    """The rows of some users."""
    return type(tensors)(*(tensor[chosen] for tensor in tensors))


def _update(lists: _Lists, chosen: Tensor, users: Tensor, found: "Survivors", longest: int, tile: _SeenTile) -> None:
    """Merge the survivors of some lists, whose users are given, into these lists in place."""
    if chosen.numel():
        for whole, part in zip(lists, _merge(_pick(lists, chosen), found, longest, users, tile), strict=True):
            whole[chosen] = part


def _launch(
    queries: Tensor,
    items: Tensor,
    bias: Tensor | None,
    lists: _Lists,
    part: tuple[int, int],
    plan: Plan,
    capacity: int,
) -> "Survivors":
    """Filter one part of the catalogue."""
    from rec_eval.ranking.kernels.filter import filter_items

    programs = _INTERPRETER_PROGRAMS
    if queries.is_cuda:
        programs = _WAVES * torch.cuda.get_device_properties(queries.device).multi_processor_count
    # An item after n others survives with probability k / n: a tile of users and items holds so many survivors, about.
    expected = plan.tiles.users * lists.keys.shape[1] / max(part[0], 1)
    return filter_items(
        queries, items, bias, lists.floor_scores, lists.floor_ids, part, plan.stride, capacity, plan.tiles, programs,
        skip_empty=expected < _WORTH_LOOKING,
    )  # fmt: skip


def _merge(lists: _Lists, found: "Survivors", longest: int, users: Tensor, tile: _SeenTile) -> _Lists:
    """Put the unseen survivors among the k best so far; ``users`` are the rows of these lists in the tile."""
    from rec_eval.ranking.kernels.merge import LONGEST, merge_survivors

    k = lists.keys.shape[1]
    if k + longest <= LONGEST:
        return _Lists(*merge_survivors(lists.keys, found, longest, users, tile.starts, tile.ids, tile.longest))
    scores, ids = found.scores[:, :longest], found.ids[:, :longest].long()  # [u, longest]
    filled = torch.arange(longest, device=ids.device) < found.counts[:, None]
    fresh = encode_keys(scores, ids).masked_fill(~filled, EMPTY)
    if tile.longest:
        pairs = torch.where(filled, users[:, None] * tile.num_items + ids, -1)
        place = torch.searchsorted(tile.keys, pairs).clamp(max=tile.keys.numel() - 1)
        fresh = fresh.masked_fill(tile.keys[place] == pairs, EMPTY)
    keys = torch.cat([lists.keys, fresh], dim=1).topk(k, dim=1).values
    floor = decode_keys(keys[:, -1])
    return _Lists(keys, floor.scores, floor.ids.int())
