"""Exact top-k of a catalogue for many users: the public function, and the choice of implementation."""

import os
from typing import Literal

import torch
from torch import Tensor

from rec_eval.ranking import at_once, int8_impl, torch_impl, triton_impl
from rec_eval.ranking.scores import Catalogue, as_catalogue, check_queries, check_scoring
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
    """Find the k items of highest score ``q . w + b`` for each user, without seen items.

    Equal scores are ordered by lower item id. The order is exact with respect to the float32 scores of the matrix
    product, whose last bit can depend on the tile sizes because libraries sum in different orders.

    ``reference`` is plain torch, on any device and in every dtype. ``triton`` never stores the scores of most items; it
    needs bfloat16 or float16 on a GPU of compute capability 8.0 or above. ``auto`` ranks up to 200 million pairs of a
    user and an item on such a GPU from all their scores, with k up to 32 twice as many, which is fastest there;
    otherwise it uses ``triton`` if possible. Neither if ``item_tile`` is given. For a few users on a CPU it reads the
    int8 copy of a ``Catalogue`` that has one.

    Memory in addition to inputs and output does not depend on U. With s the seen items of a tile of users, it is
    for ``reference`` at most ``user_tile * (20 * item_tile + 48 * (k + c)) + 32 * s`` bytes with ``c = max(2 * k, 64)``
    (and a float32 copy of both tiles for 16-bit vectors on a CPU), and for ``triton`` at most
    ``64 * max(user_tile * c, V) + 48 * s`` bytes with c the power of two above ``4 * k``, at least 256. All scores of
    some users take ``4 * max(2 ** 26, V)`` bytes, and a thirtieth of that or, with k above 32, what ``torch.topk``
    takes.

    Args:
        queries: ``[U, D]`` float32, bfloat16 or float16, on CPU or CUDA.
        items: ``[V, D]``, same dtype and device; or a ``Catalogue`` of them, which is checked once for all calls.
        k: length of the lists, at least 1. Above V the lists are padded.
        bias: ``[V]`` or None; ``-inf`` excludes an item from every list. A ``Catalogue`` has its own.
        seen_offsets: ``[U + 1]`` integers or None: user u has seen ``seen_items[seen_offsets[u]:seen_offsets[u + 1]]``.
        seen_items: ``[nnz]`` integers in [0, V) or None, in any order, repetitions allowed. May be on the CPU.
        item_tile: items per tile of ``reference`` (the default depends on the device).
        user_tile: users per tile (the default depends on device and implementation).
        impl: see above.

    Returns:
        ids ``[U, k]`` int64 and scores ``[U, k]`` float32, best first; -1 and -inf if fewer than k candidates
        remain.

    Raises:
        ValueError: a shape, dtype, device or id does not fit, k or a tile is below 1, a value is NaN or infinite, or
            ``impl`` does not support the operands or the options.
    """
    catalogue = as_catalogue(items, bias)
    check_queries(queries, catalogue)
    vectors, bias = catalogue.items, catalogue.bias
    num_users, num_items = queries.shape[0], vectors.shape[0]
    for name, value in (("k", k), ("item_tile", item_tile), ("user_tile", user_tile)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    seen = SeenItems(seen_offsets, seen_items, num_users, num_items)
    if impl == "auto" and item_tile is None and user_tile is None and at_once.suits(queries, num_items, k):
        found = at_once.rank_at_once(queries, catalogue, k, seen)
        if found is not None:
            return found
    check = check_scoring(queries, catalogue)
    few = num_users <= int8_impl.MOST_USERS and impl == "auto" and item_tile is None
    int8 = catalogue.int8 if few and not check and catalogue.shift == 0 else None
    plan = _plan(impl, queries, num_items, k, item_tile, check)
    ids = torch.empty(num_users, k, dtype=torch.int64, device=queries.device)
    scores = torch.empty(num_users, k, dtype=torch.float32, device=queries.device)
    if plan is None:
        tiles = torch_impl.tiles_for(num_users, queries.device.type)
        item_tile = item_tile or tiles[0]
        user_tile = user_tile or tiles[1]
    else:
        vectors = vectors if vectors.stride(1) == 1 else vectors.contiguous()
        user_tile = min(user_tile or triton_impl.DEFAULT_USER_TILE, triton_impl.most_users(plan))
    with torch.no_grad():
        for start in range(0, num_users, user_tile):
            users = (start, min(start + user_tile, num_users))
            chosen = queries[slice(*users)]
            keys = None if int8 is None else int8_impl.rank_users(chosen, int8, k, bias, seen, users)
            if keys is None and plan is None:
                keys = torch_impl.rank_users(chosen, vectors, k, bias, seen, users, item_tile or num_items, check)
            elif plan is not None:
                keys = triton_impl.rank_users(chosen, vectors, k, bias, seen, users, plan)
            assert keys is not None
            ids[slice(*users)], scores[slice(*users)] = decode_keys(keys)
    return TopK(ids, scores)


def _plan(
    impl: str, queries: Tensor, num_items: int, k: int, item_tile: int | None, check: bool
) -> triton_impl.Plan | None:
    """Plan the fused kernel, or return None for plain torch; refuse unsupported operands, unless ``auto``."""
    if impl not in ("auto", "triton", "reference"):
        raise ValueError(f"impl must be auto, triton or reference, got {impl!r}")
    if impl == "reference" or (impl == "auto" and not queries.is_cuda):
        return None
    if not queries.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"impl='triton' needs tensors on CUDA (or Triton's interpreter), got {queries.device}")
    if queries.dtype in triton_impl.DTYPES and not check and item_tile is None:
        tiles = triton_impl.choose_tiles(queries.shape[1], queries.device)
        if tiles is not None:
            return triton_impl.make_plan(num_items, k, tiles)
    if impl == "auto":
        return None
    raise ValueError(
        "impl='triton' takes bfloat16 or float16 vectors that fit into shared memory, whose scores cannot overflow "
        f"float32, on compute capability 8.0 or above, and no item_tile; got {queries.dtype}, "
        f"dim {queries.shape[1]}, item_tile={item_tile}, possible overflow: {check}"
    )
