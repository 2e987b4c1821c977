"""The sampled losses over sharded rows: partial results over own draws, and their merge.

Every process knows every draw, a function of (seed, step, row, slot), and works on those whose rows it has. With b_r
the base of the exponents, s' = s - log q and N_m = sum_r left_r negatives left,

    softmax:  T = sum_r e^(b_r - B) T_r,   z = B + log T + rest - log N_m - s_t,   loss = log(1 + e^z)
              pull = sigma(z) / tau,   shift = B + log T + log(1 + e^-z),   dL/ds'_n = e^(s'_n - shift)
              dH = sum_r pull (e^(b_r - B) T_r / T) a_r - pull w_t
    pointwise: loss = c (beta softplus(-s_t) + sum_r T_r),   pull = c beta sigma(-s_t),   dH = sum_r a_r - pull w_t

with `rest` = log(V - 1) or log(1 - q_t), and tau the temperature, by which all scores s are divided beforehand. A draw
that hits the target is its owner's, and is left out there. The row of a negative and log q are read where the row is;
an alias table is whole in every process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cce_kernels.dtypes import sum_dtype
from cce_kernels.reduction import masks
from cce_kernels.sampled.call import SampledCall, sampled_call
from cce_kernels.sampled.draws import as_counter, groups_of
from cce_kernels.sampled.objectives import Objective, Terms
from cce_kernels.sampled.samplers import Popularity, Sampler
from cce_kernels.sampled.tuning import SCRATCH_BYTES
from cce_kernels.sampled.validation import Sharing
from cce_kernels.shard import Shard
from cce_kernels.sharded import sampled_reference
from cce_kernels.sharded.autograd import RowGradients, ShardedLoss
from cce_kernels.sharded.merge import NOTHING, Merged, Partial, weighted_sum
from cce_kernels.sharded.targets import own_targets

SKIPPED = -2  # the row of the target of a token that does not count


class SampledOptions(NamedTuple):
    """Options of a call, beside those of every sharded loss."""

    sampler: Sampler
    objective: Objective
    seed: Tensor | int
    step: Tensor | int
    row_offset: Tensor | int
    num_negatives: int
    sharing: Sharing
    tile_tokens: int
    deterministic: bool
    use_triton: bool


class ShardedSampled(ShardedLoss):
    """A call of the sampled loss over sharded rows."""

    def __init__(self, shard: Shard, targets: Tensor, ignore_index: int, options: SampledOptions) -> None:
        super().__init__(shard, targets, ignore_index)
        self.options = options
        self.log_rest: Tensor | None = None  # [M] of the own tokens
        self.weight_dtype = torch.float32

    def of_all(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> SampledCall:
        """A call of hidden [P, M, D] whose targets [P, M] are own rows, and whose row offsets are [P]."""
        options, rows, device = self.options, self.shard.rows, hidden.device
        offset = as_counter(options.row_offset, device)
        sent = self.shard.gather(torch.cat((self.targets, offset[None])))
        targets, offsets = sent[:, :-1], sent[:, -1]
        by_place = options.sharing != "batch"  # else all rows draw the same
        groups = groups_of(targets.shape[1], options.sharing, options.tile_tokens, offsets if by_place else 0)
        call = sampled_call(
            hidden, weight, bias, targets, options.sampler, options.objective, options.seed, options.step,
            num_negatives=options.num_negatives, groups=groups, ignore_index=self.ignore_index,
            deterministic=options.deterministic, row_offset=offsets if by_place else None, num_items=rows.num_items,
        )  # fmt: skip
        if call.log_rest is not None:
            self.log_rest = call.log_rest.view(targets.shape)[rows.rank]
        log_q = call.log_q
        if log_q is not None:
            sampler = options.sampler
            log_q = sampler.own_log_q(rows, device) if isinstance(sampler, Popularity) else rows.of(log_q)
        valid, _, _ = masks(targets, self.ignore_index, rows.num_items)
        own_rows = torch.where(valid, rows.local(targets), SKIPPED)
        call = call._replace(targets=own_rows, ignore_index=SKIPPED, log_q=log_q, log_rest=None, with_dhidden=True)
        self.weight_dtype = weight.dtype
        if options.use_triton:
            from cce_kernels.sharded.sampled_triton import narrow

            return narrow(call)  # once for both passes
        return call

    def partial(self, call: SampledCall) -> Partial:
        """Results [P, M] over the own draws of the tokens of every process."""
        hidden, weight = call.hidden, call.weight
        dtype = sum_dtype(hidden, weight, call.bias)
        flat = hidden.flatten(0, 1)
        use_triton = self.options.use_triton
        score, row = own_targets(flat, weight, call.bias, call.targets.flatten(), use_triton=use_triton)
        if call.terms.softmax and call.terms.scale != 1.0:
            score *= call.terms.scale
        base, total, left = (hidden.new_zeros(hidden.shape[:2], dtype=dtype) for _ in range(3))
        mean = torch.zeros_like(hidden)
        if weight.shape[0] == 0:
            base.fill_(NOTHING)
        elif use_triton:
            from cce_kernels.sharded.sampled_triton import write_sums

            for q, tokens, part in self._parts(call):
                write_sums(part, base[q, tokens], total[q, tokens], left[q, tokens], mean[q, tokens])
        else:
            for q, tokens, part in self._parts(call):
                sums = sampled_reference.sums(part)
                for out, found in zip((base, total, left, mean), sums, strict=True):
                    out[q, tokens] = found
        return Partial(base, total, left, score.view(base.shape), mean, row.view(hidden.shape))

    def merge(self, parts: Partial) -> Merged:
        """See the head of this file."""
        options, num_items = self.options, self.shard.rows.num_items
        terms: Terms = options.objective.terms(options.num_negatives, num_items)
        if options.use_triton and self.targets.numel():
            from cce_kernels.sharded.kernels.tokens import launch_merge

            constant = math.log(max(num_items - 1, 1))
            uncorrected = constant if self.log_rest is None else self.log_rest.contiguous()
            merged = launch_merge(parts, self.targets, self.ignore_index, num_items, terms=terms, rest=uncorrected)
            return merged.scaled(terms.scale) if terms.softmax and terms.scale != 1.0 else merged
        valid, bad, _ = masks(self.targets, self.ignore_index, num_items)
        score = parts.target_score.sum(0)  # all but one are 0
        total = parts.total.sum(0)
        if terms.softmax:
            top = parts.base.amax(0)
            shares = torch.exp(parts.base - top) * parts.total
            total = shares.sum(0)
            rest = math.log(max(num_items - 1, 1)) if self.log_rest is None else self.log_rest.to(score.dtype)
            # The difference first, so that nothing else is rounded at the size of the scores.
            z = (top - score) + total.log() + rest - parts.left.sum(0).clamp(min=1).log()
            z = z + (score - score)  # NaN where the target's score is no finite number: 0 would be a plausible loss
            loss, pull = _log1p_exp(z), torch.sigmoid(z) * terms.scale
            shift = torch.where(total != 0, top + (total.log() + _log1p_exp(-z)), torch.inf)
            shares = shares * torch.where(total != 0, pull / total, 0)
        else:
            loss = terms.scale * (terms.positive_weight * _log1p_exp(-score) + total)
            pull = terms.scale * terms.positive_weight * torch.sigmoid(-score)
            shift, shares = torch.zeros_like(score), torch.ones_like(parts.total)
        dhidden = weighted_sum(shares, parts.mean) - pull[:, None] * parts.target_row.sum(0)
        return Merged(
            torch.where(valid, loss, 0).masked_fill_(bad, torch.nan),
            loss.new_empty(0),
            torch.where(valid, shift, torch.inf if terms.softmax else 0),
            torch.where(valid, pull, 0),
            torch.where(valid[:, None], dhidden, 0).masked_fill_(bad[:, None], torch.nan),
        )

    def weight_gradient(self, call: SampledCall, shift: Tensor, pull: Tensor, grad: Tensor) -> RowGradients:
        """DW and db of the own rows, from the own draws of the tokens of every process and from their targets."""
        weight, bias = call.weight, call.bias
        dtype = sum_dtype(call.hidden, weight, bias)
        d_weight = torch.zeros_like(weight, dtype=dtype)
        d_bias = None if bias is None else torch.zeros_like(bias, dtype=dtype)
        if weight.shape[0]:
            if self.options.use_triton:
                from cce_kernels.sharded.sampled_triton import add_gradient
            else:
                add_gradient = sampled_reference.add_gradient
            for q, tokens, part in self._parts(call):
                upstream = grad if grad.dim() == 0 else grad[q, tokens]
                add_gradient(part, shift[q, tokens], pull[q, tokens], upstream, d_weight, d_bias)
        return d_weight.to(self.weight_dtype), d_bias if d_bias is None or bias is None else d_bias.to(bias.dtype)

    def _parts(self, call: SampledCall) -> Iterator[tuple[int, slice, SampledCall]]:
        """The tokens of each process, with the ids that they draw among the own rows in the place of the sampler.

        Negatives per token are drawn for a chunk of tokens at a time: their ids are stored.
        """
        num_tokens, rows = call.hidden.shape[1], self.shard.rows
        size = num_tokens if call.group_tokens > 1 else max(1, SCRATCH_BYTES // (4 * call.num_negatives))
        for q in range(rows.ranks):
            for start in range(0, num_tokens, max(1, size)):
                tokens = slice(start, min(start + size, num_tokens))
                number = tokens.stop - start if call.group_tokens == 1 else call.num_groups
                part = call._replace(
                    hidden=call.hidden[q, tokens], targets=call.targets[q, tokens], num_groups=number,
                    row_offset=None if call.row_offset is None else call.row_offset[q] + start,
                )  # fmt: skip
                if self.options.use_triton:
                    from cce_kernels.sharded.kernels.own_draws import pack_own_draws

                    ids, counts = pack_own_draws(part, rows)
                else:
                    ids, counts = sampled_reference.own_draws(part, rows), None
                yield (
                    q,
                    tokens,
                    part._replace(
                        id_table=ids, own_counts=counts, size=call.num_negatives, size_tensor=None, alias=False
                    ),
                )


def _log1p_exp(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))
