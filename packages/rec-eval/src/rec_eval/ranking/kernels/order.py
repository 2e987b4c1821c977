"""Order the best scores of each user that `torch.topk` found: equal scores by lower id, which topk leaves open.

A program holds one user: the k + 1 best scores of a row, descending, and their places. One sort of sort keys
(`sort_keys.py`) in registers orders the first k. If the k-th and the next score are equal, topk chose among equals: the
user is tied, and must be ranked anew.

Bytes: 12 per score, once.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

LONGEST = 4096
"""Maximum number of scores of one program."""
_EMPTY = tl.constexpr(-(2**63))


@triton.jit(do_not_specialize=["k", "length"])
def _order_kernel(values, places, ids, scores, tied, k, length, WIDTH: tl.constexpr):
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


def order_best(
    values: Tensor,  # [u, n] fp32, descending
    places: Tensor,  # [u, n] int64
    k: int,
    ids: Tensor,  # [u, k] int64
    scores: Tensor,  # [u, k] fp32
    tied: Tensor,  # [u] fp32
) -> None:
    """Write ids and scores of each user's k best, -1 and -inf where a row has fewer; `tied` becomes 1 or 0.

    n is k + 1, or V if that is less, and at most `LONGEST`. A score of -inf is that of no candidate.
    """
    num_users, length = values.shape
    width = triton.next_power_of_2(max(k, length, 32))
    _order_kernel[(num_users,)](
        values, places, ids, scores, tied, k, length, WIDTH=width, num_warps=min(8, max(1, width // 256))
    )
