"""Scores and rows of the targets that a process has: a token's own process needs both, from whoever has the row."""

from __future__ import annotations

import torch
from torch import Tensor

from cce_kernels.dtypes import as_multiplied, sum_dtype


def own_targets(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor, *, use_triton: bool
) -> tuple[Tensor, Tensor]:
    """Scores [N], in the dtype of sums, and rows [N, D] in hidden's dtype of targets `rows` [N].

    Both are 0 where the row is negative: another process has it.
    """
    if use_triton and 0 not in (hidden.shape[0], weight.shape[0]):
        from cce_kernels.sharded.kernels import tokens

        return tokens.own_targets(hidden, weight, bias, rows)
    dtype = sum_dtype(hidden, weight, bias)
    own = rows >= 0
    if weight.shape[0] == 0:
        return hidden.new_zeros(rows.shape, dtype=dtype), torch.zeros_like(hidden)
    safe = rows.clamp(min=0)
    found = as_multiplied(weight.index_select(0, safe), hidden).to(hidden.dtype)
    scores = (hidden.to(dtype) * found.to(dtype)).sum(-1)
    if bias is not None:
        scores = scores + bias.index_select(0, safe).to(dtype)
    return torch.where(own, scores, 0), torch.where(own[:, None], found, 0)
