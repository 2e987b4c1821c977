"""The sampled losses in Triton: the way in, and gradients that hold only the rows touched."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cce_kernels.autograd import first_order
from cce_kernels.kernels.mean_loss import launch_mean
from cce_kernels.reduction import masks, reduce_loss, scale_rows, sparse_rows, upstream_of
from cce_kernels.sampled import tuning
from cce_kernels.sampled.call import CALL_SCHEMA, NUM_TENSORS, Call, call_of
from cce_kernels.sampled.draws import Draw
from cce_kernels.sampled.kernels.per_token_backward import launch_none_backward
from cce_kernels.sampled.kernels.per_token_forward import launch_none_forward
from cce_kernels.sampled.kernels.shared_backward import launch_tile_backward, launch_tile_rows
from cce_kernels.sampled.kernels.shared_forward import launch_tile_forward
from cce_kernels.sampled.kernels.state import SampledState, WeightGradient, copy_pays
from cce_kernels.sampled.kernels.sum_by_item import launch_mark_items, launch_sum_rows, launch_token_keys, sort_draws
from cce_kernels.sampled.objectives import Objective


# Custom operators of the sampled losses: what torch.compile sees as one opaque node, forward and backward.
#
# Forward leaves loss, dH without the upstream gradient, and two numbers a token; backward draws the same ids again.
# Neither looks at the device from the host: no synchronisation, and a CUDA graph can hold them.
def state_of(call: Call, table: Tensor, shift: Tensor, pull: Tensor) -> SampledState:
    """What the kernels are handed of a call; `table` is the weight or its copy in hidden's dtype."""
    return SampledState(
        call.hidden, table, call.bias, call.targets, shift, pull, call.seed, call.step, call.sizes[0], call.size,
        call.table, call.alias, call.log_q, call.log_rest, call.groups, call.num_negatives, call.ignore_index,
        call.terms,
    )  # fmt: skip


def keeps_copy(call: Call, with_grad: bool) -> bool:
    """Whether forward makes a 16-bit copy of the table and leaves it to backward.

    With shared negatives backward gathers rows again; with sets of their own it reads a row once an item.
    """
    groups = call.groups
    rows_read = groups.number * call.num_negatives * 2
    return groups.tokens > 1 and with_grad and copy_pays(call.weight, call.hidden, rows_read)


_KEPT = "Tensor dhidden, Tensor shift, Tensor pull, Tensor copied"


def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss fp32 [M], unscaled dH [M, D] (or empty), shift and pull fp32 [M], copy of the table (or empty).

    Args:
        *arguments: the fields of `Call`, then `with_grad` and `deterministic` (which backward reads).
    """
    *fields, with_grad, _ = arguments
    call = Call(*fields)
    hidden, weight = call.hidden, call.weight
    loss, shift, pull = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(3))
    dhidden = torch.empty_like(hidden) if with_grad else hidden.new_empty(0)
    state = state_of(call, weight, shift, pull)
    shared = state.groups.tokens > 1
    kept = keeps_copy(call, with_grad)
    if kept or copy_pays(weight, hidden, state.groups.number * state.num_negatives):
        state = replace(state, weight=weight.to(hidden.dtype))
    rest = math.log(max(weight.shape[0] - 1, 1))
    out = dhidden if with_grad else None
    if shared:
        tiles, _ = tuning.tile_tiles(hidden.device, hidden.dtype, hidden.shape[1], state.groups.tokens)
        launch_tile_forward(state, loss, out, rest, tiles)
    else:
        gather, _ = tuning.gather_tiles(hidden.shape[1])
        launch_none_forward(state, loss, out, rest, gather)
    return loss, dhidden, shift, pull, state.weight if kept else hidden.new_empty(0)


def backward(
    grad: Tensor, dhidden: Tensor, shift: Tensor, pull: Tensor, copied: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden [M, D], weight [V, D] (or empty) and bias [V] (or empty).

    Args:
        grad: upstream gradient fp32, [M] or a scalar for all tokens.
        dhidden: as `forward` left it, and so are `shift`, `pull` and `copied`.
        shift: fp32 [M].
        pull: fp32 [M].
        copied: [V, D] or empty.
        *arguments: the fields of `Call`, then `with_weight` and `deterministic`.
    """
    *fields, with_weight, deterministic = arguments
    call = Call(*fields)
    weight, bias, nothing = call.weight, call.bias, grad.new_empty(0)
    grad = of_counted_tokens(grad, call)
    if not with_weight:
        return scale_rows(dhidden, grad), nothing, nothing
    into = WeightGradient(
        weight.new_zeros(weight.shape, dtype=torch.float32),
        None if bias is None else bias.new_zeros(bias.shape, dtype=torch.float32),
        None,
    )
    accumulate(state_of(call, copied if copied.numel() else weight, shift, pull), grad, into, deterministic)
    d_bias = nothing if bias is None or into.bias is None else into.bias.to(bias.dtype)
    # dH comes last: it takes the place of the scratch of the sums.
    return scale_rows(dhidden, grad), into.weight.to(weight.dtype), d_bias


