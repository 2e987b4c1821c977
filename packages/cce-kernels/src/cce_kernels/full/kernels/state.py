"""What the launchers of the full loss hand to each other: tensors of one forward, and of one backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from cce_kernels.full.kernels.tiles import split_dimension

HALF_SHIFT = 14  # fp16 holds 2^15, and a token's factor may come within a factor 2 of the largest


def dot_precision(hidden: Tensor) -> str:
    """How products are made: see the head of full_tiles.py, and dot.py for the interpreter."""
    parts = "parts" if hidden.dtype == torch.float32 else ""
    upcast = "upcast" if hidden.device.type != "cuda" else ""
    return f"{upcast} {parts}".strip() or "as they are"


def block_widths(hidden: Tensor) -> tuple[int, int]:
    """Widths of the blocks that vectors are read in; in fp32 none is wider than 128, for want of registers."""
    return split_dimension(hidden.shape[1], 128 if hidden.dtype == torch.float32 else 512)


def one_loop(hidden: Tensor) -> bool:
    """Whether one masked loop streams all tiles, the last ragged one too; else the last one has code of its own.

    For fp32, and for vectors narrower than 64. With code that may be passed over, the loop or the last tile, the ptxas
    of triton 3.6 takes an address of a product's later part from a register that is set there only: in fp32 dH was
    wrong where all items fit one tile; at D 16 it would be where a tile of tokens is worked out again and the items
    fill their tiles (TUNING.md).
    """
    return hidden.dtype == torch.float32 or hidden.shape[1] < 64


def can_stream(matrix: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether tiles of a matrix can come by tensor descriptor: no conversion on the way, rows of 16 bytes."""
    return matrix.dtype == dtype and matrix.shape[1] * matrix.itemsize % 16 == 0 and matrix.data_ptr() % 16 == 0


def even_parts(total: int, parts: int, block: int) -> tuple[int, int]:
    """Split `total` into at most `parts` equal runs of whole blocks: their number, and the length of one.

    (`triton.cdiv` takes 2 microseconds a call on the host.)
    """
    run = -(-total // parts)
    length = -(-run // block) * block
    return -(-total // length), length


def stream_blocks(matrix: Tensor, rows: int, dim0: int, dim1: int) -> tuple[Any, Any]:
    """Describe tiles of `rows` rows of a contiguous [*, D] matrix: the first dim0 columns, and the dim1 after them."""
    first = TensorDescriptor.from_tensor(matrix, [rows, dim0])
    # An argument that is never read is cheaper to pass as a pointer.
    return first, TensorDescriptor.from_tensor(matrix, [rows, dim1]) if dim1 > 0 else matrix


@dataclass(frozen=True)
class ForwardState:
    """Inputs and outputs of a forward."""

    hidden: Tensor  # [M, D]
    weight: Tensor  # [V, D]
    bias: Tensor | None  # [V]
    targets: Tensor  # [M] int64
    scale: float  # factor that dH is stored with
    loss: Tensor  # [M] fp32
    lse: Tensor  # [M] fp32
    lse2: Tensor  # [M] fp32: log-sum-exp in log2 units, infinite where a token has no gradient
    others: Tensor  # [M] fp32: o_m = 1 - p_mt, times the slope of the softcap at the target
    dhidden: Tensor  # [M, D], or empty where it is not wanted
    ignore_index: int
    softcap: float | None

    @property
    def bias_or_weight(self) -> Tensor:
        """A pointer for the bias argument: never read where there is no bias."""
        return self.weight if self.bias is None else self.bias


@dataclass(frozen=True)
class BackwardState:
    """Inputs of a backward."""

    hidden: Tensor  # [M, D]
    weight: Tensor  # [V, D]
    bias: Tensor | None  # [V]
    targets: Tensor  # [M] int64
    lse2: Tensor  # [M] fp32
    others: Tensor  # [M] fp32
    grad: Tensor  # [M] fp32, or a scalar where all tokens share it
    range_scale: Tensor  # [1] fp32, per-token fp16 only: power of two that brings every |g_m| to at most 1
    per_token: bool
    p_shift: int
    softcap: float | None
