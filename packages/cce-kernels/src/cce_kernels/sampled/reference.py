"""The sampled losses in eager torch: the specification, and the CPU path.

Softmax: `L = softplus(z)`, `z = logsumexp_n s'_n - s_t`, over the negatives n that differ from the target; corrected
scores `s'_n = s_n + log((V - 1) / N_m)`, or `s_n - log q_n + log(1 - q_t) - log N_m`, with N_m = negatives left.
Gradient: `dL/ds_n = p_n = softmax(s')_n sigma(z)`, `dL/ds_t = -sigma(z)`: no difference of near-equal numbers.

Pointwise: `L = c (beta softplus(-s_t) + sum_n softplus(s_n))`, `dL/ds_n = c sigma(s_n)`,
`dL/ds_t = -c beta sigma(-s_t)`.

Groups of tokens that share negatives are worked on in chunks: rows [C, N, D] and scores [C, T, N] are bounded.
torch.compile sees two custom operators, as in reference.py, and for the same reason.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from cce_kernels.autograd import first_order
from cce_kernels.full.reference import as_multiplied, compute_dtype
from cce_kernels.reduction import masks, sparse_rows
from cce_kernels.sampled.call import CALL_SCHEMA, NUM_TENSORS, Call, call_of
from cce_kernels.sampled.draws import Draw, Groups, draw_ids
from cce_kernels.sampled.objectives import Objective


# Sums of the rows that share an id, in an order that is always the same, in plain torch.
#
# `index_add_` adds with atomics on CUDA: the order of its sums differs from run to run. Here rows are sorted by id (a
# stable sort), and neighbours with the same id are added in pairs, pairs of pairs, and so on: every round writes each
# row
# at most once.
def sums_by_id(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Add up the rows of each id; synchronises once a round, of which there are log2 of the most rows of an id.

    Args:
        ids: int64 [R].
        rows: [R, D].

    Returns:
        The ids that occur, ascending [U], and their sums [U, D].
    """
    ids, order = torch.sort(ids, stable=True)
    rows = rows.index_select(0, order)
    places = torch.arange(ids.numel(), device=ids.device)
    begins = torch.cat((ids.new_ones(1), (ids[1:] != ids[:-1]).to(ids.dtype)))[: ids.numel()]
    rank = places - torch.where(begins > 0, places, 0).cummax(0).values if ids.numel() else places
    while True:
        is_second = rank % 2 == 1
        second = is_second.nonzero().squeeze(1)
        if second.numel() == 0:
            return ids, rows
        rows = rows.index_copy(0, second - 1, rows.index_select(0, second - 1) + rows.index_select(0, second))
        first = (~is_second).nonzero().squeeze(1)
        ids, rows, rank = ids[first], rows.index_select(0, first), rank[first] // 2


_CHUNK_ELEMENTS = 1 << 21


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
    objective: Objective,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    deterministic: bool = False,
    sparse_grad: bool = False,
) -> Tensor:
    """Loss of every token.

    Args:
        hidden: [M, D].
        weight: [V, D].
        targets: int64 [M]; `ignore_index` gives loss 0, any other id outside [0, V) gives NaN.
        draw: what is drawn.
        objective: what is summed.
        bias: [V] or None.
        ignore_index: the target of tokens that do not count.
        deterministic: add up the rows of an item in a fixed order (segment_sums.py), which takes longer.
        sparse_grad: return weight's (and bias's) gradient as a sparse tensor of the rows touched.

    Returns:
        loss [M], fp32 or float64.
    """
    if torch.compiler.is_compiling() and not sparse_grad:
        call = call_of(hidden, weight.contiguous(), bias, targets, draw, objective, ignore_index)
        loss: Tensor = reference_sampled_forward(*call, deterministic)
        return loss
    call = call_of(hidden, weight, bias, targets, draw, objective, ignore_index)
    return _Sampled.apply(sparse_grad, *call, deterministic)  # type: ignore[no-any-return, no-untyped-call]


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

    def __init__(self, call: Call) -> None:
        hidden, weight, bias, targets, draw = call.hidden, call.weight, call.bias, call.targets, call.draw
        self.dtype = compute_dtype(hidden, weight, bias)
        self.weight, self.bias, self.draw, self.terms = weight, bias, draw, call.terms
        self.num_items, self.num_tokens = weight.shape[0], hidden.shape[0]
        self.valid, self.bad, safe = masks(targets, call.ignore_index, self.num_items)
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


