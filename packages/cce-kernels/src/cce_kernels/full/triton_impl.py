"""The full loss in Triton: which launches make a forward and a backward.

Forward leaves dH before the upstream gradient is known; backward scales it and computes dW and db. Neither looks at the
device from the host: there is no synchronization, and a CUDA graph can record both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cce_kernels.autograd import CustomLoss, Gradients
from cce_kernels.full import tuning
from cce_kernels.full.call import FullCall
from cce_kernels.full.kernels.backward import launch_backward
from cce_kernels.full.kernels.forward import launch_forward
from cce_kernels.full.kernels.state import FullOutputs
from cce_kernels.kernels.mean_loss import reduce_in_one_launch
from cce_kernels.reduction import masks, scale_rows


def _empty_outputs(call: FullCall) -> FullOutputs:
    hidden = call.hidden
    loss, lse, lse2, others = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(4))
    dhidden = loss.new_empty(hidden.shape if call.with_dhidden else 0)
    return FullOutputs(loss, lse, lse2, others, dhidden)


def _forward(call: FullCall) -> FullOutputs:
    hidden, weight = call.hidden, call.weight
    outputs = _empty_outputs(call)
    if hidden.dtype.itemsize < weight.dtype.itemsize:
        # A 16-bit copy for this pass alone, which streams the table once per tile of tokens. Backward reads it once.
        call = call._replace(weight=weight.to(hidden.dtype))
    num_tokens, dim = hidden.shape
    tiles, _ = tuning.full_tiles(hidden.device, hidden.dtype, dim)
    programs, streamed = -(-num_tokens // tiles.block_m), -(-weight.shape[0] // tiles.block_v)
    splits = tuning.full_splits(hidden.device, programs, streamed, tiles.num_warps, 4 * num_tokens * dim)
    launch_forward(call, outputs, tiles, splits)
    return outputs


def _backward(
    grad: Tensor, call: FullCall, kept: Sequence[Tensor], with_hidden: bool, with_weight: bool,
    grad_lse: Tensor | None = None,
) -> Gradients:  # fmt: skip
    hidden, weight = call.hidden, call.weight
    lse2, pull, dhidden = kept
    if call.temperature != 1.0:
        grad, grad_lse = grad / call.temperature, None if grad_lse is None else grad_lse / call.temperature
    counted = None
    if grad.dim() > 0 or grad_lse is not None:
        # Whatever arrives for a token that does not count (its lse2 is infinite), it must not make a NaN.
        counted = lse2.isfinite()
        grad = torch.where(counted, grad if grad_lse is None else grad + grad_lse, 0.0)
        pull = pull * grad
    if grad_lse is not None and counted is not None:
        # The derivative of the log-sum-exp is that of the loss and 1 at the target's score.
        rows, slope = _targets(call)
        own = torch.where(counted, grad_lse * slope, 0.0)
        pull -= own
    scaled = None
    if with_hidden and grad_lse is not None:
        scaled = (dhidden * grad[:, None]).addcmul_(own[:, None], rows).to(hidden.dtype)
    elif with_hidden:
        scaled = scale_rows(dhidden, grad, hidden.dtype)
    if not with_weight:
        return scaled, None, None
    num_items, dim = weight.shape
    _, tiles = tuning.full_tiles(hidden.device, hidden.dtype, dim)
    programs, streamed = -(-num_items // tiles.block_v), -(-hidden.shape[0] // tiles.block_m)
    splits = tuning.full_splits(hidden.device, programs, streamed, tiles.num_warps, 4 * num_items * dim)
    return scaled, *launch_backward(call, lse2, pull, grad, tiles, splits)


def _targets(call: FullCall) -> tuple[Tensor, Tensor | float]:
    """Rows of the targets as products see them, fp32 [M, D], and the slopes of the cap at their scores, [M] or 1."""
    _, _, safe = masks(call.targets, call.ignore_index, call.weight.shape[0])
    rows = call.weight[safe].to(call.hidden.dtype).float()
    if call.softcap is None:
        return rows, 1.0
    scores = (call.hidden.float() * rows).sum(1)
    if call.bias is not None:
        scores += call.bias[safe]
    return rows, 1.0 - (scores / call.softcap).tanh().square()


full_triton = CustomLoss(
    "full", FullCall, _forward, _backward, _empty_outputs,
    shown=2, kept=("lse2", "others", "dhidden"), reduce=reduce_in_one_launch,
)  # fmt: skip
