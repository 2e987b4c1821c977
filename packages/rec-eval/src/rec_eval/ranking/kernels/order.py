"""Order the best scores of each user that `torch.topk` found: equal scores by lower id, which topk leaves open.

A program holds one user: the k + 1 best scores of a row, descending, and their places. One sort of sort keys
(`sort_keys.py`) in registers orders the first k. If the k-th and the next score are equal, topk chose among equals: the
user is tied, and must be ranked again. The largest query is found on the way, so that the host reads one result.

Bytes: 12 per score and one row of queries, once.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

LONGEST = 4096
"""Maximum number of scores of one program."""
_EMPTY = tl.constexpr(-(2**63))


@triton.jit(do_not_specialize=["k", "length"])
def _order_kernel(
    values, places, queries, ids, scores, largest, tied, k, length, WIDTH: tl.constexpr, DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    value = tl.load(values + row * length + column, mask=column < length, other=float("-inf"))
    item = tl.load(places + row * length + column, mask=column < length, other=0)
    filled = (column < k) & (value > float("-inf"))
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)  # -0.0 and 0.0 are equal scores
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    key = tl.sort(tl.where(filled, (ordered << 32) | (0xFFFFFFFF - item), _EMPTY), descending=True)
    empty = key == _EMPTY
    top = (key >> 32).to(tl.int32)
    score = (top ^ ((top >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    tl.store(scores + row * k + column, tl.where(empty, float("-inf"), score), mask=column < k)
    tl.store(ids + row * k + column, tl.where(empty, -1, 0xFFFFFFFF - (key & 0xFFFFFFFF)), mask=column < k)
    last = tl.max(tl.where(column == k - 1, value, float("-inf")), axis=0)
    following = tl.max(tl.where((column == k) & (column < length), value, float("-inf")), axis=0)
    tl.store(tied + row, ((last == following) & (last > float("-inf"))).to(tl.float32))
    dims = tl.arange(0, BLOCK_D)
    query = tl.abs(tl.load(queries + row * DIM + dims, mask=dims < DIM, other=0.0).to(tl.float32))
    tl.store(largest + row, tl.max(tl.where(query == query, query, float("inf")), axis=0))


def order_best(
    values: Tensor,  # [u, n] fp32, descending
    places: Tensor,  # [u, n] int64
    k: int,
    queries: Tensor,  # [u, D], contiguous
    ids: Tensor,  # [u, k] int64
    scores: Tensor,  # [u, k] fp32
    largest: Tensor,  # [u] fp32
    tied: Tensor,  # [u] fp32
) -> None:
    """Write ids and scores of each user's k best, -1 and -inf where a row has fewer.

    `tied` becomes 1 or 0, and `largest` the largest absolute value of a query, infinite if one is NaN.
    n is k + 1, or V if that is less, and at most `LONGEST`. A score of -inf is that of no candidate.
    """
    num_users, length = values.shape
    width = triton.next_power_of_2(max(k, length, 32))
    _order_kernel[(num_users,)](
        values, places, queries, ids, scores, largest, tied, k, length, WIDTH=width, DIM=queries.shape[1],
        BLOCK_D=triton.next_power_of_2(queries.shape[1]), num_warps=min(8, max(1, width // 256)),
    )  # fmt: skip
