"""Merge each user's survivors into the k best items so far, and compute the new floor.

A program holds one user: k sort keys (`sort_keys.py`: score above, id below, in one int64) and the survivors. Survivors
that the user has seen are found by bisection in the user's sorted seen items, and emptied. After one sort in registers,
the first k keys are the result and the last of them is the floor. A library's top-k of int64 rows reads each row dozens
of times, and needs a dozen launches around it.

Bytes: 8 per survivor and key, once. The sort of w keys takes about log2(w)^2 / 2 steps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rec_eval.ranking.kernels.filter import Survivors

LONGEST = 4096
"""Maximum number of keys of one program."""
_EMPTY = tl.constexpr(-(2**63))


@triton.jit(do_not_specialize=["k", "steps"])
def _merge_kernel(
    keys, scores, ids, counts, users, seen_starts, seen_ids, merged, floor_scores, floor_ids, k, capacity, steps,
    WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, WIDTH)
    slot = place - k
    filled = (slot >= 0) & (slot < tl.load(counts + row))
    score = tl.load(scores + row * capacity + slot, mask=filled, other=0.0)
    item = tl.load(ids + row * capacity + slot, mask=filled, other=0)
    user = tl.load(users + row)
    end = tl.load(seen_starts + user + 1)
    low = tl.load(seen_starts + user) + tl.zeros([WIDTH], tl.int64)
    high = end + tl.zeros([WIDTH], tl.int64)
    for _ in range(steps):  # the first seen item that is not below the survivor
        middle = (low + high) // 2
        below = tl.load(seen_ids + middle, mask=filled & (low < high), other=0) < item
        low = tl.where((low < high) & below, middle + 1, low)
        high = tl.where((low <= middle) & (middle < high) & ~below, middle, high)
    found = tl.load(seen_ids + low, mask=filled & (low < end), other=-1)
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)  # -0.0 and 0.0 are equal scores
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    key = (ordered << 32) | (0xFFFFFFFF - item.to(tl.int64))
    key = tl.where(filled & (found != item), key, _EMPTY)
    best = tl.load(keys + row * k + place, mask=place < k, other=_EMPTY)
    best = tl.sort(tl.where(place < k, best, key), descending=True)
    tl.store(merged + row * k + place, best, mask=place < k)
    last = tl.sum(tl.where(place == k - 1, best, 0), axis=0)
    top = (last >> 32).to(tl.int32)
    floor = (top ^ ((top >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    tl.store(floor_scores + row, tl.where(last == _EMPTY, float("-inf"), floor))
    tl.store(floor_ids + row, tl.where(last == _EMPTY, -1, 0xFFFFFFFF - (last & 0xFFFFFFFF)).to(tl.int32))


def merge_survivors(
    keys: Tensor,  # [u, k] int64
    found: Survivors,
    longest: int,
    users: Tensor,  # [u] int64
    seen_starts: Tensor,  # [n + 1] int64
    seen_ids: Tensor,  # [nnz] int32, ascending for each user
    longest_seen: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the kernel.

    The keys are the k best so far, or empty. Of the survivors the first ``counts`` of each row are read; ``longest`` is
    the largest count, with ``k + longest <= LONGEST``, and ``longest_seen`` the most seen items of one user. ``users``
    are the rows in the seen items.

    Returns:
        keys ``[u, k]`` int64 descending, and the floors: score ``[u]`` float32 and id ``[u]`` int32 of the last key.
    """
    num_users, k = keys.shape
    merged = torch.empty_like(keys)
    floor_scores = torch.empty(num_users, dtype=torch.float32, device=keys.device)
    floor_ids = torch.empty(num_users, dtype=torch.int32, device=keys.device)
    width = triton.next_power_of_2(max(k + longest, 32))
    _merge_kernel[(num_users,)](
        keys, found.scores, found.ids, found.counts, users, seen_starts, seen_ids, merged, floor_scores, floor_ids,
        k, found.scores.shape[1], longest_seen.bit_length(), WIDTH=width, num_warps=min(8, max(1, width // 256)),
    )  # fmt: skip
    return merged, floor_scores, floor_ids
