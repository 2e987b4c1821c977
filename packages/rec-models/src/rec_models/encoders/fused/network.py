"""All blocks as one autograd function: matrix products by cuBLAS, all between them by the kernels of this folder.

It computes what `Encoder.transform` does with ``norm=pre``: x0 = dropout(x), and for each block

    a = x + dropout(Wo attend(Wqkv n(x))),   x' = a + dropout(W2 act(W1 n(a)))

with n the layer norms, and one more at the end. The residual stream is fp32 and products have the autocast dtype, as in
the plain network; a dropped branch is not rounded to 16 bits again before it is added, and gradients of weights are
summed and kept in fp32. Weights are converted once a step, in one launch. Backward is written out, so that a gradient
is summed over places, for the biases, where it is made.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cce_kernels.hardware import device_properties
from rec_models.encoders.embedding import gradient_of
from rec_models.encoders.fused.activation import launch_activation_backward
from rec_models.encoders.fused.attention import (
    Heads,
    launch_attention_backward,
    launch_attention_forward,
    num_tiles,
)
from rec_models.encoders.fused.beside import Beside
from rec_models.encoders.fused.residual import (
    Dropout,
    Embeddings,
    Normed,
    launch_norm_backward,
    launch_norm_forward,
)
from rec_models.encoders.fused.sums import column_sums
from rec_models.encoders.packing import Layout

_PROGRAMS = 12  # per multiprocessor, of kernels that sum over places
_MOST_BESIDE = 1 << 15  # places: the kernels of more leave nothing of a GPU idle


class Plan(NamedTuple):
    """What is constant in a training run."""

    heads: Heads
    activation: str
    eps: float
    dropout: float
    products: torch.dtype  # of matrix products
    result: torch.dtype


class _Weights(NamedTuple):
    """Of a block, in the order of the arguments: fp32 as they are, or matrices and biases in the dtype of products."""

    norm1: Tensor
    norm1_bias: Tensor
    project: Tensor
    project_bias: Tensor
    out: Tensor
    out_bias: Tensor
    norm2: Tensor
    norm2_bias: Tensor
    inner: Tensor
    inner_bias: Tensor
    outer: Tensor
    outer_bias: Tensor


class _Kept(NamedTuple):
    """Of a block's forward, for its backward."""

    stream1: Tensor
    normed1: Tensor
    mean1: Tensor
    rstd1: Tensor
    qkv: Tensor
    attended: Tensor
    lse: Tensor
    stream2: Tensor
    normed2: Tensor
    mean2: Tensor
    rstd2: Tensor
    inner: Tensor
    active: Tensor


_NUM_WEIGHTS = len(_Weights._fields)


def run(x: Tensor, start: Embeddings | None, layout: Layout, plan: Plan, parameters: list[Tensor]) -> Tensor:
    """The network's output [T, D] in the dtype of the result.

    `x` is fp32 [T, D] or, where the network embeds items itself (`start`), the positions' table [L, D]: the gradient of
    the item table is then added to its ``.grad``, as by `rec_models.encoders.embedding.lookup_into_grad`. The
    parameters are weight and bias of each layer: of a block attention's norm, projection and output, then the
    feed-forward net's norm and its two layers; of the network the last norm.
    """
    # Drawn on the device, so that every replay of a CUDA graph has another mask.
    seed = torch.randint(1 << 62, (), device=x.device) if plan.dropout else layout.places
    with torch.cuda.device_of(x):
        hidden: Tensor = _Network.apply(x, start, seed, layout, plan, torch.is_grad_enabled(), *parameters)
    return hidden


