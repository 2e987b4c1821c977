"""The sampled losses in eager torch: the specification, and the CPU path.

Softmax: `L = softplus(z)`, `z = logsumexp_n (s'_n - s_t)`, over the negatives n that differ from the target; corrected
scores `s'_n = s_n + log((V - 1) / N_m)`, or `s_n - log q_n + log(1 - q_t) - log N_m`, with N_m = negatives left.
Gradient: `dL/ds_n = p_n = softmax(s')_n sigma(z)`, `dL/ds_t = -sigma(z)`: no difference of near-equal numbers.
The log-sum-exp is `s_t + L`, with the gradient `p_n` and `1 - sigma(z)`.

Pointwise: `L = c (beta softplus(-s_t) + sum_n softplus(s_n))`, `dL/ds_n = c sigma(s_n)`,
`dL/ds_t = -c beta sigma(-s_t)`.

Groups of tokens that share negatives are computed in chunks: rows [C, N, D] and scores [C, T, N] are bounded.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cce_kernels.autograd import CustomLoss, Gradients
from cce_kernels.dtypes import as_multiplied, sum_dtype
from cce_kernels.reduction import masks
from cce_kernels.sampled.call import SampledCall
from cce_kernels.sampled.draws import Groups, draw_ids
from cce_kernels.sampled.row_sums import RowSums

_CHUNK_ELEMENTS = 1 << 21


def softplus(x: Tensor) -> Tensor:
    """`log(1 + e^x)`; torch's own leaves out `e^-x` from 20 on, which float64 holds up to 36."""
    return torch.nn.functional.softplus(x, threshold=40.0)


class _Chunk(NamedTuple):
    """Scores of the groups of one chunk: C groups of T tokens against their N negatives."""

    h: Tensor  # [C, T, D]
    ids: Tensor  # int64 [C, N]
    rows: Tensor  # [C, N, D]
    target_rows: Tensor  # [C, T, D]
    scores: Tensor  # [C, T, N], -inf where the negative is the target; for the softmax less s_t and log q
    target_scores: Tensor  # [C, T]
    left: Tensor  # [C, T], negatives that are not the target


def grouped(x: Tensor, groups: Groups) -> Tensor:
    """[M, ...] -> [G, T, ...], zero-padded before and after."""
    total = groups.number * groups.tokens
    if total == x.shape[0]:
        return x.reshape(groups.number, groups.tokens, *x.shape[1:])
    padded = x.new_zeros(total, *x.shape[1:])
    if isinstance(groups.shift, Tensor):
        padded.index_copy_(0, groups.shift + torch.arange(x.shape[0], device=x.device), x)
    else:
        padded[groups.shift : groups.shift + x.shape[0]] = x
    return padded.reshape(groups.number, groups.tokens, *x.shape[1:])


def ungrouped(x: Tensor, groups: Groups, num_tokens: int) -> Tensor:
    """The inverse of `grouped`."""
    if isinstance(groups.shift, Tensor):
        return x.flatten(0, 1).index_select(0, groups.shift + torch.arange(num_tokens, device=x.device))
    return x.flatten(0, 1)[groups.shift : groups.shift + num_tokens]


