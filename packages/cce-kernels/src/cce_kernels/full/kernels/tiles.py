"""Device functions that the kernels of the full loss share: reading tiles, scoring them, capping scores.

A vector dimension that is not a power of two is read as one or two blocks: the largest power of two in it (DIM0) and
the padded rest (DIM1, 0 where there is none). 320 is 256 + 64; 100 is 128 with 28 columns of zeros.

Products read operands: a 16-bit tile itself, or the three bf16 numbers that add up to each number of an fp32 tile
(PRECISION "parts"). Of the nine products of parts the six largest are added, which keeps fp32's 24 bits; tensor cores
have no fp32, and TF32 keeps 11 bits. A program holds its tile through its whole loop: parts split in registers would
stay there and push the sums out, so `split_parts` writes them to memory first (bytes: 4 read and 6 written per number)
and they are read into shared memory. The streamed side is split as it is read.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from cce_kernels.kernels.dot import dot

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


LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
BELOW_HALF_RANGE = tl.constexpr(1.0e18)  # a sum of unnormalised probabilities under it leaves room for any sane weight


@lru_cache
def split_dimension(dim: int, widest: int = 512) -> tuple[int, int]:
    """Split a vector dimension into the two block widths (DIM0, DIM1) that the kernels read.

    They are powers of two of at least 16 (the second may be 0) that cover `dim` with the least padding. `widest` is the
    largest width of a block, a power of two of at least half of `dim`.
    """
    whole = max(16, 1 << (dim - 1).bit_length())
    first = max(16, whole // 2)
    rest = max(16, 1 << max(0, dim - first - 1).bit_length())
    if (first >= 64 and first + rest < whole) or whole > widest:
        return first, rest
    return whole, 0


@triton.jit
def load_tile(base, start, rows_left, START: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
              DIM: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Read ROWS rows from start and WIDTH columns from START of a contiguous [*, DIM] matrix; zero outside."""
    rows = tl.arange(0, ROWS)
    columns = START + tl.arange(0, WIDTH)
    # One 64-bit address for the tile; inside it 32 bits are enough.
    pointers = base + tl.cast(start, tl.int64) * DIM + (rows[:, None] * DIM + columns[None, :])
    if START + WIDTH > DIM:
        if MASKED:
            tile = tl.load(pointers, mask=(rows[:, None] < rows_left) & (columns[None, :] < DIM), other=0.0)
        else:
            tile = tl.load(pointers, mask=(rows[:, None] >= 0) & (columns[None, :] < DIM), other=0.0)
    else:
        if MASKED:
            tile = tl.load(pointers, mask=rows[:, None] < rows_left, other=0.0)
        else:
            tile = tl.load(pointers)
    return tile


@triton.jit
def gather_rows(base, rows, inside, START: tl.constexpr, WIDTH: tl.constexpr, DIM: tl.constexpr):
    """Read the given rows, in any order, and WIDTH columns from START of a contiguous [*, DIM] matrix; zero outside."""
    columns = START + tl.arange(0, WIDTH)
    pointers = base + rows.to(tl.int64)[:, None] * DIM + columns[None, :]
    return tl.load(pointers, mask=inside[:, None] & (columns[None, :] < DIM), other=0.0)


@triton.jit
def store_tile(base, start, rows_left, tile, START: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
               DIM: tl.constexpr):  # fmt: skip
    """Write ROWS rows from start and WIDTH columns from START of a contiguous [*, DIM] matrix."""
    rows = tl.arange(0, ROWS)
    columns = START + tl.arange(0, WIDTH)
    pointers = base + tl.cast(start, tl.int64) * DIM + (rows[:, None] * DIM + columns[None, :])
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=(rows[:, None] < rows_left) & (columns[None, :] < DIM))


@triton.jit
def three_parts(tile):
    """Three bf16 numbers that add up to each fp32 number of a tile: its 24 bits in three times eight."""
    first = tile.to(tl.bfloat16)
    rest = tile - first.to(tl.float32)
    second = rest.to(tl.bfloat16)
    third = (rest - second.to(tl.float32)).to(tl.bfloat16)
    return first, second, third


