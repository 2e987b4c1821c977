"""The k best of each user's scores, best first, equal scores by lower id: the best blocks of items, then their items.

With K the power of two from k on, the K blocks of highest maxima, equal ones by lower id, hold the K best items: the
maxima of these blocks alone come before every item of another block. Maxima and scores are compared as sort keys
(`sort_keys.py`: score above, id below, in one int64), no two of which are equal, by bitonic selections in registers:

1. The scores are read once, which leaves a key for each block.
2. Where these are many, programs keep the K best of a tile of keys.
3. One program per user chooses K blocks, reads their scores again, and sorts them.

The last launch also finds the largest query, so that the host reads one result.

Bytes: 4 per score, once, and 16 per block. A selection is work of log2(K)^2 / 2 steps per key, so that for long lists
`torch.topk` is faster.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

LONGEST = 32
"""Maximum k."""
_BLOCK = 64  # items
_BLOCKS = 64  # of a program
_KEPT = 16  # keys that a program keeps, at least
_KEYS = 4096  # keys of a program
_EMPTY = tl.constexpr(-(2**63))


@triton.jit
def _keys_of(scores, ids):
    """Sort keys of scores fp32, empty for -inf and NaN."""
    bits = tl.where(scores == 0.0, 0.0, scores).to(tl.int32, bitcast=True)  # -0.0 and 0.0 are equal scores
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    return tl.where(scores > float("-inf"), (ordered << 32) | (0xFFFFFFFF - ids.to(tl.int64)), _EMPTY)


@triton.jit(do_not_specialize=["num_items", "length"])
def _blocks_kernel(scores, keys, num_items, length, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (users x tiles,): from scores [u, V] to keys of blocks [u, length]."""
    tiles = tl.cdiv(length, BLOCKS)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    blocks = tl.program_id(0) % tiles * BLOCKS + tl.arange(0, BLOCKS)
    items = blocks[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    values = tl.load(scores + row * num_items + items, mask=items < num_items, other=float("-inf"))
    tl.store(keys + row * length + blocks, _keys_of(tl.max(values, axis=1), blocks), mask=blocks < length)


@triton.jit(do_not_specialize=["length"])
def _reduce_kernel(keys, best, length, TILE: tl.constexpr, KEPT: tl.constexpr):
    """Grid (users, tiles): from keys [u, length] to the best of each tile [u, tiles, KEPT]."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = tile * TILE + tl.arange(0, TILE)
    own = tl.load(keys + row * length + place, mask=place < length, other=_EMPTY)
    tl.store(best + (row * tl.num_programs(1) + tile) * KEPT + tl.arange(0, KEPT), tl.topk(own, KEPT))


@triton.jit(do_not_specialize=["num_items", "length", "k"])
def _finish_kernel(scores, keys, queries, ids, found, largest, num_items, length, k, TILE: tl.constexpr,
                   BLOCK: tl.constexpr, KEPT: tl.constexpr, DIM: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """Grid (users,): from keys of blocks [u, length] to what the caller wants."""
    row, place, kept = tl.program_id(0).to(tl.int64), tl.arange(0, TILE), tl.arange(0, KEPT)
    block = tl.topk(tl.load(keys + row * length + place, mask=place < length, other=_EMPTY), KEPT)
    items = (0xFFFFFFFF - (block & 0xFFFFFFFF))[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (block != _EMPTY)[:, None] & (items < num_items)
    values = tl.load(scores + row * num_items + items, mask=inside, other=float("-inf"))
    key = tl.topk(tl.reshape(_keys_of(values, items), [KEPT * BLOCK]), KEPT)
    empty = key == _EMPTY
    top = (key >> 32).to(tl.int32)
    score = (top ^ ((top >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    tl.store(found + row * k + kept, tl.where(empty, float("-inf"), score), mask=kept < k)
    tl.store(ids + row * k + kept, tl.where(empty, -1, 0xFFFFFFFF - (key & 0xFFFFFFFF)), mask=kept < k)
    dims = tl.arange(0, BLOCK_D)
    query = tl.abs(tl.load(queries + row * DIM + dims, mask=dims < DIM, other=0.0).to(tl.float32))
    tl.store(largest + row, tl.max(tl.where(query == query, query, float("inf")), axis=0))


def select_best(
    scores: Tensor,  # [u, V] fp32, contiguous
    k: int,
    queries: Tensor,  # [u, D], contiguous
    ids: Tensor,  # [u, k] int64
    found: Tensor,  # [u, k] fp32
    largest: Tensor,  # [u] fp32
) -> None:
    """Write ids and scores of each user's k best, -1 and -inf where a row has fewer. k is at most `LONGEST`.

    `largest` becomes the largest absolute value of a query, infinite if one is NaN. A score of -inf is that of no
    candidate.
    """
    (num_users, num_items), dim = scores.shape, queries.shape[1]
    kept = max(_KEPT, triton.next_power_of_2(k))
    length = -(-num_items // _BLOCK)
    keys = ids.new_empty(num_users, length)
    _blocks_kernel[(num_users * -(-length // _BLOCKS),)](
        scores, keys, num_items, length, BLOCKS=_BLOCKS, BLOCK=_BLOCK, num_warps=4
    )
    while length > _KEYS:
        tiles = -(-length // _KEYS)
        best = ids.new_empty(num_users, tiles * kept)
        _reduce_kernel[(num_users, tiles)](keys, best, length, TILE=_KEYS, KEPT=kept, num_warps=_warps(_KEYS))
        keys, length = best, tiles * kept
    width = max(2 * kept, triton.next_power_of_2(length))
    _finish_kernel[(num_users,)](
        scores, keys, queries, ids, found, largest, num_items, length, k, TILE=width, BLOCK=_BLOCK, KEPT=kept, DIM=dim,
        BLOCK_D=triton.next_power_of_2(dim), num_warps=_warps(max(width, kept * _BLOCK)),
    )  # fmt: skip


def _warps(keys: int) -> int:
    """Eight keys per thread."""
    return min(8, max(1, keys // 256))
