"""Device functions that the kernels of the full loss share: reading tiles, scoring them, capping scores.

A vector dimension that is no power of two is read as one or two blocks: the largest power of two in it (DIM0) and
the padded rest (DIM1, 0 where there is none). 320 is 256 + 64; 100 is 128 with 28 columns of zeros.
"""

from __future__ import annotations

from functools import lru_cache

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
BELOW_HALF_RANGE = tl.constexpr(1.0e18)  # a sum of unnormalised probabilities under it leaves room for any sane weight


@lru_cache
def split_dimension(dim: int) -> tuple[int, int]:
    """Split a vector dimension into the two block widths (DIM0, DIM1) that the kernels read.

    Args:
        dim: columns of the item table, at least 1.

    Returns:
        Two widths, powers of two of at least 16 (the second may be 0), that cover `dim` with the least padding.
    """
    whole = max(16, 1 << (dim - 1).bit_length())
    first = max(16, whole // 2)
    rest = max(16, 1 << max(0, dim - first - 1).bit_length())
    if first >= 64 and first + rest < whole:
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
def product(left, right, acc, PRECISION: tl.constexpr):
    """Matrix product [A, K] x [K, B] added to acc [A, B] fp32.

    `upcast` is for the interpreter, whose products know no bf16: products of 16-bit numbers are exact in fp32, so it
    computes what tensor cores do.
    """
    if PRECISION == "upcast":
        return tl.dot(left.to(tl.float32), right.to(tl.float32), acc)
    else:
        return tl.dot(left, right, acc, input_precision=PRECISION)


@triton.jit
def score_tile(left0, left1, right0, right1, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DIM1: tl.constexpr,
               PRECISION: tl.constexpr):  # fmt: skip
    """Inner products of the rows of two tiles, [ROWS, D] and [COLUMNS, D] -> [ROWS, COLUMNS] fp32."""
    scores = product(left0, tl.trans(right0), tl.zeros([ROWS, COLUMNS], dtype=tl.float32), PRECISION)
    if DIM1 > 0:
        scores = product(left1, tl.trans(right1), scores, PRECISION)
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