@triton.jit
def load_parts(base, plane, start, rows_left, START: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
               DIM: tl.constexpr):  # fmt: skip
    """Read a tile of each of the three matrices [*, DIM] that `split_parts` wrote `plane` numbers apart."""
    first = load_tile(base, start, rows_left, START, WIDTH, ROWS, DIM, True)
    second = load_tile(base + plane, start, rows_left, START, WIDTH, ROWS, DIM, True)
    third = load_tile(base + 2 * plane, start, rows_left, START, WIDTH, ROWS, DIM, True)
    return first, second, third


@triton.constexpr_function
def in_parts(precision):
    """Whether operands are three parts; see state.dot_precision."""
    return precision.endswith("parts")


@triton.jit
def as_operand(tile, PRECISION: tl.constexpr):
    """The operand that products read of a tile in the dtype of the hidden vectors."""
    if in_parts(PRECISION):
        return three_parts(tile)
    else:
        return tile


@triton.jit
def transposed(operand, PRECISION: tl.constexpr):
    """The operand of the transposed tile."""
    if in_parts(PRECISION):
        return tl.trans(operand[0]), tl.trans(operand[1]), tl.trans(operand[2])
    else:
        return tl.trans(operand)


@triton.jit
def small_products(left, right, acc, PRECISION: tl.constexpr):
    """The products of parts except the largest, smallest first."""
    acc = dot(left[2], right[0], acc, PRECISION)
    acc = dot(left[0], right[2], acc, PRECISION)
    acc = dot(left[1], right[1], acc, PRECISION)
    acc = dot(left[1], right[0], acc, PRECISION)
    return dot(left[0], right[1], acc, PRECISION)


@triton.jit
def product(left, right, acc, PRECISION: tl.constexpr):
    """Product of two operands, [A, K] x [K, B], added to acc [A, B] fp32.

    Tensor cores truncate their sums, by which a long sum loses 1e-5 of itself (TUNING.md). In fp32 their sum therefore
    begins at zero, and an addition that rounds adds it to acc.
    """
    if in_parts(PRECISION):
        tile = tl.zeros([acc.shape[0], acc.shape[1]], dtype=tl.float32)
        tile = small_products(left, right, tile, PRECISION)
        return acc + dot(left[0], right[0], tile, PRECISION)
    else:
        return dot(left, right, acc, PRECISION)


@triton.jit
def score_tile(left0, left1, right0, right1, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DIM1: tl.constexpr,
               PRECISION: tl.constexpr):  # fmt: skip
    """Inner products of the rows of two operands, [ROWS, D] and [COLUMNS, D] -> [ROWS, COLUMNS] fp32."""
    scores = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    across0 = transposed(right0, PRECISION)
    across1 = across0
    if DIM1 > 0:
        across1 = transposed(right1, PRECISION)
    if in_parts(PRECISION):
        scores = small_products(left0, across0, scores, PRECISION)
        if DIM1 > 0:
            scores = small_products(left1, across1, scores, PRECISION)
        scores = dot(left0[0], across0[0], scores, PRECISION)
        if DIM1 > 0:
            scores = dot(left1[0], across1[0], scores, PRECISION)
    else:
        scores = dot(left0, across0, scores, PRECISION)
        if DIM1 > 0:
            scores = dot(left1, across1, scores, PRECISION)
    return scores


@triton.jit
def cap_scores(scores, softcap):
    """Softcap * tanh(scores / softcap), by exp2 alone: the interpreter and every architecture have it.

    By tanh's Taylor series where the quotient is below 0.2, and exp2 would leave few digits of it: four terms of it are
    right to 6e-8 there.
    """
    x = scores / softcap
    square = x * x
    small = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0))))
    large = 1.0 - 2.0 / (tl.exp2(x * (2.0 * LOG2E)) + 1.0)
    return softcap * tl.where(square < 0.04, small, large)


@triton.jit
def cap_slope(capped, softcap):
    """D capped / d score = 1 - tanh^2, from the capped score."""
    ratio = capped / softcap
    return 1.0 - ratio * ratio


@triton.jit
def log1p_small(x):
    """log(1 + x) for 0 <= x <= 1, exact to rounding (Goldberg's correction of the rounded 1 + x)."""
    rounded = 1.0 + x
    return tl.where(rounded == 1.0, x, tl.log(rounded) * (x / (rounded - 1.0 + (rounded == 1.0).to(tl.float32))))
