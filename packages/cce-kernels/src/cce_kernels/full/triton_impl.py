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
from cce_kernels.full.upstream import upstream
from cce_kernels.kernels.mean_loss import reduce_in_one_launch
from cce_kernels.kernels.scale import scale_rows


def _empty_outputs(call: FullCall) -> FullOutputs:
    hidden = call.hidden
    loss, lse, lse2, others = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(4))
    dhidden = loss.new_empty(hidden.shape if call.with_dhidden else 0)
    predicted = torch.empty_like(call.targets) if call.with_predicted else None
    return FullOutputs(loss, lse, predicted, lse2, others, dhidden)


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
    lse2, others, dhidden = kept
    sent = upstream(call, grad, grad_lse, lse2, others)
    scaled = None
    if with_hidden and sent.own is not None and sent.rows is not None:
        scaled = (dhidden * sent.grad[:, None]).addcmul_(sent.own[:, None], sent.rows).to(hidden.dtype)
    elif with_hidden:
        scaled = scale_rows(dhidden, sent.grad, hidden.dtype)
    if not with_weight:
        return scaled, None, None
    num_items, dim = weight.shape
    _, tiles = tuning.full_tiles(hidden.device, hidden.dtype, dim)
    programs, streamed = -(-num_items // tiles.block_v), -(-hidden.shape[0] // tiles.block_m)
    splits = tuning.full_splits(hidden.device, programs, streamed, tiles.num_warps, 4 * num_items * dim)
    return scaled, *launch_backward(call, lse2, sent.pull, sent.grad, tiles, splits)


full_triton = CustomLoss(
    "full", FullCall, _forward, _backward, _empty_outputs,
    shown=3, differentiable=2, kept=("lse2", "others", "dhidden"), reduce=reduce_in_one_launch,
)  # fmt: skip
