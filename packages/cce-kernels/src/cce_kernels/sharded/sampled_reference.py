"""The sampled losses over sharded rows in eager torch: sums over own draws, and the gradient of own rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cce_kernels.dtypes import as_multiplied, sum_dtype
from cce_kernels.sampled.call import SampledCall
from cce_kernels.sampled.draws import draw_ids
from cce_kernels.sampled.reference import grouped, ungrouped
from cce_kernels.shard import Rows
from cce_kernels.sharded.merge import NOTHING

_CHUNK_ELEMENTS = 1 << 21


def own_draws(call: SampledCall, rows: Rows) -> Tensor:
    """Rows int64 [G, N] that the groups of a call draw, -1 where another process has the row."""
    ids = draw_ids(call.source, call.seed, call.step, call.groups, 0, call.num_groups, call.num_negatives)
    return rows.local(ids)


class _Chunk(NamedTuple):
    h: Tensor  # [C, T, D]
    ids: Tensor  # int64 [C, N], rows that are safe as an index
    rows: Tensor  # [C, N, D]
    targets: Tensor  # int64 [C, T], own rows or negative
    scores: Tensor  # [C, T, N], divided by the temperature and corrected by log q
    kept: Tensor  # [C, T, N]: the row is own and not the target


def _chunks(call: SampledCall) -> Iterator[tuple[slice, _Chunk]]:
    """The groups of a call whose `id_table` has the rows that they draw, -1 where there is none, a few at a time."""
    dtype = sum_dtype(call.hidden, call.weight, call.bias)
    hidden, targets = grouped(call.hidden, call.groups), grouped(call.targets, call.groups)
    assert call.id_table is not None
    size = max(1, _CHUNK_ELEMENTS // (call.num_negatives * max(hidden.shape[2], call.group_tokens)))
    for start in range(0, call.num_groups, size):
        part = slice(start, min(start + size, call.num_groups))
        drawn = call.id_table[part]
        ids, target = drawn.clamp(min=0), targets[part]
        h = hidden[part].to(dtype)
        rows = as_multiplied(call.weight.index_select(0, ids.flatten()), call.hidden)
        rows = rows.view(*ids.shape, -1).to(dtype)
        scores = torch.bmm(h, rows.transpose(1, 2))
        if call.bias is not None:
            scores += call.bias[ids].to(dtype)[:, None, :]
        if call.terms.softmax and call.terms.scale != 1.0:
            scores *= call.terms.scale
        if call.log_q is not None:
            scores -= call.log_q[ids].to(dtype)[:, None, :]
        kept = (drawn >= 0)[:, None, :] & (drawn[:, None, :] != target[:, :, None])
        yield part, _Chunk(h, ids, rows, target, scores, kept)


def sums(call: SampledCall) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Base, T and negatives left [M], and a [M, D] in hidden's dtype: see `cce_kernels.sharded.merge.Partial`."""
    groups, terms = call.groups, call.terms
    shape, dtype = (groups.number, groups.tokens), sum_dtype(call.hidden, call.weight, call.bias)
    base, total, left = (call.hidden.new_zeros(shape, dtype=dtype) for _ in range(3))
    mean = call.hidden.new_zeros(*shape, call.hidden.shape[1], dtype=dtype)
    for part, chunk in _chunks(call):
        left[part] = chunk.kept.sum(2).to(dtype)
        if terms.softmax:
            scores = chunk.scores.masked_fill(~chunk.kept, -torch.inf)
            top = scores.amax(2)
            top = torch.where(top == -torch.inf, NOTHING, top)
            shares = torch.exp(scores - top[..., None])
            base[part], total[part] = top, shares.sum(2)
            shares = shares / total[part].clamp(min=torch.finfo(dtype).tiny)[..., None]
        else:
            total[part] = torch.where(chunk.kept, torch.logaddexp(chunk.scores, torch.zeros_like(chunk.scores)), 0).sum(
                2
            )
            shares = torch.where(chunk.kept, torch.sigmoid(chunk.scores) * terms.scale, 0)
        mean[part] = torch.bmm(shares, chunk.rows)
    return tuple(ungrouped(x, groups, call.hidden.shape[0]) for x in (base, total, left, mean))  # type: ignore[return-value]


def add_gradient(
    call: SampledCall, shift: Tensor, pull: Tensor, grad: Tensor, d_weight: Tensor, d_bias: Tensor | None
) -> None:
    """Add the gradient of the own rows, from numbers [M] of `Merged` and the upstream gradient, [M] or a scalar."""
    groups, terms, dtype = call.groups, call.terms, d_weight.dtype
    counted = call.targets != call.ignore_index
    factor = grouped(torch.where(counted, grad, 0).to(dtype), groups)  # 0 outside the batch as well
    shifts, pulls = grouped(shift.to(dtype), groups), grouped(pull.to(dtype), groups) * factor
    for part, chunk in _chunks(call):
        if terms.softmax:
            slopes = torch.exp(chunk.scores - shifts[part][..., None]) * terms.scale
        else:
            slopes = torch.sigmoid(chunk.scores) * terms.scale
        counts = chunk.kept & (factor[part] != 0)[..., None]
        slopes = torch.where(counts, slopes * factor[part][..., None], 0)
        own = torch.where(chunk.targets >= 0, -pulls[part], 0)  # [C, T]
        ids = torch.cat((chunk.ids, chunk.targets.clamp(min=0)), 1).flatten()
        rows = torch.cat((torch.bmm(slopes.transpose(1, 2), chunk.h), own[..., None] * chunk.h), 1)
        d_weight.index_add_(0, ids, rows.flatten(0, 1))
        if d_bias is not None:
            d_bias.index_add_(0, ids, torch.cat((slopes.sum(1), own), 1).flatten())
