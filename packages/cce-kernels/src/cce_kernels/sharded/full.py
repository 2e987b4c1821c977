"""The full loss over sharded rows: partial results, their merge, and the gradient of a process's rows.

With R the largest of the bases b_r and of s_t, in log2 units,

    T = sum_r 2^(b_r - R) T_r,   e = 2^(s_t - R),   Z = T + e,   o = T / Z = 1 - p_t,   loss = log1p(T / e)
    dH = sum_r (2^(b_r - R) T_r / Z) a_r - o w_t
    dW_j = sum_{t_m != j} 2^(s_mj - lse2_m) g_m h_m - sum_{t_m = j} o_m g_m h_m

The last line needs lse2 and o of every token, and no rows of other processes.
"""

from __future__ import annotations

import math
import torch
from torch import Tensor

from cce_kernels.dtypes import sum_dtype
from cce_kernels.full import reference, tuning
from cce_kernels.full.call import FullCall
from cce_kernels.reduction import masks
from cce_kernels.sharded.merge import LOG2E, Merged, Partial, own_targets, weighted_sum

_LN2 = math.log(2.0)


_NOTHING = -1.0e30  # the base of no terms, below that of any term


def partial(call: FullCall, *, use_triton: bool) -> Partial:
    """Partial results [N] of a call over its rows: a target is one of them, or -1 where it is elsewhere."""
    hidden, weight = call.hidden, call.weight
    dtype = sum_dtype(hidden, weight, call.bias)
    score, row = own_targets(hidden, weight, call.bias, call.targets, dtype)
    if call.softcap is not None:
        score = call.softcap * torch.tanh(score / call.softcap)
    if 0 in (hidden.shape[0], weight.shape[0]):
        base, total, mean = torch.full_like(score, _NOTHING), torch.zeros_like(score), torch.zeros_like(hidden)
    else:
        base, total, mean = (_triton_sums if use_triton else _reference_sums)(call)
    return Partial(base, total, torch.zeros_like(total), score, mean, row)


def _reference_sums(call: FullCall) -> tuple[Tensor, Tensor, Tensor]:
    rest, _ = reference.sums_without_target(call, call.targets)
    nothing = rest == -torch.inf
    total = (~nothing).to(rest.dtype)
    lse = torch.where(nothing, 0, rest)
    mean, *_ = reference.sum_gradients(call, call.targets, total, lse, torch.zeros_like(rest), True, False)
    assert mean is not None
    return torch.where(nothing, _NOTHING, lse * LOG2E), total, mean


def _triton_sums(call: FullCall) -> tuple[Tensor, Tensor, Tensor]:
    from cce_kernels.full.kernels.forward import launch_splits
    from cce_kernels.full.kernels.state import FullOutputs

    hidden = call.hidden
    num_tokens, dim = hidden.shape
    if hidden.dtype.itemsize < call.weight.dtype.itemsize:
        call = call._replace(weight=call.weight.to(hidden.dtype))  # read once per tile of tokens
    tiles, _ = tuning.full_tiles(hidden.device, hidden.dtype, dim)
    programs, streamed = -(-num_tokens // tiles.block_m), -(-call.weight.shape[0] // tiles.block_v)
    splits = tuning.full_splits(hidden.device, programs, streamed, tiles.num_warps, 4 * num_tokens * dim)
    unwritten = FullOutputs(*[hidden.new_empty(1, dtype=torch.float32)] * 4, hidden)
    sums, bases, vectors = launch_splits(call, unwritten, 1.0, tiles, splits, sharded=True)
    base = bases.amax(0)
    shares = torch.exp2(bases - base)
    total = (shares * sums).sum(0)
    out = vectors[0] if shares.shape[0] == 1 else weighted_sum(shares, vectors)
    mean = torch.div(out, total.clamp(min=torch.finfo(total.dtype).tiny)[:, None], out=torch.empty_like(hidden))
    return base, total, mean


def merge(
    parts: Partial, targets: Tensor, ignore_index: int, num_items: int, softcap: float | None, dtype: torch.dtype
) -> Merged:
    """Loss, log-sum-exp and dH of M tokens from the results [P, M] of all processes; `targets` [M] are ids."""
    valid, bad, _ = masks(targets, ignore_index, num_items)
    score = parts.target_score.sum(0)  # all but one are 0
    target2 = score * LOG2E
    top = torch.maximum(parts.base.amax(0), target2)
    shares = torch.exp2(parts.base - top) * parts.total
    total, own = shares.sum(0), torch.exp2(target2 - top)
    z = total + own
    lse2 = top + z.log2()
    lse = lse2 * _LN2
    loss = torch.where(total < own, torch.log1p(total / own), lse - score)
    others = total / z
    pull = others if softcap is None else others * (1 - (score / softcap) ** 2)
    dhidden = weighted_sum(shares / z, parts.mean) - pull[:, None] * parts.target_row.sum(0)
    return Merged(
        torch.where(valid, loss, 0).masked_fill_(bad, torch.nan),
        torch.where(valid, lse, 0).masked_fill_(bad, torch.nan),
        torch.where(valid, lse2, torch.inf),
        torch.where(valid, pull, 0),
        torch.where(valid[:, None], dhidden, 0).masked_fill_(bad[:, None], torch.nan),
    )


def weight_gradient(
    call: FullCall, lse2: Tensor, pull: Tensor, grad: Tensor, *, use_triton: bool
) -> tuple[Tensor, Tensor | None]:
    """DW and db of the rows of a call of all tokens [N], from `Merged.shift`, `Merged.pull` and the upstream gradient.

    `grad` is [N], or a scalar for all tokens.
    """
    hidden, weight, bias = call.hidden, call.weight, call.bias
    if 0 in (hidden.shape[0], weight.shape[0]):
        return torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
    counts = lse2 != torch.inf
    if not use_triton:
        grad = torch.where(counts, grad, 0)
        lse = torch.where(counts, lse2, 0) / LOG2E
        _, d_weight, d_bias = reference.sum_gradients(call, call.targets, grad, lse, pull, False, True)
        assert d_weight is not None
        return d_weight, d_bias
    from cce_kernels.full.kernels.backward import launch_backward

    grad = grad if grad.dim() == 0 else torch.where(counts, grad, 0)
    num_items, dim = weight.shape
    _, tiles = tuning.full_tiles(hidden.device, hidden.dtype, dim)
    programs, streamed = -(-num_items // tiles.block_v), -(-hidden.shape[0] // tiles.block_m)
    splits = tuning.full_splits(hidden.device, programs, streamed, tiles.num_warps, 4 * num_items * dim)
    return launch_backward(call, lse2, pull, grad, tiles, splits)
