"""The sampled losses in Triton: which launches make a forward and a backward, with dense or sparse gradients.

Forward leaves the loss, dH before the upstream gradient, and two numbers per token; backward draws the same ids again.
Neither looks at the device from the host: there is no synchronization, and a CUDA graph can record both. The number of
rows of sparse gradients is known on the device only: their backward synchronizes once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from cce_kernels.autograd import CustomLoss, Gradients
from cce_kernels.kernels.mean_loss import reduce_in_one_launch
from cce_kernels.kernels.scale import scale_rows
from cce_kernels.reduction import masks, sparse_rows
from cce_kernels.sampled import tuning
from cce_kernels.sampled.call import SampledCall
from cce_kernels.sampled.kernels.per_token_backward import launch_per_token_backward
from cce_kernels.sampled.kernels.per_token_forward import launch_per_token_forward
from cce_kernels.sampled.kernels.shared_backward import Scratch, launch_shared_backward
from cce_kernels.sampled.kernels.shared_forward import launch_shared_forward
from cce_kernels.sampled.kernels.state import SampledOutputs, Upstream, WeightGradient, copy_pays
from cce_kernels.sampled.kernels.sum_by_item import launch_draw_keys, launch_sum_rows, sort_draws


def _keeps_copy(call: SampledCall) -> bool:
    """Whether forward makes a 16-bit copy of the table and leaves it to backward.

    With shared negatives backward gathers rows again; with negatives per token it reads a row once per item.
    """
    rows_read = call.num_groups * call.num_negatives * 2
    return call.group_tokens > 1 and call.with_dhidden and copy_pays(call.weight, call.hidden, rows_read)


def _empty_outputs(call: SampledCall) -> SampledOutputs:
    hidden = call.hidden
    loss, shift, pull = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(3))
    dhidden = loss.new_empty(hidden.shape if call.with_dhidden else 0)
    copied = torch.empty_like(call.weight, dtype=hidden.dtype) if _keeps_copy(call) else hidden.new_empty(0)
    return SampledOutputs(loss, torch.empty_like(loss) if call.with_lse else None, dhidden, shift, pull, copied)


def _forward(call: SampledCall) -> SampledOutputs:
    hidden, weight = call.hidden, call.weight
    outputs = _empty_outputs(call)
    if _keeps_copy(call):
        call = call._replace(weight=outputs.copied.copy_(weight))
    elif copy_pays(weight, hidden, call.num_groups * call.num_negatives):
        call = call._replace(weight=weight.to(hidden.dtype))
    rest = math.log(max(weight.shape[0] - 1, 1))
    if call.group_tokens > 1:
        tiles, _ = tuning.shared_tiles(hidden.device, hidden.dtype, hidden.shape[1], call.group_tokens)
        launch_shared_forward(call, outputs, rest, tiles)
    else:
        per_token, _ = tuning.per_token_tiles(hidden.shape[1])
        launch_per_token_forward(call, outputs, rest, per_token)
    return outputs


def _backward(
    grad: Tensor, call: SampledCall, kept: Sequence[Tensor], with_hidden: bool, with_weight: bool,
    grad_lse: Tensor | None = None, *, sparse: bool = False,
) -> Gradients:  # fmt: skip
    dhidden, shift, pull, copied = kept
    weight, bias = call.weight, call.bias
    if grad_lse is not None:
        grad = grad + grad_lse
    # Whatever arrives for an ignored token must not make a NaN. A scalar, or [M] dense: the kernels rely on it.
    grad = grad if grad.dim() == 0 else torch.where(call.targets == call.ignore_index, 0.0, grad)
    own: Tensor | None = None
    safe = call.targets
    if grad_lse is not None:
        # Beside `pull` times the sum of both gradients: that of the target's score in the log-sum-exp.
        valid, _, safe = masks(call.targets, call.ignore_index, weight.shape[0])
        own = torch.where(valid, grad_lse * call.terms.scale, 0.0)
    d_weight = d_bias = None
    if with_weight:
        items, row_map = _touched_items(call) if sparse else (None, None)
        rows = weight.shape[0] if items is None else items.numel()
        into = WeightGradient(
            grad.new_zeros(rows, weight.shape[1]), None if bias is None else grad.new_zeros(rows), row_map
        )
        accumulate(call._replace(weight=copied) if copied.numel() else call, Upstream(shift, pull, grad), into)
        if own is not None:
            _add_targets(call, Upstream(shift, torch.ones_like(shift), -own), into)
        d_weight = into.weight.to(weight.dtype) if items is None else sparse_rows(items, into.weight, weight)
        if bias is not None and into.bias is not None:
            d_bias = into.bias.to(bias.dtype) if items is None else sparse_rows(items, into.bias, bias)
    # dH comes last: it takes the place of the scratch of the sums.
    if not with_hidden:
        return None, d_weight, d_bias
    if own is None:
        return scale_rows(dhidden, grad, call.hidden.dtype), d_weight, d_bias
    target_rows = weight[safe].to(call.hidden.dtype).float()
    d_hidden = (dhidden * grad.view(-1, 1)).addcmul_(own[:, None], target_rows)
    return d_hidden.to(call.hidden.dtype), d_weight, d_bias


def _touched_items(call: SampledCall) -> tuple[Tensor, Tensor]:
    """Items that the batch draws or has as targets, int64 [R] ascending, and their rows int32 [V]."""
    touched = torch.zeros(call.weight.shape[0], dtype=torch.int32, device=call.hidden.device)
    launch_draw_keys(call, touched, call.num_negatives, 0, call.num_groups, mark=True)
    valid, _, safe = masks(call.targets, call.ignore_index, call.weight.shape[0])
    touched.scatter_reduce_(0, safe, valid.to(torch.int32), "amax")
    return touched.nonzero().squeeze(1), (touched.cumsum(0) - 1).to(torch.int32)


def accumulate(call: SampledCall, upstream: Upstream, into: WeightGradient) -> None:
    """Add the gradients of weight and bias to `into`."""
    if call.group_tokens == 1:
        _add_tokens(call, upstream, call.num_negatives, into)
        return
    device, dim = call.hidden.device, call.weight.shape[1]
    _, tiles = tuning.shared_tiles(device, call.hidden.dtype, dim, call.group_tokens)
    if not call.deterministic:
        sorted_ids = None
        if tuning.sorts_draws(call.num_groups * call.num_negatives, *call.weight.shape) and call.own_counts is None:
            ids = call.targets.new_empty(call.num_groups, call.num_negatives, dtype=torch.int32)
            launch_draw_keys(call, ids, call.num_negatives, 0, call.num_groups)
            sorted_ids = ids.sort(dim=1).values
            # The rows' addresses are loaded now: that takes a stage more, where stages are used at all.
            tiles = replace(tiles, num_stages=tiles.num_stages + (tiles.num_stages > 1))
        launch_shared_backward(call, upstream, into, tiles, sorted_ids=sorted_ids)
        return
    chunk = max(1, tuning.scratch_chunk(*call.weight.shape) // (tiles.programs(call.group_tokens) * call.num_negatives))
    for first in range(0, call.num_groups, chunk):
        _add_groups(call, upstream, first, min(chunk, call.num_groups - first), into, tiles)
    _add_targets(call, upstream, into)


def _add_targets(call: SampledCall, upstream: Upstream, into: WeightGradient) -> None:
    """Add the gradients of the targets alone: nothing is drawn, and stored draws are those of groups, not of tokens."""
    _add_tokens(call if call.own_counts is None else call._replace(id_table=None, own_counts=None), upstream, 0, into)


def _add_groups(
    call: SampledCall, upstream: Upstream, first: int, number: int, into: WeightGradient, tiles: tuning.SharedTiles
) -> None:
    """Write the gradient of each negative of some groups, sort by item, and add up: the scratch is freed at the end."""
    num_rows = number * tiles.programs(call.group_tokens) * call.num_negatives
    rows = into.weight.new_empty(num_rows, call.hidden.shape[1])
    scalars = None if into.bias is None else into.bias.new_empty(num_rows)
    ids = call.targets.new_empty(num_rows, dtype=torch.int32)
    if call.own_counts is not None:
        ids.fill_(call.weight.shape[0])  # stored ids fill a part of the rows: the others belong to no item
    launch_shared_backward(call, upstream, WeightGradient(rows, scalars, None), tiles, Scratch(ids, first, number))
    launch_sum_rows(rows, scalars, sort_draws(ids, call.weight.shape[0]), into)


def _add_tokens(call: SampledCall, upstream: Upstream, num_negatives: int, into: WeightGradient) -> None:
    """Sort the draws and targets of tokens by item and add them up, a chunk of tokens at a time.

    `num_negatives` is N with negatives per token, 0 for the targets alone.
    """
    num_items, dim = call.weight.shape
    num_tokens, draws_per_token = call.hidden.shape[0], num_negatives + 1
    _, tiles = tuning.per_token_tiles(dim)
    chunk = max(1, tuning.sort_chunk(num_items, dim) // draws_per_token)
    for first in range(0, num_tokens, chunk):
        number = min(chunk, num_tokens - first)
        keys = call.targets.new_empty(number * draws_per_token, dtype=torch.int32)
        launch_draw_keys(call, keys, num_negatives, first, number, with_target=True)
        draws = sort_draws(keys, num_items)
        launch_per_token_backward(call, upstream, draws, draws_per_token, first, into, tiles)
        del keys, draws  # before the next chunk allocates its own


sampled_triton = CustomLoss(
    "sampled", SampledCall, _forward, _backward, _empty_outputs,
    shown=2, kept=("dhidden", "shift", "pull", "copied"), reduce=reduce_in_one_launch,
)  # fmt: skip
sparse_backward = partial(_backward, sparse=True)
