"""The losses that are compared: ours, and the peers that are installed. Each maps (inputs, point) to a scalar loss."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from points import Inputs, Point
from torch import Tensor
from torch.nn import functional

from cce_kernels import linear_cross_entropy, sampled_linear_cross_entropy

Loss = Callable[[Inputs, Point], Tensor]


def ours_full(inputs: Inputs, point: Point) -> Tensor:
    """The exact full loss of this package."""
    return linear_cross_entropy(inputs.hidden, inputs.weight, inputs.targets, impl="triton")


def eager_full(inputs: Inputs, point: Point) -> Tensor:
    """Plain torch: the logits exist."""
    return functional.cross_entropy(inputs.hidden @ inputs.weight.to(inputs.hidden.dtype).T, inputs.targets)


def torch_linear_ce(inputs: Inputs, point: Point) -> Tensor:
    """What newer torch has of its own."""
    return functional.linear_cross_entropy(inputs.hidden, inputs.weight.to(inputs.hidden.dtype), inputs.targets)


def cut_default(inputs: Inputs, point: Point) -> Tensor:
    """cut-cross-entropy as it comes: it filters gradients."""
    from cut_cross_entropy import linear_cross_entropy as cut

    return cut(inputs.hidden, inputs.weight.to(inputs.hidden.dtype), inputs.targets)


def cut_exact(inputs: Inputs, point: Point) -> Tensor:
    """cut-cross-entropy without its filter."""
    from cut_cross_entropy import linear_cross_entropy as cut

    return cut(inputs.hidden, inputs.weight.to(inputs.hidden.dtype), inputs.targets, filter_eps=None)


def liger_full(inputs: Inputs, point: Point) -> Tensor:
    """Liger's fused linear cross-entropy in Triton."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    weight = inputs.weight.to(inputs.hidden.dtype)
    return LigerFusedLinearCrossEntropyLoss()(weight, inputs.hidden, inputs.targets)


def ours_sampled_none(inputs: Inputs, point: Point) -> Tensor:
    """Every token its own negatives."""
    return sampled_linear_cross_entropy(
        inputs.hidden, inputs.weight, inputs.targets, num_negatives=point.negatives, seed=1, impl="triton"
    )


def ours_sampled_tile(inputs: Inputs, point: Point) -> Tensor:
    """64 tokens share their negatives."""
    return sampled_linear_cross_entropy(
        inputs.hidden, inputs.weight, inputs.targets, num_negatives=point.negatives, seed=1, sharing="tile",
        impl="triton",
    )  # fmt: skip


def eager_sampled(inputs: Inputs, point: Point) -> Tensor:
    """Plain torch CE-: the gathered negatives [M, N, D] exist."""
    weight = inputs.weight.to(inputs.hidden.dtype)
    negatives = torch.randint(0, point.items, (point.tokens, point.negatives), device=weight.device)
    hit = negatives == inputs.targets[:, None]
    scores = torch.einsum("md,mnd->mn", inputs.hidden, weight[negatives]).float().masked_fill(hit, float("-inf"))
    own = (inputs.hidden * weight[inputs.targets]).sum(1, dtype=torch.float32)
    return functional.cross_entropy(torch.cat((own[:, None], scores), 1), torch.zeros_like(inputs.targets))


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def available() -> dict[str, dict[str, Loss]]:
    """Losses by operation and variant; peers only where they are installed."""
    full: dict[str, Loss] = {"ours": ours_full, "eager torch": eager_full}
    if hasattr(functional, "linear_cross_entropy"):
        full["torch linear_cross_entropy"] = torch_linear_ce
    if _has("cut_cross_entropy"):
        full |= {"cut-cross-entropy default": cut_default, "cut-cross-entropy exact": cut_exact}
    if _has("liger_kernel"):
        full["liger-kernel"] = liger_full
    sampled: dict[str, Loss] = {
        "ours, sharing none": ours_sampled_none,
        "ours, sharing tile": ours_sampled_tile,
        "eager torch": eager_sampled,
    }
    return {"full": full, "sampled": sampled}


def wanted(operation: str, variant: str, point: Point) -> bool:
    """Leave out what cannot fit, or would take seconds a call."""
    if variant == "eager torch":
        if operation == "sampled":
            return point.tokens * point.negatives * point.dim < 8e9
        return point.tokens * point.items < 7e9
    if variant.startswith("ours"):
        return True
    if variant == "cut-cross-entropy default":
        return point.items < 2e6 and point.dim <= 256 and point.dtype == "bfloat16"
    sweep = point.name.startswith("d")
    return point.flops < 2e13 and point.dtype == "bfloat16" and point.weight_dtype == "bfloat16" and not sweep
