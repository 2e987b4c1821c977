"""What the launchers of the full loss share: the outputs of a forward, and how matrices are read."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from cce_kernels.full.call import FullCall
from cce_kernels.full.kernels.tiles import split_dimension
from cce_kernels.hardware import is_interpreted


def dot_precision(hidden: Tensor) -> str:
    """How products are computed: see the head of tiles.py, and dot.py for the interpreter."""
    parts = "parts" if hidden.dtype == torch.float32 else ""
    upcast = "upcast" if is_interpreted(hidden.device) else ""
    return f"{upcast} {parts}".strip() or "as they are"


def block_widths(hidden: Tensor) -> tuple[int, int]:
    """Widths of the blocks that vectors are read in; in fp32 none is wider than 128, to save registers."""
    return split_dimension(hidden.shape[1], 128 if hidden.dtype == torch.float32 else 512)


def one_loop(hidden: Tensor) -> bool:
    """Whether one masked loop streams all tiles, the last partial one included; else the last one has its own code.

    For fp32, and for vectors narrower than 64. Where the loop or the last tile may be skipped, the ptxas of triton 3.6
    takes an address of a later part of a product from a register that is set only there: in fp32 dH was wrong where all
    items fit one tile, and at D 16 where a tile of tokens is computed again and the items fill their tiles (TUNING.md).
    """
    return hidden.dtype == torch.float32 or hidden.shape[1] < 64


def exponent_scale(call: FullCall) -> float:
    """`log2e` of the kernels: what scores, bias and cap included, are multiplied by to become exponents of 2."""
    return math.log2(math.e) / call.temperature


def can_stream(matrix: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether tiles of a matrix can come by tensor descriptor: no conversion on the way, rows of 16 bytes."""
    return matrix.dtype == dtype and matrix.shape[1] * matrix.itemsize % 16 == 0 and matrix.data_ptr() % 16 == 0


def even_splits(total: int, splits: int, block: int) -> tuple[int, int]:
    """Split `total` into at most `splits` equal runs of whole blocks: their number, and the length of one.

    (`triton.cdiv` takes 2 microseconds a call on the host.)
    """
    run = -(-total // splits)
    length = -(-run // block) * block
    return -(-total // length), length


def stream_blocks(matrix: Tensor, rows: int, dim0: int, dim1: int) -> tuple[Any, Any]:
    """Describe tiles of `rows` rows of a contiguous [*, D] matrix: the first dim0 columns, and the dim1 after them."""
    first = TensorDescriptor.from_tensor(matrix, [rows, dim0])
    # An argument that is never read is cheaper to pass as a pointer.
    return first, TensorDescriptor.from_tensor(matrix, [rows, dim1]) if dim1 > 0 else matrix


class FullOutputs(NamedTuple):
    """What a forward writes: the loss and the log-sum-exp for the user, the rest for the backward."""

    loss: Tensor  # [M] fp32
    lse: Tensor  # [M] fp32
    predicted: Tensor | None  # [M] int64, None where it is not wanted
    lse2: Tensor  # [M] fp32: log-sum-exp in log2 units, infinite where a token has no gradient
    others: Tensor  # [M] fp32: o_m = 1 - p_mt, times the slope of the softcap at the target
    dhidden: Tensor  # [M, D] fp32, before the upstream gradient, or empty where it is not wanted
