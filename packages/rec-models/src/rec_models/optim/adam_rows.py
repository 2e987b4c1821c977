"""Adam on an item table; the formulas are those of `rec_models.optim.table_adam`.

Each program updates a block of rows. Bytes per element: 12 for an fp32 table and its gradient, plus the moments read
and written: 16 with both in fp32, 8 in bf16, 4 with the first in bf16 and the second as one number per row. Lazily, 4
for the gradient, and the rest only of rows that have one. FLOPs: about 15 per element, negligible beside the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_ELEMENTS = 2048
_WARPS = 4


@triton.jit
def adam_rows_kernel(
    table,  # [V, D]
    grad,  # [V, D]
    first,  # [V, D]
    second,  # [V, D], or [V] with ROWWISE
    step,  # fp32 scalar, of this update, from 1
    last,  # [V] int32, the step that last updated a row, with LAZY
    items,  # V
    rate,
    keep1,  # beta 1
    keep2,
    take1,  # 1 - beta 1, from double precision
    take2,
    log2_keep1,
    log2_keep2,
    epsilon,
    decay,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    ROWWISE: tl.constexpr,
    LAZY: tl.constexpr,
):
    """See the docstring of the module."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, BLOCK_DIM)
    chosen = rows < items
    inside = chosen[:, None] & (columns < DIM)[None, :]
    places = rows[:, None] * DIM + columns[None, :]
    slope = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32)
    if LAZY:
        has_slope = tl.max((slope != 0.0).to(tl.int32), axis=1)
        if tl.max(has_slope, axis=0) == 0:
            return
        chosen = chosen & (has_slope == 1)
        inside = inside & chosen[:, None]
    value = tl.load(table + places, mask=inside, other=0.0)
    m = tl.load(first + places, mask=inside, other=0.0).to(tl.float32)
    if ROWWISE:
        v = tl.load(second + rows, mask=chosen, other=0.0).to(tl.float32)[:, None]
    else:
        v = tl.load(second + places, mask=inside, other=0.0).to(tl.float32)
    count = tl.load(step)
    if LAZY:
        before = tl.load(last + rows, mask=chosen, other=0).to(tl.float32)
        missed = (count - 1.0 - before)[:, None]
        since = tl.maximum(before, 1.0)[:, None]  # m of an untouched row is 0
        log2_ratio = log2_keep1 - 0.5 * log2_keep2
        ratio = tl.exp2(log2_ratio)
        times = (1.0 - tl.exp2(missed * log2_ratio)) * (ratio / (1.0 - ratio))
        divisor = tl.sqrt(v / (1.0 - tl.exp2(since * log2_keep2))) + epsilon
        value -= rate * (m / (1.0 - tl.exp2(since * log2_keep1))) / divisor * times
        m *= tl.exp2(missed * log2_keep1)
        v *= tl.exp2(missed * log2_keep2)
        tl.store(last + rows, tl.zeros_like(before).to(tl.int32) + count.to(tl.int32), mask=chosen)
    slope += decay * value
    m = keep1 * m + take1 * slope
    tl.store(first + places, m.to(first.dtype.element_ty), mask=inside)
    if ROWWISE:
        v = keep2 * v + take2 * (tl.sum(slope * slope, 1) / DIM)[:, None]
        tl.store(second + rows[:, None], v.to(second.dtype.element_ty), mask=chosen[:, None])
    else:
        v = keep2 * v + take2 * slope * slope
        tl.store(second + places, v.to(second.dtype.element_ty), mask=inside)
    unbias1 = 1.0 - tl.exp2(count * log2_keep1)
    unbias2 = 1.0 - tl.exp2(count * log2_keep2)
    value -= rate * (m / unbias1) / (tl.sqrt(v / unbias2) + epsilon)
    tl.store(table + places, value, mask=inside)


def launch_adam_rows(
    table: Tensor, grad: Tensor, first: Tensor, second: Tensor, step: Tensor, group: Mapping[str, Any],
    last: Tensor | None = None,
) -> None:  # fmt: skip
    """Update in place; arguments as of `rec_models.optim.table_adam.adam_rows`, all contiguous, step on the device.

    With `last` [V, 1] int32 it updates the rows that `rec_models.optim.table_adam.adam_lazy_rows` does.
    """
    betas, (items, dim) = group["betas"], table.shape
    block_dim = triton.next_power_of_2(dim)
    block_rows = max(1, _BLOCK_ELEMENTS // block_dim)
    with torch.cuda.device_of(table):
        adam_rows_kernel[(triton.cdiv(items, block_rows),)](
            table,
            grad,
            first,
            second,
            step,
            last,
            items,
            group["lr"],
            *betas,
            *(1 - beta for beta in betas),
            *(math.log2(beta) for beta in betas),
            group["eps"],
            group["weight_decay"],
            DIM=dim,
            BLOCK_DIM=block_dim,
            BLOCK_ROWS=block_rows,
            ROWWISE=second.shape[1] == 1,
            LAZY=last is not None,
            num_warps=_WARPS,
        )
