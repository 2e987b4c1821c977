"""fp32 matrices as three bf16 matrices that add up to them: what products of the full loss read of the side they hold.

A program holds its tile through its whole loop. Split in registers it would stay there and push the sums out; read in
parts it goes to shared memory. The streamed side is split as it comes (full_tiles.three_parts).

Bytes: 4 read and 6 written a number.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cce_kernels.kernels.full_tiles import three_parts

_BLOCK = 1024


@triton.jit(do_not_specialize=["number"])
def split_parts_kernel(matrix, parts, number, BLOCK: tl.constexpr):
    """Grid (blocks of numbers,)."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < number
    first, second, third = three_parts(tl.load(matrix + places, mask=inside, other=0.0).to(tl.float32))
    plane = tl.cast(number, tl.int64)
    tl.store(parts + places, first, mask=inside)
    tl.store(parts + plane + places, second, mask=inside)
    tl.store(parts + 2 * plane + places, third, mask=inside)


def split_parts(matrix: Tensor) -> Tensor:
    """Split a contiguous matrix [R, D], fp32 or narrower, into bf16 [3, R, D]."""
    parts = matrix.new_empty((3, *matrix.shape), dtype=torch.bfloat16)
    number = matrix.numel()
    split_parts_kernel[(-(-number // _BLOCK),)](matrix, parts, number, BLOCK=_BLOCK, num_warps=4)
    return parts
