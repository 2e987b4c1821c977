"""The full loss over sharded rows: partial results, their merge, and the gradient of a process's rows.

With R the largest of the bases b_r and of s_t, in log2 units,

    T = sum_r 2^(b_r - R) T_r,   e = 2^(s_t - R),   Z = T + e,   o = T / Z = 1 - p_t,   loss = log1p(T / e)
    dH = sum_r (2^(b_r - R) T_r / Z) a_r - o w_t
    dW_j = sum_{t_m != j} 2^(s_mj - lse2_m) g_m h_m - sum_{t_m = j} o_m g_m h_m

The last line needs lse2 and o of every token, and no rows of other processes. A temperature tau has divided all scores
before, and the softcap, whose slope at a score is then the same. It divides dH and the upstream gradient of dW.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cce_kernels.dtypes import as_multiplied, sum_dtype
from cce_kernels.full import tuning
from cce_kernels.full.call import FullCall
from cce_kernels.reduction import masks
from cce_kernels.shard import ELSEWHERE, Shard
from cce_kernels.sharded.autograd import RowGradients, ShardedLoss
from cce_kernels.sharded.merge import LOG2E, NOTHING, Merged, Partial, weighted_sum
from cce_kernels.sharded.targets import own_targets

_LN2 = math.log(2.0)


_CHUNK_ELEMENTS = 1 << 22  # scores that exist at once in the reference


def partial(call: FullCall, *, use_triton: bool) -> Partial:
    """Partial results [N] of a call over its rows: a target is one of them, or -1 where it is elsewhere."""
    hidden, weight = call.hidden, call.weight
    score, row = own_targets(hidden, weight, call.bias, call.targets, use_triton=use_triton)
    if call.softcap is not None:
        score = call.softcap * torch.tanh(score / call.softcap)
    if call.temperature != 1.0:
        score /= call.temperature
    if 0 in (hidden.shape[0], weight.shape[0]):
        base, total, mean = torch.full_like(score, NOTHING), torch.zeros_like(score), torch.zeros_like(hidden)
    else:
        base, total, mean = (_triton_sums if use_triton else _reference_sums)(call)
    return Partial(base, total, torch.zeros_like(total), score, mean, row)


def _reference_sums(call: FullCall) -> tuple[Tensor, Tensor, Tensor]:
    weight = as_multiplied(call.weight, call.hidden)
    found = []
    for tokens, h, scores, own in _scores(call):
        slope = 1.0 if call.softcap is None else 1 - (scores / (call.softcap / call.temperature)) ** 2
        scores[own, call.targets[tokens][own]] = -torch.inf
        base = scores.amax(1)
        base = torch.where(base == -torch.inf, NOTHING, base)
        p = torch.exp(scores - base[:, None])
        total = p.sum(1)
        mean = (p * slope) @ weight.to(h.dtype) / total.clamp(min=torch.finfo(h.dtype).tiny)[:, None]
        found.append((base * LOG2E, total, mean.to(call.hidden.dtype)))
    base, total, mean = (torch.cat(parts) for parts in zip(*found, strict=True))
    return base, total, mean


def _scores(call: FullCall) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Tokens, their vectors [C, D], their scores [C, n] and which have an own target: some tokens at a time."""
    dtype = sum_dtype(call.hidden, call.weight, call.bias)
    weight = as_multiplied(call.weight, call.hidden).to(dtype)
    size = max(1, _CHUNK_ELEMENTS // weight.shape[0])
    for start in range(0, call.hidden.shape[0], size):
        tokens = slice(start, start + size)
        h = call.hidden[tokens].to(dtype)
        scores = h @ weight.T
        if call.bias is not None:
            scores += call.bias.to(dtype)
        if call.softcap is not None:
            scores = call.softcap * torch.tanh(scores / call.softcap)
        if call.temperature != 1.0:
            scores /= call.temperature
        yield tokens, h, scores, (call.targets[tokens] >= 0).nonzero().squeeze(1)


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
    unwritten = FullOutputs(*[hidden.new_empty(1, dtype=torch.float32)] * 6)._replace(predicted=None)
    sums, bases, vectors, *_ = launch_splits(call, unwritten, tiles, splits, sharded=True)
    base = bases.amax(0)
    shares = torch.exp2(bases - base)
    total = (shares * sums).sum(0)
    out = vectors[0] if shares.shape[0] == 1 else weighted_sum(shares, vectors)
    mean = torch.div(out, total.clamp(min=torch.finfo(total.dtype).tiny)[:, None], out=torch.empty_like(hidden))
    return base, total, mean


def merge(parts: Partial, targets: Tensor, ignore_index: int, num_items: int, softcap: float | None) -> Merged:
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
    # Not `lse - score`: lse is rounded at the size of the scores.
    loss = torch.where(total < own, torch.log1p(total / own), (z.log2() - (target2 - top)) * _LN2)
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


def weight_gradient(call: FullCall, lse2: Tensor, pull: Tensor, grad: Tensor, *, use_triton: bool) -> RowGradients:
    """DW and db of the rows of a call of all tokens [N], from `Merged.shift`, `Merged.pull` and the upstream gradient.

    `grad` is [N], or a scalar for all tokens.
    """
    hidden, weight, bias = call.hidden, call.weight, call.bias
    if 0 in (hidden.shape[0], weight.shape[0]):
        return torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
    if call.temperature != 1.0:
        grad = grad / call.temperature
    grad = torch.where(lse2 == torch.inf, 0, grad) if grad.dim() or not use_triton else grad
    if not use_triton:
        return _reference_gradient(call, lse2, pull, grad)
    from cce_kernels.full.kernels.backward import launch_backward

    num_items, dim = weight.shape
    _, tiles = tuning.full_tiles(hidden.device, hidden.dtype, dim)
    programs, streamed = -(-num_items // tiles.block_v), -(-hidden.shape[0] // tiles.block_m)
    splits = tuning.full_splits(hidden.device, programs, streamed, tiles.num_warps, 4 * num_items * dim)
    return launch_backward(call, lse2, pull * grad if grad.dim() else pull, grad, tiles, splits)


def _reference_gradient(call: FullCall, lse2: Tensor, pull: Tensor, grad: Tensor) -> RowGradients:
    weight, bias = call.weight, call.bias
    dtype = sum_dtype(call.hidden, weight, bias)
    d_weight = torch.zeros_like(weight, dtype=dtype)
    d_bias = torch.zeros(weight.shape[0], dtype=dtype, device=weight.device)
    for tokens, h, scores, own in _scores(call):
        p = torch.exp(scores - lse2[tokens, None] / LOG2E)
        if call.softcap is not None:
            p *= 1 - (scores / (call.softcap / call.temperature)) ** 2
        p[own, call.targets[tokens][own]] = -pull[tokens][own]
        p = torch.where(lse2[tokens, None] == torch.inf, 0, p * grad[tokens, None])
        d_weight.addmm_(p.T, h)
        d_bias += p.sum(0)
    return d_weight.to(weight.dtype), None if bias is None else d_bias.to(bias.dtype)


class ShardedFull(ShardedLoss):
    """A call of the full loss over sharded rows."""

    def __init__(
        self, shard: Shard, targets: Tensor, ignore_index: int, softcap: float | None, temperature: float,
        filter_eps: float | None, use_triton: bool,
    ) -> None:  # fmt: skip
        super().__init__(shard, targets, ignore_index)
        self.softcap, self.temperature, self.filter_eps = softcap, temperature, filter_eps
        self.use_triton = use_triton

    def of_all(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> FullCall:
        """A call of the tokens [P M] of all processes, whose targets are own rows or -1."""
        targets = self.shard.gather(self.targets).flatten()
        rows = torch.where(targets == self.ignore_index, ELSEWHERE, self.shard.rows.local(targets))
        flat = hidden.flatten(0, 1)
        return FullCall(
            flat, weight, bias, rows, self.ignore_index, self.softcap, self.temperature, self.filter_eps, True
        )

    def partial(self, call: FullCall) -> Partial:
        """Results [P, M] over the own rows."""
        ranks = self.shard.rows.ranks
        return Partial(*(x.view(ranks, -1, *x.shape[1:]) for x in partial(call, use_triton=self.use_triton)))

    def merge(self, parts: Partial) -> Merged:
        """See the head of this file."""
        softcap = None if self.softcap is None else self.softcap / self.temperature
        if self.use_triton and self.targets.numel():
            from cce_kernels.sharded.kernels.tokens import launch_merge

            merged = launch_merge(parts, self.targets, self.ignore_index, self.shard.num_items, softcap=softcap)
        else:
            merged = merge(parts, self.targets, self.ignore_index, self.shard.num_items, softcap)
        return merged if self.temperature == 1.0 else merged._replace(dhidden=merged.dhidden / self.temperature)

    def weight_gradient(self, call: FullCall, shift: Tensor, pull: Tensor, grad: Tensor) -> RowGradients:
        """DW and db of the own rows."""
        flat = grad.flatten() if grad.dim() else grad
        return weight_gradient(call, shift.flatten(), pull.flatten(), flat, use_triton=self.use_triton)
