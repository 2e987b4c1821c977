"""Custom operators of the sampled losses: what torch.compile sees as one opaque node, forward and backward.

Forward leaves loss, dH without the upstream gradient, and two numbers a token; backward draws the same ids again.
Neither looks at the device from the host: no synchronisation, and a CUDA graph can hold them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cce_kernels import tuning_sampled as tuning
from cce_kernels.draws import Groups
from cce_kernels.kernels.sampled_keys import launch_token_keys
from cce_kernels.kernels.sampled_none_backward import launch_none_backward
from cce_kernels.kernels.sampled_none_forward import launch_none_forward
from cce_kernels.kernels.sampled_scale import launch_scale
from cce_kernels.kernels.sampled_segments import launch_sum_rows, sort_draws
from cce_kernels.kernels.sampled_state import SampledState, WeightGradient, copy_pays
from cce_kernels.kernels.sampled_tile_backward import launch_tile_backward, launch_tile_rows
from cce_kernels.kernels.sampled_tile_forward import launch_tile_forward
from cce_kernels.objectives import decode


def make_state(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    seed: Tensor,
    step: Tensor,
    size: Tensor | None,
    table: Tensor | None,
    log_q: Tensor | None,
    log_rest: Tensor | None,
    sizes: Sequence[int],
    alias: bool,
    objective: str,
    t: float,
    shift: Tensor,
    pull: Tensor,
) -> SampledState:
    """The state of a call from the flat arguments of an operator."""
    positions, num_negatives, *groups, ignore_index = sizes
    return SampledState(
        hidden, weight, bias, targets, shift, pull, seed, step, positions, size, table, alias, log_q, log_rest,
        Groups(*groups), num_negatives, ignore_index, decode(objective, t).terms(num_negatives, weight.shape[0]),
    )  # fmt: skip


def forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    seed: Tensor,
    step: Tensor,
    size: Tensor | None,
    table: Tensor | None,
    log_q: Tensor | None,
    log_rest: Tensor | None,
    sizes: Sequence[int],
    alias: bool,
    objective: str,
    t: float,
    with_grad: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss fp32 [M], unscaled dH [M, D] (or empty), shift and pull fp32 [M], copy of the table (or empty)."""
    loss, shift, pull = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(3))
    dhidden = torch.empty_like(hidden) if with_grad else hidden.new_empty(0)
    state = make_state(
        hidden, weight, bias, targets, seed, step, size, table, log_q, log_rest, sizes, alias, objective, t,
        shift, pull,
    )  # fmt: skip
    shared = state.groups.tokens > 1
    rows_read = state.groups.number * state.num_negatives * (2 if shared and with_grad else 1)
    copied = copy_pays(weight, hidden, rows_read)
    if copied:
        state = replace(state, weight=weight.to(hidden.dtype))
    rest = math.log(max(weight.shape[0] - 1, 1))
    out = dhidden if with_grad else None
    if shared:
        tiles, _ = tuning.tile_tiles(hidden.device, hidden.dtype, hidden.shape[1], state.groups.tokens)
        launch_tile_forward(state, loss, out, rest, tiles)
    else:
        gather, _ = tuning.gather_tiles(hidden.shape[1])
        launch_none_forward(state, loss, out, rest, gather)
    # Backward gathers rows of a shared set again; with sets of their own it reads a row of the table once an item.
    keep = state.weight if copied and shared and with_grad else hidden.new_empty(0)
    return loss, dhidden, shift, pull, keep


sampled_forward = torch.library.custom_op("cce_kernels::sampled_forward", forward, mutates_args=())


@sampled_forward.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    seed: Tensor,
    step: Tensor,
    size: Tensor | None,
    table: Tensor | None,
    log_q: Tensor | None,
    log_rest: Tensor | None,
    sizes: Sequence[int],
    alias: bool,
    objective: str,
    t: float,
    with_grad: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    loss, shift, pull = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(3))
    dhidden = torch.empty_like(hidden) if with_grad else hidden.new_empty(0)
    shared = sizes[2] > 1
    kept = shared and with_grad and copy_pays(weight, hidden, sizes[3] * sizes[1] * 2)
    return loss, dhidden, shift, pull, torch.empty_like(weight, dtype=hidden.dtype) if kept else hidden.new_empty(0)


