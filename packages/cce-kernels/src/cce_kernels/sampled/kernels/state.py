"""The arguments that the kernels of the sampled losses share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cce_kernels.hardware import is_interpreted
from cce_kernels.sampled.call import SampledCall

# Sizes that differ from batch to batch: no kernel is compiled again for another value.
UNSPECIALIZED = [
    "size", "num_tokens", "num_items", "num_negatives", "first_row", "ignore_index", "group_shift", "row_stride",
    "first_unit", "first_token", "num_draws",
]  # fmt: skip


def padded(width: int) -> int:
    """The smallest power of two, at least 16, that is no less than a width."""
    return max(16, 1 << (width - 1).bit_length())


class SampledOutputs(NamedTuple):
    """What a forward writes: the loss, and what the backward reads."""

    loss: Tensor  # fp32 [M]
    lse: Tensor | None  # fp32 [M], None where it is not wanted
    dhidden: Tensor  # [M, D] fp32, before the upstream gradient, or empty where it is not wanted
    shift: Tensor  # fp32 [M]
    pull: Tensor  # fp32 [M]
    copied: Tensor  # [V, D]: the weight in hidden's dtype, or empty


class Upstream(NamedTuple):
    """What a backward reads beside the call."""

    shift: Tensor  # fp32 [M], from the forward
    pull: Tensor  # fp32 [M], from the forward
    grad: Tensor  # upstream gradient fp32, [M] or a scalar for all tokens


class WeightGradient(NamedTuple):
    """Where gradients of weight and bias go: fp32 [R, D] and [R], row `row_map[id]` or `id` itself for an item."""

    weight: Tensor
    bias: Tensor | None
    row_map: Tensor | None  # int32 [V]


def dot_precision(hidden: Tensor) -> str:
    """How products are computed (dot.py): three TF32 products for fp32, accurate like fp32, never plain TF32.

    Six bf16 products, which are faster in the full loss, need more registers in these kernels (TUNING.md).
    """
    if is_interpreted(hidden.device):
        return "upcast"
    return "tf32x3" if hidden.dtype == torch.float32 else "as they are"


def forward_arguments(call: SampledCall, outputs: SampledOutputs, constant_rest: float) -> dict[str, Any]:
    """What both forwards take, by the name of their argument."""
    return {
        **kernel_arguments(call, outputs.shift, outputs.pull),
        "log_rest": outputs.pull if call.log_rest is None else call.log_rest,
        "loss": outputs.loss,
        "lse": outputs.lse,
        "dhidden": outputs.dhidden if call.with_dhidden else call.hidden,
        "constant_rest": constant_rest,
        "WITH_GRAD": call.with_dhidden,
    }


def kernel_arguments(call: SampledCall, shift: Tensor, pull: Tensor) -> dict[str, Any]:
    """What the kernels take of a call, by the name of their argument; an absent tensor is one that is never read.

    The gradient of the score of a negative is `exp(s' - shift_m)` (softmax) or `scale sigma(s)` (pointwise), that of
    the target `-pull_m`, all before the upstream gradient: the forward writes `shift` and `pull`, the backward reads
    them.
    """
    hidden, terms = call.hidden, call.terms
    return {
        "hidden": hidden, "weight": call.weight, "bias": pull if call.bias is None else call.bias,
        "targets": call.targets, "shift": shift, "pull": pull, "log_q": pull if call.log_q is None else call.log_q,
        "seed_ptr": call.seed, "step_ptr": call.step,
        "size_ptr": next((x for x in (call.size_tensor, call.own_counts) if x is not None), call.seed),
        "offset_ptr": call.seed if call.row_offset is None else call.row_offset,
        "id_table": call.targets if call.id_table is None else call.id_table,
        "size": call.size, "num_tokens": hidden.shape[0], "num_items": call.weight.shape[0],
        "num_negatives": call.num_negatives, "first_row": call.first_row, "ignore_index": call.ignore_index,
        "positive_weight": terms.positive_weight, "scale": terms.scale,
        "D": hidden.shape[1], "BLOCK_D": padded(hidden.shape[1]), "SOFTMAX": terms.softmax, "TABLE": table_kind(call),
        "HAS_LOGQ": call.log_q is not None, "HAS_BIAS": call.bias is not None,
        "HAS_OFFSET": call.row_offset is not None, "SCALED": terms.softmax and terms.scale != 1.0,
        "enable_fp_fusion": True,  # explicit, because newer Triton leaves it off
    }  # fmt: skip


def table_kind(call: SampledCall) -> int:
    """The constants of draw.py."""
    if call.own_counts is not None:
        return 3
    return 0 if call.id_table is None else 1 if call.alias else 2


def copy_pays(weight: Tensor, hidden: Tensor, rows_read: int) -> bool:
    """Whether a 16-bit copy of a wider table is cheaper than reading wide rows `rows_read` times.

    The copy moves 6 bytes per element of the table, and saves 2 per element read.
    """
    narrower = hidden.dtype.itemsize < weight.dtype.itemsize
    return narrower and rows_read * 2 >= weight.shape[0] * 6
