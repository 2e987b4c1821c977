"""The last step of sums over places: the parts of all programs, added up in a fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS, _WARPS = 256, 16, 8


@triton.jit(do_not_specialize=["num_rows"])
def column_sums_kernel(parts, out, num_rows, num_columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Grid (blocks of columns,)."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, num_rows, ROWS):
        rows = first + tl.arange(0, ROWS)
        inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
        total += tl.load(parts + rows.to(tl.int64)[:, None] * num_columns + columns[None, :], mask=inside, other=0.0)
    tl.store(out + columns, tl.sum(total, 0), mask=columns < num_columns)


def column_sums(parts: Tensor) -> Tensor:
    """From fp32 [P, C] to [C]; bytes: 4 P C."""
    out = torch.empty_like(parts[0])
    column_sums_kernel[(triton.cdiv(parts.shape[1], _COLUMNS),)](
        parts, out, *parts.shape, ROWS=_ROWS, COLUMNS=_COLUMNS, num_warps=_WARPS
    )
    return out