def of_counted_tokens(grad: Tensor, call: Call) -> Tensor:
    """Whatever comes for an ignored token, it must not make a NaN. A scalar, or [M] dense: the kernels count on it."""
    return grad if grad.dim() == 0 else torch.where(call.targets == call.ignore_index, 0.0, grad)


def accumulate(state: SampledState, grad: Tensor, into: WeightGradient, deterministic: bool) -> None:
    """Add the gradients of weight and bias to `into`; `grad` as in `backward`."""
    width = state.hidden.shape[1]
    items, tokens = state.weight.shape[0], state.hidden.shape[0]
    _, gather = tuning.gather_tiles(width)
    if state.groups.tokens == 1:
        chunk = max(1, tuning.sort_chunk(items, width) // (state.num_negatives + 1))
        for first in range(0, tokens, chunk):
            _add_tokens(state, grad, first, min(chunk, tokens - first), into, gather)
        return
    _, tiles = tuning.tile_tiles(grad.device, state.hidden.dtype, width, state.groups.tokens)
    if not deterministic:
        launch_tile_backward(state, grad, into, tiles)
        return
    rows_per_group = tiles.parts(state.groups.tokens) * state.num_negatives
    chunk = max(1, tuning.scratch_chunk(items, width) // rows_per_group)
    for first in range(0, state.groups.number, chunk):
        _add_groups(state, grad, first, min(chunk, state.groups.number - first), rows_per_group, into, tiles)
    targets_only = replace(state, num_negatives=0)
    chunk = tuning.sort_chunk(items, width)
    for first in range(0, tokens, chunk):
        _add_tokens(targets_only, grad, first, min(chunk, tokens - first), into, gather)


def _add_groups(
    state: SampledState,
    grad: Tensor,
    first: int,
    number: int,
    rows_per_group: int,
    into: WeightGradient,
    tiles: tuning.TileTiles,
) -> None:
    """Write the gradient of each negative of some groups, sort by item, and add up: the scratch is freed at the end."""
    size = number * rows_per_group
    rows = grad.new_empty(size, state.hidden.shape[1])
    scalars = None if into.bias is None else grad.new_empty(size)
    ids = torch.empty(size, dtype=torch.int32, device=grad.device)
    launch_tile_rows(state, grad, rows, scalars, ids, first, number, tiles)
    launch_sum_rows(rows, scalars, sort_draws(ids, state.weight.shape[0]), into)


def _add_tokens(
    state: SampledState, grad: Tensor, first: int, number: int, into: WeightGradient, tiles: tuning.GatherTiles
) -> None:
    """Sort the draws and targets of some tokens by item and add them up."""
    keys = torch.empty(number * (state.num_negatives + 1), dtype=torch.int32, device=grad.device)
    launch_token_keys(state, keys, first, number)
    launch_none_backward(state, grad, sort_draws(keys, state.weight.shape[0]), first, into, tiles)


sampled_forward = torch.library.custom_op(
    "cce_kernels::sampled_forward",
    forward,
    mutates_args=(),
    schema=f"({CALL_SCHEMA}, bool with_grad, bool deterministic) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
sampled_backward = torch.library.custom_op(
    "cce_kernels::sampled_backward",
    backward,
    mutates_args=(),
    schema=f"(Tensor grad, {_KEPT}, {CALL_SCHEMA}, bool with_weight, bool deterministic) -> (Tensor, Tensor, Tensor)",
)


@sampled_forward.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    *fields, with_grad, _ = arguments
    call = Call(*fields)
    hidden = call.hidden
    loss, shift, pull = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(3))
    kept = keeps_copy(call, with_grad)
    copied = torch.empty_like(call.weight, dtype=hidden.dtype) if kept else hidden.new_empty(0)
    return loss, torch.empty_like(hidden) if with_grad else hidden.new_empty(0), shift, pull, copied


@sampled_backward.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    *fields, with_weight, _ = arguments[5:]
    call, nothing = Call(*fields), arguments[0].new_empty(0)
    d_weight = torch.empty_like(call.weight) if with_weight else nothing
    d_bias = torch.empty_like(call.bias) if with_weight and call.bias is not None else nothing
    return torch.empty_like(call.hidden), d_weight, d_bias


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what backward needs from the arguments and results of `sampled_forward`."""
    *fields, _, deterministic = inputs
    ctx.save_for_backward(*output[1:], *fields[:NUM_TENSORS])
    ctx.options = fields[NUM_TENSORS:]
    ctx.deterministic = deterministic
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 16
    if grad is None:
        return nothing
    needs = ctx.needs_input_grad
    d_hidden, d_weight, d_bias = sampled_backward(
        upstream_of(grad, None), *ctx.saved_tensors, *ctx.options, needs[1] or needs[2], ctx.deterministic
    )
    return (
        d_hidden if needs[0] else None,
        d_weight if needs[1] else None,
        d_bias if needs[2] else None,
        *nothing[3:],
    )


sampled_forward.register_autograd(_backward, setup_context=setup_context)


def sampled_linear_cross_entropy_triton(
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
    reduction: str = "none",
) -> Tensor:
    """Loss of every token, or reduced.

    Args:
        hidden: [M, D] contiguous, M >= 1, D <= 512, fp32, bf16 or fp16.
        weight: [V, D] contiguous; rows are rounded to hidden's dtype.
        targets: int64 [M]; `ignore_index` gives loss 0, any other id outside [0, V) gives NaN.
        draw: what is drawn.
        objective: what is summed.
        bias: [V] or None.
        ignore_index: the target of tokens that do not count.
        deterministic: no atomics.
        sparse_grad: weight's and bias's gradients as sparse tensors.
        reduction: `none`, `sum` or `mean`, over the tokens that count.

    Returns:
        loss fp32, [M] or a scalar.
    """
    call = call_of(hidden, weight, bias, targets, draw, objective, ignore_index)
    wanted = hidden.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    with_grad = torch.is_grad_enabled() and wanted
    if torch.compiler.is_compiling() and not sparse_grad:
        loss: Tensor = sampled_forward(*call, with_grad, deterministic)[0]
        return reduce_loss(loss, targets, ignore_index, reduction)[0]
    reduced: Tensor = _Sampled.apply(reduction, sparse_grad, *call, with_grad, deterministic)  # type: ignore[no-untyped-call]
    return reduced


class _Sampled(torch.autograd.Function):
    """The operators without their dispatch, which costs more than the kernels of a small batch.

    The number of rows of sparse gradients is known on the device only: their backward synchronises once.
    """

    @staticmethod
    def forward(ctx: Any, reduction: str, sparse: bool, *inputs: Any) -> Tensor:
        output = forward(*inputs)
        setup_context(ctx, inputs, output)
        call = Call(*inputs[:-2])
        ctx.sparse = sparse
        reduce = launch_mean if reduction == "mean" else partial(reduce_loss, reduction=reduction)
        loss, ctx.count = reduce(output[0], call.targets, call.ignore_index)
        return loss

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[2:5]
        if grad is None:
            return (None,) * 18
        with_weight = needs[1] or needs[2]
        run = _sparse_backward if ctx.sparse and with_weight else backward
        upstream = upstream_of(grad, ctx.count)
        gradients = run(upstream, *ctx.saved_tensors, *ctx.options, with_weight, ctx.deterministic)
        wanted = (gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
        return None, None, *wanted, *(None,) * 13


def _sparse_backward(
    grad: Tensor, dhidden: Tensor, shift: Tensor, pull: Tensor, copied: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `sampled_ops.backward`, with sparse gradients of weight and bias."""
    *fields, _, deterministic = arguments
    call = Call(*fields)
    weight, bias = call.weight, call.bias
    grad = of_counted_tokens(grad, call)
    state = state_of(call, copied if copied.numel() else weight, shift, pull)
    items, row_map = touched_items(state)
    into = WeightGradient(
        grad.new_zeros(items.numel(), weight.shape[1]),
        None if bias is None else grad.new_zeros(items.numel()),
        row_map,
    )
    accumulate(state, grad, into, deterministic)
    d_bias = None if bias is None or into.bias is None else sparse_rows(items, into.bias, bias)
    return scale_rows(dhidden, grad), sparse_rows(items, into.weight, weight), d_bias


def touched_items(state: SampledState) -> tuple[Tensor, Tensor]:
    """Items that the batch draws or has as targets, int64 [R] ascending, and their rows int32 [V]."""
    items = state.weight.shape[0]
    touched = torch.zeros(items, dtype=torch.int32, device=state.hidden.device)
    launch_mark_items(state, touched)
    targets = state.targets
    valid, _, safe = masks(targets, state.ignore_index, items)
    touched.scatter_reduce_(0, safe, valid.to(torch.int32), "amax")
    return touched.nonzero().squeeze(1), (touched.cumsum(0) - 1).to(torch.int32)