def forward(*arguments: Any) -> Tensor:
    """Loss of every token [M].

    Args:
        *arguments: the fields of `Call`, then `deterministic` (which backward reads).
    """
    *fields, _ = arguments
    call = Call(*fields)
    batch, terms = _Batch(call), call.terms
    grouped = batch.targets.new_zeros(batch.targets.shape, dtype=batch.dtype)  # [G, T]
    for part in batch.chunks:
        chunk, target_scores = batch.chunk(part), batch.target_scores(part)
        if terms.softmax:
            z = batch.log_ratio(part, chunk.scores.logsumexp(2), chunk.left, target_scores)
            grouped[part] = torch.logaddexp(z, torch.zeros_like(z))
        else:
            pointwise = terms.positive_weight * softplus(-target_scores) + softplus(chunk.scores).sum(2)
            grouped[part] = pointwise * terms.scale
    loss = _ungrouped(grouped, call.groups, batch.num_tokens)
    return torch.where(batch.valid, loss, 0).masked_fill_(batch.bad, torch.nan)


def _gradients(
    grad_loss: Tensor, call: Call, deterministic: bool, sparse: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of hidden [M, D], weight [V, D] and bias [V] or None, each in the dtype of its tensor."""
    batch, terms = _Batch(call), call.terms
    grad = _grouped(torch.where(batch.valid, grad_loss.to(batch.dtype), 0), call.groups)
    counted = _grouped(batch.valid, call.groups)  # [G, T]
    grad_hidden = torch.zeros_like(batch.hidden, dtype=batch.dtype)
    sink = _WeightSink(call.weight, call.bias, batch.dtype, deterministic, sparse)
    for part in batch.chunks:
        chunk, target_scores = batch.chunk(part), batch.target_scores(part)
        if terms.softmax:
            lse = chunk.scores.logsumexp(2)
            out = torch.sigmoid(batch.log_ratio(part, lse, chunk.left, target_scores))
            finite_lse = torch.where(lse == -torch.inf, 0, lse)  # nothing left, or all that is left at -inf
            coefficient = torch.exp(chunk.scores - finite_lse[..., None]) * (out * grad[part])[..., None]
            pull = out * grad[part]
        else:
            coefficient = torch.sigmoid(chunk.scores) * (terms.scale * grad[part])[..., None]
            pull = torch.sigmoid(-target_scores) * (terms.scale * terms.positive_weight) * grad[part]
        # coefficient [C, T, N] of the negatives, -pull [C, T] of the target
        grad_hidden[part] = torch.bmm(coefficient, chunk.rows) - pull[..., None] * batch.target_rows(part)
        sink.add(chunk.ids, torch.bmm(coefficient.transpose(1, 2), chunk.h), coefficient)
        sink.add(batch.targets[part], -pull[..., None] * chunk.h, -pull[:, None, :], counted[part])
    d_hidden = _ungrouped(grad_hidden, call.groups, batch.num_tokens).to(call.hidden.dtype)
    return d_hidden.masked_fill(batch.bad[:, None], torch.nan), *sink.gradients()


def backward(grad_loss: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Dense gradients of hidden, weight and bias (empty without one).

    Args:
        grad_loss: upstream gradient [M].
        *arguments: the fields of `Call`, then `deterministic`.
    """
    *fields, deterministic = arguments
    d_hidden, d_weight, d_bias = _gradients(grad_loss, Call(*fields), deterministic, sparse=False)
    return d_hidden, d_weight, grad_loss.new_empty(0) if d_bias is None else d_bias


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sparse: bool, *inputs: Any) -> Tensor:
        _setup(ctx, inputs, None)
        ctx.sparse = sparse
        return forward(*inputs)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 16
        call = Call(*ctx.saved_tensors, *ctx.options)
        return None, *_gradients(grad, call, ctx.deterministic, ctx.sparse), *(None,) * 12


