"""The matrix product of both losses: on tensor cores, and in Triton's interpreter."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.constexpr_function
def upcasts(precision):
    """Tell whether products are those of the interpreter."""
    return precision.startswith("upcast")


@triton.jit
def dot(left, right, acc, PRECISION: tl.constexpr):
    """Matrix product of tiles [A, K] x [K, B], added to acc [A, B] fp32 as the tensor cores add.

    PRECISION is `tf32x3` for fp32 tiles on tensor cores, three TF32 products. `upcast` is for the interpreter, whose
    products know no bf16: products of 16-bit numbers are exact in fp32, so it computes what tensor cores do. Anything
    else multiplies 16-bit tiles as they are.
    """
    if upcasts(PRECISION):
        return tl.dot(left.to(tl.float32), right.to(tl.float32), acc)
    elif PRECISION == "tf32x3":
        return tl.dot(left, right, acc, input_precision="tf32x3")
    else:
        return tl.dot(left, right, acc)
