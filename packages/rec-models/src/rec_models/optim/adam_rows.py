"""Adam on an item table; the formula is that of `rec_models.optim.table_adam.adam_rows`.

Each program updates a block of rows. Bytes per element: 12 for an fp32 table and its gradient, plus the moments read
and written: 16 with both in fp32, 8 in bf16, 4 with the first in bf16 and the second as one number per row. FLOPs:
about 15 per element, negligible beside the bytes.
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
):
    """See the docstring of the module."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    columns = tl.arange(0, BLOCK_DIM)
    inside = (rows < items)[:, None] & (columns < DIM)[None, :]
    places = rows[:, None] * DIM + columns[None, :]
    value = tl.load(table + places, mask=inside, other=0.0)
    slope = tl.load(grad + places, mask=inside, other=0.0).to(tl.float32) + decay * value
    m = keep1 * tl.load(first + places, mask=inside, other=0.0).to(tl.float32) + take1 * slope
    tl.store(first + places, m.to(first.dtype.element_ty), mask=inside)
    if ROWWISE:
        square = tl.sum(slope * slope, 1) / DIM
        v = keep2 * tl.load(second + rows, mask=rows < items, other=0.0).to(tl.float32) + take2 * square
        tl.store(second + rows, v.to(second.dtype.element_ty), mask=rows < items)
        v = v[:, None]
    else:
        v = keep2 * tl.load(second + places, mask=inside, other=0.0).to(tl.float32) + take2 * slope * slope
        tl.store(second + places, v.to(second.dtype.element_ty), mask=inside)
    count = tl.load(step)
    unbias1 = 1.0 - tl.exp2(count * log2_keep1)
    unbias2 = 1.0 - tl.exp2(count * log2_keep2)
    value -= rate * (m / unbias1) / (tl.sqrt(v / unbias2) + epsilon)
    tl.store(table + places, value, mask=inside)


def launch_adam_rows(
    table: Tensor, grad: Tensor, first: Tensor, second: Tensor, step: Tensor, group: Mapping[str, Any]
) -> None:
    """Update in place; arguments as of `rec_models.optim.table_adam.adam_rows`, all contiguous, step on the device."""
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
            num_warps=_WARPS,
        )