class _WeightSink:
    """Collects rows of the gradients of weight and bias, dense or sparse."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, deterministic: bool, sparse: bool
    ) -> None:
        self.weight, self.bias, self.dtype = weight, bias, dtype
        self.deterministic, self.sparse = deterministic, sparse
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
            self.rows.append(self.merged(ids, rows, scalars))
            return
        if self.deterministic:  # of every id one row is left: nothing depends on the order of what follows
            ids, rows, scalars = self.merged(ids, rows, scalars)
        self.grad_weight.index_add_(0, ids, rows)
        if self.grad_bias is not None:
            self.grad_bias.index_add_(0, ids, scalars)

    def merged(self, ids: Tensor, rows: Tensor, scalars: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The ids that occur, ascending [U], and the sums of the rows [R, D] and scalars [R] of each."""
        if self.deterministic:
            unique, sums = sums_by_id(ids, torch.cat((rows, scalars[:, None]), 1))
            return unique, sums[:, :-1], sums[:, -1]
        unique, inverse = torch.unique(ids, return_inverse=True)
        merged = rows.new_zeros(unique.numel(), rows.shape[1]).index_add_(0, inverse, rows)
        return unique, merged, scalars.new_zeros(unique.numel()).index_add_(0, inverse, scalars)

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Gradients in the dtypes of weight and bias."""
        if not self.sparse:
            d_bias = None if self.bias is None or self.grad_bias is None else self.grad_bias.to(self.bias.dtype)
            return self.grad_weight.to(self.weight.dtype), d_bias
        width = self.weight.shape[1]
        nothing = self.weight.new_zeros(0, width, dtype=self.dtype)
        parts = [(nothing.new_zeros(0, dtype=torch.int64), nothing, nothing.new_zeros(0)), *self.rows]
        ids, rows, scalars = self.merged(*(torch.cat(column) for column in zip(*parts, strict=True)))
        d_bias = None if self.bias is None else sparse_rows(ids, scalars, self.bias)
        return sparse_rows(ids, rows, self.weight), d_bias


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor | None) -> None:
    *fields, deterministic = inputs
    ctx.save_for_backward(*fields[:NUM_TENSORS])
    ctx.options = fields[NUM_TENSORS:]
    ctx.deterministic = deterministic
    ctx.set_materialize_grads(False)


reference_sampled_forward = torch.library.custom_op(
    "cce_kernels::reference_sampled_forward",
    forward,
    mutates_args=(),
    schema=f"({CALL_SCHEMA}, bool deterministic) -> Tensor",
)
reference_sampled_backward = torch.library.custom_op(
    "cce_kernels::reference_sampled_backward",
    backward,
    mutates_args=(),
    schema=f"(Tensor grad, {CALL_SCHEMA}, bool deterministic) -> (Tensor, Tensor, Tensor)",
)


@reference_sampled_forward.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> Tensor:
    return hidden.new_empty(hidden.shape[0], dtype=compute_dtype(hidden, weight, bias))


@reference_sampled_backward.register_fake
def _(grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    d_bias = grad.new_empty(0) if bias is None else torch.empty_like(bias)
    return torch.empty_like(hidden), torch.empty_like(weight), d_bias


def _operator_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 15
    gradients = reference_sampled_backward(grad, *ctx.saved_tensors, *ctx.options, ctx.deterministic)
    wanted = (gradient if need else None for gradient, need in zip(gradients, ctx.needs_input_grad[:3], strict=True))
    return *wanted, *(None,) * 12


reference_sampled_forward.register_autograd(_operator_backward, setup_context=_setup)
