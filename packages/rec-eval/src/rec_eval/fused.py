"""Top-k on a GPU without a score matrix: a fused product and filter, in few and growing parts of the catalogue.

After n items of a fair sample, an item of the next part beats a user's floor with probability k / n, so a part of r n
items leaves about k r survivors whatever n is: the number of parts grows with log V, and every list of survivors stays
short.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rec_eval.keys import EMPTY, decode_keys, encode_keys
from rec_eval.seen import SeenItems

if TYPE_CHECKING:
    from rec_eval.kernels.filter import Survivors, Tiles

DEFAULT_USER_TILE = 4096
DTYPES = (torch.bfloat16, torch.float16)
_INTERPRETER_PROGRAMS = 2
_WAVES = 8  # programs per multiprocessor: enough for an even end


_MOST_CELLS = 1 << 25
"""Places of all lists of survivors together: keeps memory down, and their offsets in 32 bits."""


@dataclass(frozen=True)
class Plan:
    """How the catalogue is cut: parts of tiles, visited with a stride."""

    tiles: "Tiles"
    stride: int
    parts: list[tuple[int, int]]
    """First visit and one past the last, covering every tile once."""
    capacity: int
    """Room of a user's list of survivors."""


def choose_tiles(dim: int) -> "Tiles":
    """Tile sizes by dimension: longer rows leave room for fewer of them in shared memory."""
    from rec_eval.kernels.filter import Tiles

    if dim <= 256:
        return Tiles(users=128, items=64, warps=8, stages=3)
    return Tiles(users=64, items=64, warps=4, stages=2)


def make_plan(num_items: int, k: int, tiles: "Tiles", capacity: int | None = None) -> Plan:
    """Cut the catalogue into parts whose survivors fit.

    Args:
        num_items: V.
        k: length of the lists.
        tiles: sizes of the kernel's tiles.
        capacity: room of a list; by default 1,024, or eight lists if that is more.

    Returns:
        The plan. The survivors of a part of r n items after n have mean k r and standard deviation sqrt(k) r or a
        little more (negative binomial); twelve of these fit, and the rest overflows into a second launch.
    """
    capacity = max(1024, 1 << (8 * k - 1).bit_length()) if capacity is None else capacity
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
    num_users = queries.shape[0]
    rows, seen_ids = seen.rows(*users, queries.device)
    seen_keys = (rows * items.shape[0] + seen_ids).sort().values  # [n]
    queries = queries.contiguous()
    bias = None if bias is None else bias.float()
    keys = torch.full((num_users, k), EMPTY, dtype=torch.int64, device=queries.device)
    everyone = torch.arange(num_users, device=queries.device)
    for first, last in plan.parts:
        # So many items of the catalogue a tile are survivors, about; skipping pays where that is well below one.
        expected = plan.tiles.users * k / max(first, 1)
        jobs = [(everyone, plan.capacity)]
        while jobs:
            chosen, capacity = jobs.pop()
            whole = chosen.numel() == num_users
            part = keys if whole else keys[chosen]
            floor = decode_keys(part[:, -1])
            found = _launch(
                queries if whole else queries[chosen], items, bias, floor.scores, floor.ids.int(), (first, last), plan,
                capacity, expected < 0.5,
            )  # fmt: skip
            most = int(found.counts.max())
            if most > capacity:
                full = found.counts > capacity
                jobs += _second_jobs(chosen[full], found.counts[full], num_users * plan.capacity)
                chosen = chosen[~full]
                found, part = type(found)(*(value[~full] for value in found)), part[~full]
                most = int(found.counts.max()) if chosen.numel() else 0
            if most:
                merged = _merge(part, found, most, chosen, seen_keys, items.shape[0])
                if whole and chosen.numel() == num_users:
                    keys = merged
                else:
                    keys[chosen] = merged
    return keys


def _second_jobs(users: Tensor, counts: Tensor, cells: int) -> list[tuple[Tensor, int]]:
    """Group users whose lists overflowed, each with room for its longest list and at most ``cells`` in all."""
    capacity = int(counts.max())
    return [(group, capacity) for group in torch.split(users, max(1, cells // capacity))]


def _launch(
    queries: Tensor, items: Tensor, bias: Tensor | None, floor_scores: Tensor, floor_ids: Tensor,
    visits: tuple[int, int], plan: Plan, capacity: int, skip_empty: bool,
) -> "Survivors":  # fmt: skip
    from rec_eval.kernels.filter import filter_items

    programs = _INTERPRETER_PROGRAMS
    if queries.is_cuda:
        programs = _WAVES * torch.cuda.get_device_properties(queries.device).multi_processor_count
    return filter_items(
        queries, items, bias, floor_scores, floor_ids, visits, plan.stride, capacity, plan.tiles, programs, skip_empty
    )


def _merge(keys: Tensor, found: "Survivors", width: int, users: Tensor, seen_keys: Tensor, num_items: int) -> Tensor:
    """Put the unseen survivors among the k best so far: ``[u, k]`` int64, descending."""
    scores, ids = found.scores[:, :width], found.ids[:, :width].long()  # [u, width]
    filled = torch.arange(width, device=ids.device) < found.counts[:, None]
    fresh = encode_keys(scores, ids).masked_fill(~filled, EMPTY)
    if seen_keys.numel():
        pairs = torch.where(filled, users[:, None] * num_items + ids, -1)
        place = torch.searchsorted(seen_keys, pairs).clamp(max=seen_keys.numel() - 1)
        fresh = fresh.masked_fill(seen_keys[place] == pairs, EMPTY)
    return torch.cat([keys, fresh], dim=1).topk(keys.shape[1], dim=1).values