class _Batch:
    """One batch in groups, and its chunks."""

    def __init__(self, call: SampledCall) -> None:
        hidden, weight, bias, groups = call.hidden, call.weight, call.bias, call.groups
        self.call, self.groups = call, groups
        self.dtype = sum_dtype(hidden, weight, bias)
        self.valid, self.bad, safe = masks(call.targets, call.ignore_index, weight.shape[0])
        self.hidden = grouped(hidden, groups)  # [G, T, D]
        self.targets = grouped(safe, groups)  # [G, T]
        self.log_rest = None if call.log_rest is None else grouped(call.log_rest.to(self.dtype), groups)
        per_group = call.num_negatives * max(hidden.shape[1], groups.tokens)
        size = max(1, _CHUNK_ELEMENTS // per_group)
        self.chunks = [slice(i, min(i + size, groups.number)) for i in range(0, groups.number, size)]

    def chunk(self, part: slice) -> _Chunk:
        """Draw, gather and score."""
        call = self.call
        ids = draw_ids(call.source, call.seed, call.step, self.groups, part.start, part.stop, call.num_negatives)
        h, rows, targets = self.hidden[part].to(self.dtype), self.rows(ids), self.targets[part]
        target_rows = self.rows(targets)
        scores, target_scores = torch.bmm(h, rows.transpose(1, 2)), (h * target_rows).sum(2)
        if call.bias is not None:
            scores += call.bias[ids].to(self.dtype)[:, None, :]
            target_scores = target_scores + call.bias[targets].to(self.dtype)
        if call.terms.softmax and call.terms.scale != 1.0:
            scores, target_scores = scores * call.terms.scale, target_scores * call.terms.scale
        if call.terms.softmax:  # first, so that nothing is rounded at the size of the scores
            scores -= target_scores[..., None]
        if call.log_q is not None:
            scores -= call.log_q[ids].to(self.dtype)[:, None, :]
        hit = ids[:, None, :] == targets[:, :, None]
        scores.masked_fill_(hit, -torch.inf)
        left = call.num_negatives - hit.sum(2, dtype=torch.int32)
        return _Chunk(h, ids, rows, target_rows, scores, target_scores, left)

    def softmax(self, part: slice, chunk: _Chunk) -> tuple[Tensor, Tensor]:
        """Log-sum-exp of the scores and `z`, [C, T]; both -inf where no negative is left.

        `z` is NaN where the target's score is NaN or infinite: 0 would be a plausible loss.
        """
        lse = chunk.scores.logsumexp(2)
        rest = math.log(max(self.call.num_items - 1, 1)) if self.log_rest is None else self.log_rest[part]
        z = lse + rest - chunk.left.clamp(min=1).to(self.dtype).log()
        return lse, z.masked_fill_(~(chunk.target_scores < torch.inf), torch.nan)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the item table [*ids.shape, D]; index_select is several times faster than indexing on a CPU."""
        rows = self.call.weight.index_select(0, ids.flatten())
        return as_multiplied(rows, self.hidden).view(*ids.shape, -1).to(self.dtype)


def _empty_outputs(call: SampledCall) -> tuple[Tensor, Tensor | None]:
    hidden = call.hidden
    loss = hidden.new_empty(hidden.shape[0], dtype=sum_dtype(hidden, call.weight, call.bias))
    return loss, torch.empty_like(loss) if call.with_lse else None


def _forward(call: SampledCall) -> tuple[Tensor, Tensor | None]:
    """Loss of every token [M], and its log-sum-exp [M] where the call wants it."""
    batch, terms = _Batch(call), call.terms
    number = 2 if call.with_lse else 1
    shown = [batch.targets.new_zeros(batch.targets.shape, dtype=batch.dtype) for _ in range(number)]  # [G, T]
    for part in batch.chunks:
        chunk = batch.chunk(part)
        if terms.softmax:
            _, z = batch.softmax(part, chunk)
            shown[0][part] = torch.logaddexp(z, torch.zeros_like(z))
            if call.with_lse:
                shown[1][part] = chunk.target_scores + shown[0][part]
        else:
            pointwise = terms.positive_weight * softplus(-chunk.target_scores) + softplus(chunk.scores).sum(2)
            shown[0][part] = pointwise * terms.scale
    values = [ungrouped(x, batch.groups, call.hidden.shape[0]) for x in shown]
    loss, *lse = (torch.where(batch.valid, x, 0).masked_fill_(batch.bad, torch.nan) for x in values)
    return loss, lse[0] if lse else None


def _backward(
    grad_loss: Tensor, call: SampledCall, kept: Sequence[Tensor], with_hidden: bool, with_weight: bool,
    grad_lse: Tensor | None = None, *, sparse: bool = False,
) -> Gradients:  # fmt: skip
    """DH [M, D], dW [V, D] and db [V], each in the dtype of its tensor.

    With `c_mn = g_m dL/ds_n` of the negatives and `-pull_m = g_m dL/ds_t` of the target (formulas at the head), and
    with an upstream gradient e_m of the log-sum-exp, which is added to g_m and taken off `pull_m`:
    `dH_m = sum_n c_mn w_n - pull_m w_t`, `dW_n += c_mn h_m`, `dW_t -= pull_m h_m`, and db the same without h.
    """
    batch, terms = _Batch(call), call.terms
    total = grad_loss if grad_lse is None else grad_loss + grad_lse
    grad = grouped(torch.where(batch.valid, total.to(batch.dtype), 0), batch.groups)
    own = None if grad_lse is None else grouped(torch.where(batch.valid, grad_lse.to(batch.dtype), 0), batch.groups)
    counted = grouped(batch.valid, batch.groups)  # [G, T]
    d_hidden = torch.zeros_like(batch.hidden, dtype=batch.dtype)
    collected = RowSums(call.weight, call.bias, batch.dtype, call.deterministic, sparse)
    for part in batch.chunks:
        chunk = batch.chunk(part)
        if terms.softmax:
            lse, z = batch.softmax(part, chunk)
            out = torch.sigmoid(z) * terms.scale
            finite_lse = torch.where(lse == -torch.inf, 0, lse)  # no negative is left, or all at -inf
            coefficient = torch.exp(chunk.scores - finite_lse[..., None]) * (out * grad[part])[..., None]
            pull = out * grad[part] if own is None else out * grad[part] - terms.scale * own[part]
        else:
            coefficient = torch.sigmoid(chunk.scores) * (terms.scale * grad[part])[..., None]
            pull = torch.sigmoid(-chunk.target_scores) * (terms.scale * terms.positive_weight) * grad[part]
        if with_hidden:
            d_hidden[part] = torch.bmm(coefficient, chunk.rows) - pull[..., None] * chunk.target_rows
        if with_weight:
            collected.add(chunk.ids, torch.bmm(coefficient.transpose(1, 2), chunk.h), coefficient)
            collected.add(batch.targets[part], -pull[..., None] * chunk.h, -pull[:, None, :], counted[part])
    d_weight, d_bias = collected.gradients() if with_weight else (None, None)
    if not with_hidden:
        return None, d_weight, d_bias
    d_hidden = ungrouped(d_hidden, batch.groups, call.hidden.shape[0]).to(call.hidden.dtype)
    return d_hidden.masked_fill(batch.bad[:, None], torch.nan), d_weight, d_bias


sampled_reference = CustomLoss("reference_sampled", SampledCall, _forward, _backward, _empty_outputs, shown=2, kept=())
sparse_reference_backward = partial(_backward, sparse=True)
