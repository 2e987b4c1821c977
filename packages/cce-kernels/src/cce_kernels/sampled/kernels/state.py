"""The tensors and numbers that the kernels of the sampled losses share, and how they are handed to a launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cce_kernels.sampled.draws import Groups
from cce_kernels.sampled.objectives import Terms

# Sizes that differ from batch to batch: no kernel is compiled anew for one of them.
UNSPECIALIZED = [
    "size",
    "num_tokens",
    "num_items",
    "num_negatives",
    "first_row",
    "ignore_index",
    "group_shift",
    "group_stride",
    "first_unit",
    "first_token",
    "num_draws",
]


def padded(width: int) -> int:
    """The power of two, at least 16, that holds a width."""
    return max(16, 1 << (width - 1).bit_length())


@dataclass(frozen=True)
class WeightGradient:
    """Where gradients of the table go: fp32 [R, D] and [R], row `row_map[id]` or `id` itself for an item."""

    weight: Tensor
    bias: Tensor | None
    row_map: Tensor | None  # int32 [V]


@dataclass(frozen=True)
class SampledState:
    """One call. Backward reads what forward left in `shift` and `pull`.

    The gradient of the score of a negative is `exp(s' - shift_m)` (softmax) or `scale sigma(s)` (pointwise); that of
    the target is `-pull_m`. Both still want the upstream gradient.
    """

    hidden: Tensor  # [M, D]
    weight: Tensor  # [V, D], or its copy in hidden's dtype
    bias: Tensor | None  # [V]
    targets: Tensor  # int64 [M]
    shift: Tensor  # fp32 [M]
    pull: Tensor  # fp32 [M]
    seed: Tensor  # int64 []
    step: Tensor  # int64 []
    size: int
    size_tensor: Tensor | None  # int64 []: the size of a pool
    table: Tensor | None  # int64 [positions]
    alias: bool
    log_q: Tensor | None  # fp32 [V]
    log_rest: Tensor | None  # fp32 [M]
    groups: Groups
    num_negatives: int
    ignore_index: int
    terms: Terms

    @property
    def block_d(self) -> int:
        """Columns of a tile."""
        return padded(self.hidden.shape[1])

    @property
    def dot_precision(self) -> str:
        """How products are made (dot.py): of fp32 three TF32 products, accurate like fp32. Plain TF32 is never used.

        Six bf16 products, which win in the full loss, need more registers in these kernels (TUNING.md).
        """
        if self.hidden.device.type != "cuda":
            return "upcast"
        return "tf32x3" if self.hidden.dtype == torch.float32 else "as they are"

    @property
    def is_half(self) -> bool:
        """fp16 has too little range for a probability times an upstream gradient."""
        return self.hidden.dtype == torch.float16

    @property
    def table_kind(self) -> int:
        """The constants of sampled_draw.py."""
        return 0 if self.table is None else 1 if self.alias else 2

    def tensors(self) -> dict[str, Any]:
        """Arguments that every kernel takes; an absent tensor is replaced by one that is never read."""
        absent = self.pull
        return {
            "hidden": self.hidden,
            "weight": self.weight,
            "bias": absent if self.bias is None else self.bias,
            "targets": self.targets,
            "shift": self.shift,
            "pull": self.pull,
            "log_q": absent if self.log_q is None else self.log_q,
            "seed_ptr": self.seed,
            "step_ptr": self.step,
            "size_ptr": self.seed if self.size_tensor is None else self.size_tensor,
            "table": self.targets if self.table is None else self.table,
        }

    def numbers(self) -> dict[str, Any]:
        """Sizes and constants that every kernel takes."""
        return {
            "size": self.size,
            "num_tokens": self.hidden.shape[0],
            "num_items": self.weight.shape[0],
            "num_negatives": self.num_negatives,
            "first_row": self.groups.first,
            "ignore_index": self.ignore_index,
            "positive_weight": self.terms.positive_weight,
            "scale": self.terms.scale,
        }

    def options(self) -> dict[str, Any]:
        """Compile-time choices that every kernel takes."""
        return {
            "D": self.hidden.shape[1],
            "BLOCK_D": self.block_d,
            "SOFTMAX": self.terms.softmax,
            "TABLE": self.table_kind,
            "HAS_LOGQ": self.log_q is not None,
            "HAS_BIAS": self.bias is not None,
            "enable_fp_fusion": True,  # said aloud: newer Triton leaves it off
        }


def copy_pays(weight: Tensor, hidden: Tensor, rows_read: int) -> bool:
    """Whether a 16-bit copy of a wider table is cheaper than reading wide rows `rows_read` times.

    The copy moves 6 bytes an element of the table, and saves 2 for each element read.
    """
    narrower = hidden.dtype.itemsize < weight.dtype.itemsize
    return narrower and rows_read * 2 >= weight.shape[0] * 6
