"""Scores of some tiles of the catalogue, of which only those above each user's floor are stored.

A program holds a tile of users and visits tiles of items:

    s_uj = q_u . w_j (+ b_j);   write (s_uj, j) to user u's list if (s_uj, -j) > (floor score, -floor id)

The lists are unordered: an atomic counter assigns the slots. The counter continues when a list is full, so that the
caller sees an overflow and its size. Tiles are visited in the order ``visit * stride mod num_blocks``, so that a pass
sees a fair sample of the catalogue even if ids are sorted by popularity. The number of survivors is then predictable.

For u users and v items, FLOPs: 2 u v D. Bytes: 2 v D per tile of users, from L2, and 8 per survivor. A plain product
would write and read back more than 4 u v.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rec_eval.ranking.kernels.claim import CODE, CONSTRAINTS, PACK

_NVIDIA = torch.version.hip is None


class Survivors(NamedTuple):
    """Unordered lists of the items above the floors."""

    counts: Tensor
    """``[u]`` int32 survivors, including those that did not fit."""
    scores: Tensor
    """``[u, capacity]`` float32."""
    ids: Tensor
    """``[u, capacity]`` int32."""


class Tiles(NamedTuple):
    """Sizes of one launch."""

    users: int
    items: int
    warps: int
    stages: int


def writes_by_thread(tiles: Tiles) -> bool:
    """Whether survivors are written by PTX: not in the interpreter, and only if no score is held by two threads."""
    spread = tiles.users >= 16 * tiles.warps and tiles.items >= 8 * tiles.warps
    return spread and _NVIDIA and not triton.knobs.runtime.interpret


def split_dimension(dim: int) -> tuple[int, int]:
    """Cover D by one power of two, or by two: 64 -> (64, 0), 320 -> (256, 64). At least 16 each."""
    whole = max(16, triton.next_power_of_2(dim))
    if whole == dim or dim <= 64:
        return whole, 0
    half = whole // 2
    rest = max(16, triton.next_power_of_2(dim - half))
    return (whole, 0) if rest == half else (half, rest)


@triton.jit
def _load_rows(start, stride, rows, inside, FIRST: tl.constexpr, WIDTH: tl.constexpr, DIM: tl.constexpr):
    """Columns FIRST to FIRST + WIDTH of the given rows: [rows, WIDTH], zero outside."""
    columns = FIRST + tl.arange(0, WIDTH)
    mask = inside[:, None]
    if FIRST + WIDTH > DIM:
        mask = mask & (columns < DIM)[None, :]
    return tl.load(start + rows.to(tl.int64)[:, None] * stride + columns[None, :], mask=mask, other=0.0)


# These numbers change between calls or passes and must not trigger a new compilation.
@triton.jit(do_not_specialize=["num_users", "first_visit", "last_visit", "visit_stride", "num_blocks"])
def _filter_kernel(
    queries, items, bias, floor_scores, floor_ids, counts, found_scores, found_ids,
    query_stride, item_stride, num_users, num_items, first_visit, last_visit, visit_stride, num_blocks, capacity,
    DIM: tl.constexpr, DIM0: tl.constexpr, DIM1: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_V: tl.constexpr,
    HAS_BIAS: tl.constexpr, SKIP_EMPTY: tl.constexpr, BY_THREAD: tl.constexpr,
):  # fmt: skip
    users = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    real = users < num_users
    q0 = _load_rows(queries, query_stride, users, real, 0, DIM0, DIM)  # [BLOCK_U, DIM0]
    q1 = q0
    if DIM1 > 0:
        q1 = _load_rows(queries, query_stride, users, real, DIM0, DIM1, DIM)
    floor = tl.load(floor_scores + users, mask=real, other=float("inf"))  # rows after the last user keep nothing
    floor_id = tl.load(floor_ids + users, mask=real, other=0)
    lowest = tl.maximum(floor, -3.4028234663852886e38)  # -inf is never kept
    lists = users * capacity  # the caller keeps u * capacity below 2^31
    flat = tl.arange(0, BLOCK_U * BLOCK_V)
    row_counts = counts + tl.program_id(0) * BLOCK_U
    row_offset = tl.program_id(0) * BLOCK_U * capacity  # the caller keeps u * capacity below 2^31
    for visit in range(first_visit + tl.program_id(1), last_visit, tl.num_programs(1)):
        block = tl.cast((tl.cast(visit, tl.int64) * visit_stride) % num_blocks, tl.int32)
        ids = block * BLOCK_V + tl.arange(0, BLOCK_V)
        known = ids < num_items
        w0 = _load_rows(items, item_stride, ids, known, 0, DIM0, DIM)  # [BLOCK_V, DIM0]
        scores = tl.dot(q0, tl.trans(w0))  # [BLOCK_U, BLOCK_V] fp32
        if DIM1 > 0:
            w1 = _load_rows(items, item_stride, ids, known, DIM0, DIM1, DIM)
            scores = tl.dot(q1, tl.trans(w1), scores)
        if HAS_BIAS:
            scores += tl.load(bias + ids, mask=known, other=0.0)[None, :]
        if BY_THREAD:
            tl.inline_asm_elementwise(
                CODE, CONSTRAINTS,
                [scores, lowest[:, None], floor_id[:, None], ids[None, :], num_items, capacity,
                 (counts + users).to(tl.int64)[:, None], (found_scores + lists).to(tl.int64)[:, None],
                 (found_ids + lists).to(tl.int64)[:, None]],
                dtype=tl.int32, is_pure=False, pack=PACK,
            )  # fmt: skip
        else:
            keep = (scores > floor[:, None]) | ((scores == floor[:, None]) & (ids[None, :] < floor_id[:, None]))
            keep = keep & known[None, :]
            any_kept = True
            if SKIP_EMPTY:
                any_kept = tl.max(tl.max(keep.to(tl.int32), axis=1), axis=0) > 0
            if any_kept:
                # Flattened, atomics and stores share one layout, and threads exchange only scores: -inf is never kept.
                exchanged = tl.reshape(tl.where(keep, scores, float("-inf")), [BLOCK_U * BLOCK_V])
                kept = exchanged > float("-inf")
                row = flat // BLOCK_V
                slots = tl.atomic_add(row_counts + row, kept.to(tl.int32), mask=kept, sem="relaxed")
                room = kept & (slots < capacity)
                places = row_offset + row * capacity + slots
                tl.store(found_scores + places, exchanged, mask=room)
                tl.store(found_ids + places, block * BLOCK_V + flat % BLOCK_V, mask=room)


def filter_items(
    queries: Tensor,  # [u, D]
    items: Tensor,  # [V, D]
    bias: Tensor | None,  # [V] fp32
    floor_scores: Tensor,  # [u] fp32
    floor_ids: Tensor,  # [u] int32
    visits: tuple[int, int],
    visit_stride: int,
    capacity: int,
    tiles: Tiles,
    programs: int,
    skip_empty: bool,
) -> Survivors:
    """Run the kernel over a range of visits to tiles of items.

    Items above the floor (higher score, or equal score and lower id) survive; a floor of -inf keeps all finite scores.
    In the result, places from ``min(count, capacity)`` on are undefined. Vectors are bfloat16 or float16, their last
    dimension contiguous.

    ``visits`` are the first visit and one past the last, out of ``cdiv(V, tiles.items)``, and their stride is coprime
    to the number of tiles. A user's list has ``capacity`` places, ``u * capacity < 2^31``. With ``skip_empty`` a tile
    is first checked for any survivor, which pays off if most tiles have none; it has no effect if threads write their
    own survivors, because they check anyway.
    """
    num_users, dim = queries.shape
    device = queries.device
    dim0, dim1 = split_dimension(dim)
    counts = torch.zeros(num_users, dtype=torch.int32, device=device)
    scores = torch.empty(num_users, capacity, dtype=torch.float32, device=device)
    ids = torch.empty(num_users, capacity, dtype=torch.int32, device=device)
    by_thread = writes_by_thread(tiles)
    user_blocks = triton.cdiv(num_users, tiles.users)
    splits = max(1, min(visits[1] - visits[0], triton.cdiv(programs, user_blocks)))
    _filter_kernel[(user_blocks, splits)](
        queries, items, items if bias is None else bias, floor_scores, floor_ids, counts, scores, ids,
        queries.stride(0), items.stride(0), num_users, items.shape[0], visits[0], visits[1], visit_stride,
        triton.cdiv(items.shape[0], tiles.items), capacity,
        DIM=dim, DIM0=dim0, DIM1=dim1, BLOCK_U=tiles.users, BLOCK_V=tiles.items,
        HAS_BIAS=bias is not None, SKIP_EMPTY=skip_empty and not by_thread, BY_THREAD=by_thread,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return Survivors(counts, scores, ids)