class _Network(torch.autograd.Function):
    """What a block keeps is freed as soon as its backward has run, so there is one backward to a forward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, start: Embeddings | None, seed: Tensor, layout: Layout, plan: Plan, keeps: bool,
        *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        """`x` is [T, D], or where the function embeds itself the positions' table [L, D]; `keeps`: for a backward."""
        *blocks, gain, shift = parameters
        weights = _converted([_Weights(*part) for part in _chunks(blocks, _NUM_WEIGHTS)], plan.products)
        stream: Tensor | None = None
        branch: Tensor | Embeddings = x if start is None else start
        ctx.kept = []
        for number, block in enumerate(weights):
            first, second = (Dropout(seed, 2 * number + half, plan.dropout) for half in range(2))
            one = launch_norm_forward(stream, branch, block.norm1, block.norm1_bias, plan.eps, first, plan.products)
            qkv = torch.addmm(block.project_bias, one.out, block.project.t())
            attended, lse = launch_attention_forward(qkv, layout, plan.heads)
            branch = torch.addmm(block.out_bias, attended, block.out.t())
            two = launch_norm_forward(
                one.stream, branch, block.norm2, block.norm2_bias, plan.eps, second, plan.products
            )
            inner = torch.addmm(block.inner_bias, two.out, block.inner.t())
            active = functional.gelu(inner) if plan.activation == "gelu" else functional.relu(inner)
            branch = torch.addmm(block.outer_bias, active, block.outer.t())
            stream = two.stream
            if keeps:
                ctx.kept.append(_Kept(*one, qkv, attended, lse, *two, inner, active))
        last = Dropout(seed, 2 * len(weights), plan.dropout)
        final = launch_norm_forward(stream, branch, gain, shift, plan.eps, last, plan.result)
        flat = [tensor for block in weights for tensor in block]
        ctx.save_for_backward(*flat, final.stream, final.mean, final.rstd, gain, seed)
        ctx.layout, ctx.plan, ctx.num_blocks, ctx.start = layout, plan, len(weights), start
        return final.out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan, layout, num_blocks = ctx.plan, ctx.layout, ctx.num_blocks
        *flat, stream, mean, rstd, gain, seed = ctx.saved_tensors
        weights = [_Weights(*part) for part in _chunks(flat, _NUM_WEIGHTS)]
        if not ctx.kept:
            raise RuntimeError("rec_models: found a second backward of the fused network, allowed: one to a forward")
        width, inner_width = gain.shape[0], weights[0].inner.shape[0]
        per_block = 6 * width + inner_width
        sums = gain.new_empty(_programs(grad), num_blocks * per_block + 3 * width)
        *block_sums, final_sums = sums.split([per_block] * num_blocks + [3 * width], dim=1)
        tile_sums = gain.new_empty(num_tiles(grad.shape[0]), num_blocks * 3 * width)  # of the projections' gradients
        project_sums = tile_sums.split(3 * width, dim=1)
        final = Normed(stream, stream, mean, rstd)
        last = Dropout(seed, 2 * num_blocks, plan.dropout)
        grad_branch = torch.empty_like(grad, dtype=plan.products)
        grad_stream = launch_norm_backward(grad.contiguous(), None, final, gain, last, final_sums, grad_branch)
        beside = Beside(grad.device, pays=grad.shape[0] <= _MOST_BESIDE)
        gradients: list[tuple[Tensor, ...]] = []  # of each block's four matrices, the last block first
        for number in reversed(range(num_blocks)):
            block, had, mine = weights[number], ctx.kept.pop(), block_sums[number]
            norm1_sums, norm2_sums, inner_sums = mine.split([3 * width, 3 * width, inner_width], dim=1)
            outer = beside.run(_weight_gradient, grad_branch, had.active)
            grad_inner = grad_branch @ block.outer
            launch_activation_backward(had.inner, grad_inner, inner_sums, plan.activation)
            inner = beside.run(_weight_gradient, grad_inner, had.normed2)
            grad_branch = torch.empty_like(grad_branch)
            grad_stream = launch_norm_backward(
                grad_inner @ block.inner, grad_stream, Normed(had.stream2, had.normed2, had.mean2, had.rstd2),
                block.norm2, Dropout(seed, 2 * number + 1, plan.dropout), norm2_sums, grad_branch,
            )  # fmt: skip
            out = beside.run(_weight_gradient, grad_branch, had.attended)
            grad_qkv = launch_attention_backward(
                had.qkv, had.attended, had.lse, grad_branch @ block.out, layout, plan.heads, project_sums[number]
            )
            project = beside.run(_weight_gradient, grad_qkv, had.normed1)
            into: Tensor | Embeddings
            into = grad_branch = torch.empty_like(grad_branch, dtype=plan.products if number else torch.float32)
            if number == 0 and ctx.start is not None:
                grad_branch = torch.zeros_like(ctx.start.positions)
                into = ctx.start._replace(table=gradient_of(ctx.start.table), positions=grad_branch)
            grad_stream = launch_norm_backward(
                grad_qkv @ block.project, grad_stream, Normed(had.stream1, had.normed1, had.mean1, had.rstd1),
                block.norm1, Dropout(seed, 2 * number, plan.dropout), norm1_sums, into, first=number == 0,
            )  # fmt: skip
            gradients.append((project, out, inner, outer))
            beside.end_block()
        beside.join()
        # The bias of a branch has the sum of its gradient, which the norm after it made.
        total, biases = column_sums(sums), column_sums(tile_sums).split(3 * width)
        found: list[Tensor] = []
        for number in range(num_blocks):
            project, out, inner, outer = gradients[num_blocks - 1 - number]
            mine = total[number * per_block : (number + 1) * per_block]
            gain1, shift1, _, gain2, shift2, out_bias = mine[: 6 * width].split(width)
            after = (number + 1) * per_block + 2 * width  # of the next block's first norm, or of the last norm
            found += [
                gain1, shift1, project, biases[number], out, out_bias,
                gain2, shift2, inner, mine[6 * width :], outer, total[after : after + width],
            ]  # fmt: skip
        gain_sum, shift_sum, _ = total[num_blocks * per_block :].split(width)
        return grad_branch, None, None, None, None, None, *found, gain_sum, shift_sum


def _converted(weights: list[_Weights], dtype: torch.dtype) -> list[_Weights]:
    """Matrices and their biases in the dtype of products, all in one launch."""
    old = [tensor for block in weights for name, tensor in zip(block._fields, block, strict=True) if "norm" not in name]
    new = [torch.empty_like(tensor, dtype=dtype) for tensor in old]
    torch._foreach_copy_(new, old)
    found = iter(new)
    return [block._replace(**{name: next(found) for name in block._fields if "norm" not in name}) for block in weights]


def _weight_gradient(grad: Tensor, inputs: Tensor) -> Tensor:
    """From the gradient of a product [T, N] and what was multiplied [T, K] to that of its matrix, fp32 [N, K]."""
    if grad.is_cuda:
        return torch.mm(grad.t(), inputs, out_dtype=torch.float32)
    return grad.t().float() @ inputs.float()


def _programs(grad: Tensor) -> int:
    return 4 if not grad.is_cuda else _PROGRAMS * device_properties(grad.device.index or 0)[1]


def _chunks(tensors: Any, size: int) -> list[Any]:
    return [tensors[start : start + size] for start in range(0, len(tensors), size)]
