"""The full loss by chunks of tokens on a GPU: plain products around the kernels of numerators.py, for a mean or a sum.

Forward leaves dH and dW before the upstream gradient is known, which is one number: backward scales them.

Memory: the numerators of a chunk (tuning.chunk_tokens), and dW in fp32 from forward to backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cce_kernels.autograd import CustomLoss, Gradients
from cce_kernels.full import tuning
from cce_kernels.full.call import FullCall
from cce_kernels.full.kernels.numerators import (
    Chunk,
    launch_bases,
    launch_dhidden,
    launch_numerators,
    launch_targets,
)
from cce_kernels.kernels.mean_loss import reduce_in_one_launch
from cce_kernels.kernels.scale import scale_rows


class ChunkedOutputs(NamedTuple):
    """What a forward writes: the loss and the log-sum-exp for the user, the rest for the backward."""

    loss: Tensor  # [M] fp32
    lse: Tensor  # [M] fp32
    predicted: None
    dhidden: Tensor  # [M, D] fp32, before the upstream gradient, or empty where it is not wanted
    dweight: Tensor  # [V, D] fp32, before the upstream gradient too


def _empty_outputs(call: FullCall) -> ChunkedOutputs:
    loss, lse = (call.hidden.new_empty(call.hidden.shape[0], dtype=torch.float32) for _ in range(2))
    dhidden = loss.new_empty(call.hidden.shape if call.with_dhidden else 0)
    return ChunkedOutputs(loss, lse, None, dhidden, loss.new_empty(call.weight.shape))


def _forward(call: FullCall) -> ChunkedOutputs:
    hidden, targets = call.hidden, call.targets
    table = call.weight.to(hidden.dtype)
    num_tokens, num_items = hidden.shape[0], table.shape[0]
    outputs = _empty_outputs(call)
    others = torch.empty_like(outputs.loss)
    target_scores, bases = launch_bases(call, table)
    tiles, programs = tuning.chunk_tiles(hidden.device)
    size = min(num_tokens, tuning.chunk_tokens(num_items))
    flags = torch.zeros(-(-num_tokens // size), dtype=torch.int32, device=hidden.device)
    storage = hidden.new_empty(size, -(-num_items // 64) * 64)  # rows begin at multiples of 128 bytes
    # A product may take twice the time where a dimension is no multiple of 8: the last items have one of their own.
    whole = num_items // 8 * 8
    runs = [items for items in (slice(0, whole), slice(whole, num_items)) if items.start < items.stop]
    for index, start in enumerate(range(0, num_tokens, size)):
        part = slice(start, start + size)
        chunk = Chunk(
            hidden[part], targets[part], target_scores[part], bases[part], flags[index : index + 1],
            outputs.loss[part], outputs.lse[part], others[part],
        )  # fmt: skip
        scaled, inverses = launch_numerators(call, table, chunk, storage, tiles, programs)
        numerators = storage[: len(chunk.hidden), :num_items]
        products = torch.empty_like(outputs.dhidden[part])
        for items in runs:
            if call.with_dhidden:
                _product(numerators[:, items], table[items], products, add=items.start > 0)
            _product(numerators[:, items].T, scaled, outputs.dweight[items], add=start > 0)
        if call.with_dhidden:
            launch_dhidden(call, table, chunk, products, inverses, outputs.dhidden[part])
    launch_targets(call, others, outputs.dweight)
    return outputs


def _product(left: Tensor, right: Tensor, out: Tensor, *, add: bool) -> None:
    """Write a product of 16-bit matrices to `out`, fp32, or add it."""
    if not left.is_cuda:  # torch has no such product there
        out.copy_(left.float() @ right.float() + (out if add else 0.0))
    elif add:
        torch.addmm(out, left, right, out_dtype=torch.float32, out=out)
    else:
        torch.mm(left, right, out_dtype=torch.float32, out=out)


def _backward(grad: Tensor, call: FullCall, kept: Sequence[Tensor], with_hidden: bool, with_weight: bool) -> Gradients:
    dhidden, dweight = kept
    grad = grad / call.temperature
    scaled = scale_rows(dhidden, grad, call.hidden.dtype) if with_hidden else None
    return scaled, scale_rows(dweight, grad, call.weight.dtype) if with_weight else None, None


full_chunked = CustomLoss(
    "chunked_full", FullCall, _forward, _backward, _empty_outputs,
    shown=3, differentiable=1, kept=("dhidden", "dweight"), reduce=reduce_in_one_launch,
)  # fmt: skip
