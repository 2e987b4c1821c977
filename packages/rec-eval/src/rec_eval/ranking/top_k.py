"""Exact top-k of a catalogue for many users: the choice of implementation, and what all of them promise."""

import os
from typing import Literal

import torch
from torch import Tensor

from rec_eval.ranking import torch_impl as streamed
from rec_eval.ranking import triton_impl as fused
from rec_eval.ranking.scores import Catalogue, as_catalogue, check_scoring
from rec_eval.ranking.seen import SeenItems
from rec_eval.ranking.sort_keys import TopK, decode_keys


def top_k(
    queries: Tensor,
    items: Tensor | Catalogue,
    k: int,
    *,
    bias: Tensor | None = None,
    seen_offsets: Tensor | None = None,
    seen_items: Tensor | None = None,
    item_tile: int | None = None,
    user_tile: int | None = None,
    impl: Literal["auto", "triton", "reference"] = "auto",
) -> TopK:
    """Find each user's k items of highest score ``q . w + b``, without those already seen.

    Equal scores are ordered by lower item id. The order is exact with respect to the float32 scores of the matrix
    product; those may differ in their last bit between tile sizes, because libraries sum in another order.

    ``reference`` is plain torch, on any device and in every dtype. ``triton`` never writes the scores of most items: it
    takes bfloat16 or float16 on CUDA. ``auto`` takes ``triton`` where it can and no ``item_tile`` is given.

    Memory beyond inputs and output, whatever U is, with s the seen items of a tile of users: ``reference`` at most
    ``user_tile * (20 * item_tile + 48 * (k + c)) + 32 * s`` bytes with ``c = max(2 * k, 64)``, and a float32 copy of
    both tiles where 16-bit vectors are ranked on a CPU; ``triton`` at most ``64 * max(user_tile * c, V) + 48 * s``
    bytes with c the power of two above ``4 * k``, at least 256.

    Args:
        queries: ``[U, D]`` float32, bfloat16 or float16, on CPU or CUDA.
        items: ``[V, D]``, same dtype and device; or a ``Catalogue`` of them, whose values are looked at once for all
            calls.
        k: length of the lists, at least 1. Above V the tail is padding.
        bias: ``[V]`` or None; ``-inf`` takes an item out of every list. A ``Catalogue`` holds its own.
        seen_offsets: ``[U + 1]`` integers or None: user u has seen ``seen_items[seen_offsets[u]:seen_offsets[u + 1]]``.
        seen_items: ``[nnz]`` integers in [0, V) or None, any order, repeats allowed. May stay on CPU.
        item_tile: items per tile of ``reference`` (by default by device).
        user_tile: users per tile (by default by device and implementation).
        impl: as above.

    Returns:
        ids ``[U, k]`` int64 and scores ``[U, k]`` float32, best first; -1 and -inf where fewer than k candidates
        remain.

    Raises:
        ValueError: a shape, dtype, device or id does not fit, k or a tile is below 1, a value is NaN or infinite, or
            ``impl`` cannot take the operands or the options.
    """
    catalogue = as_catalogue(items, bias)
    check = check_scoring(queries, catalogue)
    table, bias = catalogue.items, catalogue.bias
    num_users, num_items = queries.shape[0], table.shape[0]
    for name, value in (("k", k), ("item_tile", item_tile), ("user_tile", user_tile)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    seen = SeenItems(seen_offsets, seen_items, num_users, num_items)
    plan = _plan(impl, queries, num_items, k, item_tile, check)
    ids = torch.empty(num_users, k, dtype=torch.int64, device=queries.device)
    scores = torch.empty(num_users, k, dtype=torch.float32, device=queries.device)
    if plan is None:
        tiles = streamed.default_tiles(queries.device)
        item_tile = item_tile or tiles[0]
        user_tile = user_tile or tiles[1]
    else:
        table = table if table.stride(1) == 1 else table.contiguous()
        user_tile = min(user_tile or fused.DEFAULT_USER_TILE, fused.most_users(plan))
    with torch.no_grad():
        for start in range(0, num_users, user_tile):
            users = (start, min(start + user_tile, num_users))
            part = queries[slice(*users)]
            if plan is None:
                keys = streamed.rank_users(part, table, k, bias, seen, users, item_tile or num_items, check)
            else:
                keys = fused.rank_users(part, table, k, bias, seen, users, plan)
            ids[slice(*users)], scores[slice(*users)] = decode_keys(keys)
    return TopK(ids, scores)


def _plan(impl: str, queries: Tensor, num_items: int, k: int, item_tile: int | None, check: bool) -> fused.Plan | None:
    """The plan of the fused kernel, or None for plain torch. What the kernel cannot do is refused, unless ``auto``."""
    if impl not in ("auto", "triton", "reference"):
        raise ValueError(f"impl must be auto, triton or reference, got {impl!r}")
    if impl == "reference" or (impl == "auto" and not queries.is_cuda):
        return None
    if not queries.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"impl='triton' needs tensors on CUDA (or Triton's interpreter), got {queries.device}")
    if queries.dtype in fused.DTYPES and not check and item_tile is None:
        tiles = fused.choose_tiles(queries.shape[1], queries.device)
        if tiles is not None:
            return fused.make_plan(num_items, k, tiles)
    if impl == "auto":
        return None
    raise ValueError(
        "impl='triton' takes bfloat16 or float16 vectors that fit into shared memory, whose scores cannot overflow "
        f"float32, and no item_tile; got {queries.dtype}, dim {queries.shape[1]}, item_tile={item_tile}, "
        f"possible overflow: {check}"
    )
