"""The sampled losses in eager torch: the specification, and the CPU path.

Softmax: `L = softplus(z)`, `z = logsumexp_n s'_n - s_t`, over the negatives n that differ from the target; corrected
scores `s'_n = s_n + log((V - 1) / N_m)`, or `s_n - log q_n + log(1 - q_t) - log N_m`, with N_m = negatives left.
Gradient: `dL/ds_n = p_n = softmax(s')_n sigma(z)`, `dL/ds_t = -sigma(z)`: no difference of near-equal numbers.

Pointwise: `L = c (beta softplus(-s_t) + sum_n softplus(s_n))`, `dL/ds_n = c sigma(s_n)`,
`dL/ds_t = -c beta sigma(-s_t)`.

Groups of tokens that share negatives are worked on in chunks: rows [C, N, D] and scores [C, T, N] are bounded.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from cce_kernels.draws import Groups, draw_ids
from cce_kernels.masking import masks, sparse_rows
from cce_kernels.objectives import Terms
from cce_kernels.reference import as_multiplied, compute_dtype
from cce_kernels.samplers import Source

_CHUNK_ELEMENTS = 1 << 21


class Draw(NamedTuple):
    """Everything that decides which ids are drawn."""

    source: Source
    seed: Tensor
    step: Tensor
    groups: Groups
    num_negatives: int


class _Chunk(NamedTuple):
    """Scores of the groups of one chunk: C groups of T tokens against their N negatives."""

    h: Tensor  # [C, T, D]
    ids: Tensor  # int64 [C, N]
    rows: Tensor  # [C, N, D]
    scores: Tensor  # [C, T, N], corrected by log q; -inf (softmax) where the negative is the target
    left: Tensor  # [C, T], negatives that are not the target


def sampled_linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    draw: Draw,
    terms: Terms,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    sparse_grad: bool = False,
) -> Tensor:
    """Loss of every token.

    Args:
        hidden: [M, D].
        weight: [V, D].
        targets: int64 [M]; `ignore_index` gives loss 0, any other id outside [0, V) gives NaN.
        draw: what is drawn.
        terms: the objective.
        bias: [V] or None.
        ignore_index: the target of tokens that do not count.
        sparse_grad: return weight's (and bias's) gradient as a sparse tensor of the rows touched.

    Returns:
        loss [M], fp32 or float64.
    """
    options = draw, terms, ignore_index, sparse_grad
    return _Sampled.apply(hidden, weight, bias, targets, options)  # type: ignore[no-any-return]


def _grouped(x: Tensor, groups: Groups) -> Tensor:
    """[M, ...] -> [G, T, ...], zero-padded before and after."""
    total = groups.number * groups.tokens
    if total == x.shape[0]:
        return x.reshape(groups.number, groups.tokens, *x.shape[1:])
    padded = x.new_zeros(total, *x.shape[1:])
    padded[groups.shift : groups.shift + x.shape[0]] = x
    return padded.reshape(groups.number, groups.tokens, *x.shape[1:])


def _ungrouped(x: Tensor, groups: Groups, num_tokens: int) -> Tensor:
    """The inverse of `_grouped`."""
    return x.flatten(0, 1)[groups.shift : groups.shift + num_tokens]


class _Batch:
    """One batch in groups, and its chunks."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        draw: Draw,
        terms: Terms,
        ignore: int,
    ) -> None:
        self.dtype = compute_dtype(hidden, weight, bias)
        self.weight, self.bias, self.draw, self.terms = weight, bias, draw, terms
        self.num_items, self.num_tokens = weight.shape[0], hidden.shape[0]
        self.valid, self.bad, safe = masks(targets, ignore, self.num_items)
        self.hidden = _grouped(hidden, draw.groups)  # [G, T, D]
        self.targets = _grouped(safe, draw.groups)  # [G, T]
        log_rest = draw.source.log_rest
        self.log_rest = None if log_rest is None else _grouped(log_rest.to(self.dtype), draw.groups)
        per_group = draw.num_negatives * max(hidden.shape[1], draw.groups.tokens)
        size = max(1, _CHUNK_ELEMENTS // per_group)
        self.chunks = [slice(i, min(i + size, draw.groups.number)) for i in range(0, draw.groups.number, size)]

    def chunk(self, part: slice) -> _Chunk:
        """Draw, gather and score."""
        draw = self.draw
        ids = draw_ids(draw.source, draw.seed, draw.step, draw.groups, part.start, part.stop, draw.num_negatives)
        h = self.hidden[part].to(self.dtype)
        rows = self.rows(ids)
        scores = torch.bmm(h, rows.transpose(1, 2))
        if self.bias is not None:
            scores += self.bias[ids].to(self.dtype)[:, None, :]
        if draw.source.log_q is not None:
            scores -= draw.source.log_q[ids].to(self.dtype)[:, None, :]
        hit = ids[:, None, :] == self.targets[part][:, :, None]
        scores.masked_fill_(hit, -torch.inf)
        return _Chunk(h, ids, rows, scores, draw.num_negatives - hit.sum(2, dtype=torch.int32))

    def rows(self, ids: Tensor) -> Tensor:
        """Rows of the item table [*ids.shape, D]; index_select is several times faster than indexing on a CPU."""
        rows = self.weight.index_select(0, ids.flatten())
        return as_multiplied(rows, self.hidden).view(*ids.shape, -1).to(self.dtype)

    def target_rows(self, part: slice) -> Tensor:
        """[C, T, D]."""
        return self.rows(self.targets[part])

    def target_scores(self, part: slice) -> Tensor:
        """[C, T]."""
        scores = (self.hidden[part].to(self.dtype) * self.target_rows(part)).sum(2)
        return scores if self.bias is None else scores + self.bias[self.targets[part]].to(self.dtype)

    def log_ratio(self, part: slice, lse: Tensor, left: Tensor, target_scores: Tensor) -> Tensor:
        """`z` of the softmax, [C, T]; -inf where no negative is left."""
        rest = math.log(max(self.num_items - 1, 1)) if self.log_rest is None else self.log_rest[part]
        return lse + rest - left.clamp(min=1).to(self.dtype).log() - target_scores


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        options: tuple[Draw, Terms, int, bool],
    ) -> Tensor:
        draw, terms, ignore_index, _ = options
        batch = _Batch(hidden, weight, bias, targets, draw, terms, ignore_index)
        grouped = batch.targets.new_zeros(batch.targets.shape, dtype=batch.dtype)  # [G, T]
        for part in batch.chunks:
            chunk, target_scores = batch.chunk(part), batch.target_scores(part)
            if terms.softmax:
                z = batch.log_ratio(part, chunk.scores.logsumexp(2), chunk.left, target_scores)
                grouped[part] = torch.logaddexp(z, torch.zeros_like(z))
            else:
                pointwise = terms.positive_weight * softplus(-target_scores) + softplus(chunk.scores).sum(2)
                grouped[part] = pointwise * terms.scale
        loss = _ungrouped(grouped, draw.groups, batch.num_tokens)
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.options = options
        return torch.where(batch.valid, loss, 0).masked_fill_(batch.bad, torch.nan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        draw, terms, ignore_index, sparse = ctx.options
        batch = _Batch(hidden, weight, bias, targets, draw, terms, ignore_index)
        grad = _grouped(torch.where(batch.valid, grad_loss.to(batch.dtype), 0), draw.groups)
        counted = _grouped(batch.valid, draw.groups)  # [G, T]
        grad_hidden = torch.zeros_like(batch.hidden, dtype=batch.dtype)
        sink = _WeightSink(weight, bias, batch.dtype, sparse)
        for part in batch.chunks:
            chunk, target_scores = batch.chunk(part), batch.target_scores(part)
            if terms.softmax:
                lse = chunk.scores.logsumexp(2)
                out = torch.sigmoid(batch.log_ratio(part, lse, chunk.left, target_scores))
                finite_lse = torch.where(chunk.left > 0, lse, 0)
                coefficient = torch.exp(chunk.scores - finite_lse[..., None]) * (out * grad[part])[..., None]
                pull = out * grad[part]
            else:
                coefficient = torch.sigmoid(chunk.scores) * (terms.scale * grad[part])[..., None]
                pull = torch.sigmoid(-target_scores) * (terms.scale * terms.positive_weight) * grad[part]
            # coefficient [C, T, N] of the negatives, -pull [C, T] of the target
            grad_hidden[part] = torch.bmm(coefficient, chunk.rows) - pull[..., None] * batch.target_rows(part)
            sink.add(chunk.ids, torch.bmm(coefficient.transpose(1, 2), chunk.h), coefficient)
            sink.add(batch.targets[part], -pull[..., None] * chunk.h, -pull[:, None, :], counted[part])
        d_hidden = _ungrouped(grad_hidden, draw.groups, batch.num_tokens).to(hidden.dtype)
        d_hidden = d_hidden.masked_fill(batch.bad[:, None], torch.nan)
        d_weight, d_bias = sink.gradients()
        return d_hidden, d_weight, d_bias, None, None


class _WeightSink:
    """Collects rows of the gradients of weight and bias, dense or sparse."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, sparse: bool) -> None:
        self.weight, self.bias, self.sparse, self.dtype = weight, bias, sparse, dtype
        self.rows: list[tuple[Tensor, Tensor, Tensor]] = []
        if not sparse:
            self.grad_weight = torch.zeros_like(weight, dtype=dtype)
            self.grad_bias = None if bias is None else torch.zeros_like(bias, dtype=dtype)

    def add(self, ids: Tensor, rows: Tensor, scalars: Tensor, keep: Tensor | None = None) -> None:
        """Add `rows` [C, N, D], and to the bias the sums over T of `scalars` [C, T, N], at `ids` [C, N].

        Where `keep` [C, N] is False the rows are zero, and a sparse gradient leaves them out.
        """
        ids, rows = ids.flatten(), rows.flatten(0, 1)
        scalars = scalars.sum(1).flatten() if self.bias is not None else rows.new_zeros(ids.shape)
        if self.sparse:
            if keep is not None:
                ids, rows, scalars = ids[keep.flatten()], rows[keep.flatten()], scalars[keep.flatten()]
            unique, inverse = torch.unique(ids, return_inverse=True)
            merged = rows.new_zeros(unique.numel(), rows.shape[1]).index_add_(0, inverse, rows)
            self.rows.append((unique, merged, scalars.new_zeros(unique.numel()).index_add_(0, inverse, scalars)))
            return
        self.grad_weight.index_add_(0, ids, rows)
        if self.grad_bias is not None:
            self.grad_bias.index_add_(0, ids, scalars)

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Gradients in the dtypes of weight and bias."""
        if not self.sparse:
            d_bias = None if self.bias is None or self.grad_bias is None else self.grad_bias.to(self.bias.dtype)
            return self.grad_weight.to(self.weight.dtype), d_bias
        ids = torch.cat([self.weight.new_zeros(0, dtype=torch.int64), *(part[0] for part in self.rows)])
        unique, inverse = torch.unique(ids, return_inverse=True)
        rows = self.weight.new_zeros(unique.numel(), self.weight.shape[1], dtype=self.dtype)
        scalars = rows.new_zeros(unique.numel())
        if self.rows:
            rows.index_add_(0, inverse, torch.cat([part[1] for part in self.rows]))
            scalars.index_add_(0, inverse, torch.cat([part[2] for part in self.rows]))
        d_bias = None if self.bias is None else sparse_rows(unique, scalars, self.bias)
        return sparse_rows(unique, rows, self.weight), d_bias