def backward(
    grad: Tensor,
    dhidden: Tensor,
    shift: Tensor,
    pull: Tensor,
    copied: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    seed: Tensor,
    step: Tensor,
    size: Tensor | None,
    table: Tensor | None,
    log_q: Tensor | None,
    log_rest: Tensor | None,
    sizes: Sequence[int],
    alias: bool,
    objective: str,
    t: float,
    with_weight: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden [M, D], weight [V, D] (or empty) and bias [V] (or empty)."""
    grad = grad.to(torch.float32).contiguous()
    if not with_weight:
        return scaled(dhidden, grad), hidden.new_empty(0), hidden.new_empty(0)
    state = make_state(
        hidden, copied if copied.numel() else weight, bias, targets, seed, step, size, table, log_q, log_rest, sizes,
        alias, objective, t, shift, pull,
    )  # fmt: skip
    items = weight.shape[0]
    into = WeightGradient(
        weight.new_zeros(weight.shape, dtype=torch.float32),
        None if bias is None else bias.new_zeros(items, dtype=torch.float32),
        None,
    )
    accumulate(state, grad, into, deterministic)
    d_bias = hidden.new_empty(0) if bias is None or into.bias is None else into.bias.to(bias.dtype)
    # dH comes last: it takes the place of the scratch of the sums.
    return scaled(dhidden, grad), into.weight.to(weight.dtype), d_bias


sampled_backward = torch.library.custom_op("cce_kernels::sampled_backward", backward, mutates_args=())


@sampled_backward.register_fake
def _(
    grad: Tensor,
    dhidden: Tensor,
    shift: Tensor,
    pull: Tensor,
    copied: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    seed: Tensor,
    step: Tensor,
    size: Tensor | None,
    table: Tensor | None,
    log_q: Tensor | None,
    log_rest: Tensor | None,
    sizes: Sequence[int],
    alias: bool,
    objective: str,
    t: float,
    with_weight: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    d_weight = torch.empty_like(weight) if with_weight else hidden.new_empty(0)
    d_bias = torch.empty_like(bias) if with_weight and bias is not None else hidden.new_empty(0)
    return torch.empty_like(hidden), d_weight, d_bias


def scaled(dhidden: Tensor, grad: Tensor) -> Tensor:
    """DH [M, D] from what forward left and the upstream gradient fp32 [M]."""
    out = torch.empty_like(dhidden)
    launch_scale(dhidden, grad, out)
    return out


def accumulate(state: SampledState, grad: Tensor, into: WeightGradient, deterministic: bool) -> None:
    """Add the gradients of weight and bias to `into`."""
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
        number = min(chunk, state.groups.number - first)
        rows = grad.new_empty(number * rows_per_group, width)
        scalars = None if into.bias is None else grad.new_empty(number * rows_per_group)
        ids = torch.empty(number * rows_per_group, dtype=torch.int32, device=grad.device)
        launch_tile_rows(state, grad, rows, scalars, ids, first, number, tiles)
        launch_sum_rows(rows, scalars, sort_draws(ids, items), into)
    targets_only = replace(state, num_negatives=0)
    chunk = tuning.sort_chunk(items, width)
    for first in range(0, tokens, chunk):
        _add_tokens(targets_only, grad, first, min(chunk, tokens - first), into, gather)


def _add_tokens(
    state: SampledState, grad: Tensor, first: int, number: int, into: WeightGradient, tiles: tuning.GatherTiles
) -> None:
    """Sort the draws and targets of some tokens by item and add them up."""
    keys = torch.empty(number * (state.num_negatives + 1), dtype=torch.int32, device=grad.device)
    launch_token_keys(state, keys, first, number)
    launch_none_backward(state, grad, sort_draws(keys, state.weight.shape[0]), first, into, tiles)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep what backward needs from the arguments and results of `sampled_forward`."""
    tensors, (sizes, *numbers), deterministic = inputs[:10], inputs[10:14], inputs[15]
    ctx.save_for_backward(*output[1:], *tensors)
    ctx.options = [sizes, *numbers]
    ctx.deterministic = deterministic
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 16
    if grad is None:
        return nothing
    needs = ctx.needs_input_grad
    with_weight = needs[1] or needs[2]
    d_hidden, d_weight, d_bias = sampled_backward(
        grad, *ctx.saved_tensors, *ctx.options, with_weight, ctx.deterministic
    )
    return (
        d_hidden if needs[0] else None,
        d_weight if needs[1] else None,
        d_bias if needs[2] else None,
        *nothing[3:],
    )


sampled_forward.register_autograd(_backward, setup_context=setup_context)
