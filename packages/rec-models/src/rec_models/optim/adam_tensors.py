"""Adam on many small tensors in one launch: torch's fused kernel gives 65,536 elements to a block, few blocks in all.

Bytes per element: 28. The formula is that of `rec_models.optim.table_adam.adam_rows`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK, _WARPS = 1024, 4
_MOST = 32  # tensors of a launch, whose addresses are its arguments


@triton.jit
def adam_tensors_kernel(
    tensors, grads, firsts, seconds, steps, sizes, rate, keep1, keep2, take1, take2, log2_keep1, log2_keep2, epsilon,
    decay, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of all tensors,); fp32 tensors and their numbers of elements, steps fp32 [], from 1."""
    block = tl.program_id(0)
    for i in tl.static_range(len(sizes)):
        blocks = tl.cdiv(sizes[i], BLOCK)
        if (block >= 0) & (block < blocks):
            count = tl.load(steps[i])
            unbias1 = 1.0 - tl.exp2(count * log2_keep1)
            unbias2 = 1.0 - tl.exp2(count * log2_keep2)
            places = block * BLOCK + tl.arange(0, BLOCK)
            inside = places < sizes[i]
            value = tl.load(tensors[i] + places, mask=inside, other=0.0)
            slope = tl.load(grads[i] + places, mask=inside, other=0.0) + decay * value
            m = keep1 * tl.load(firsts[i] + places, mask=inside, other=0.0) + take1 * slope
            v = keep2 * tl.load(seconds[i] + places, mask=inside, other=0.0) + take2 * slope * slope
            value -= rate * (m / unbias1) / (tl.sqrt(v / unbias2) + epsilon)
            tl.store(firsts[i] + places, m, mask=inside)
            tl.store(seconds[i] + places, v, mask=inside)
            tl.store(tensors[i] + places, value, mask=inside)
        block -= blocks


def launch_adam_tensors(
    tensors: Sequence[Tensor], grads: Sequence[Tensor], firsts: Sequence[Tensor], seconds: Sequence[Tensor],
    steps: Sequence[Tensor], group: Mapping[str, Any],
) -> None:  # fmt: skip
    """Update contiguous fp32 tensors in place; `steps`, each of this update, from 1, are fp32 [] on the device."""
    betas = group["betas"]
    for start in range(0, len(tensors), _MOST):
        some = [tuple(part[start : start + _MOST]) for part in (tensors, grads, firsts, seconds, steps)]
        sizes = tuple(tensor.numel() for tensor in some[0])
        blocks = sum(-(-size // _BLOCK) for size in sizes)
        with torch.cuda.device_of(tensors[0]):
            adam_tensors_kernel[(blocks,)](
                *some, sizes, group["lr"], *betas, *(1 - beta for beta in betas),
                *(math.log2(beta) for beta in betas), group["eps"], group["weight_decay"], BLOCK=_BLOCK,
                num_warps=_WARPS,
            )  # fmt: skip
