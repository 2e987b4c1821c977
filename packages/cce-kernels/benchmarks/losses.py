"""The losses that are compared: ours, and the peers that are installed. Each maps (inputs, point) to a scalar loss."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from points import Inputs, Point, item_counts
from torch import Tensor
from torch.nn import functional

from cce_kernels import Popularity, Uniform, linear_cross_entropy, sampled_linear_cross_entropy

Loss = Callable[[Inputs, Point], Tensor]
# What each of our sampled variants says to `sampled_linear_cross_entropy`.
SAMPLED: dict[str, dict[str, Any]] = {
    "ours, sharing tile": {"sharing": "tile"},
    "ours, sharing none": {"sharing": "none"},
    "ours, sharing tile, deterministic": {"sharing": "tile", "deterministic": True},
    "ours, sharing tile, sparse gradient": {"sharing": "tile", "sparse_grad": True},
}


def ours_full(inputs: Inputs, point: Point) -> Tensor:
    """The exact full loss of this package, as it comes."""
    return linear_cross_entropy(inputs.hidden, inputs.weight, inputs.targets)


def eager_full(inputs: Inputs, point: Point) -> Tensor:
    """Plain torch: the logits exist."""
    return functional.cross_entropy(inputs.hidden @ inputs.weight.to(inputs.hidden.dtype).T, inputs.targets)


def torch_linear_ce(inputs: Inputs, point: Point) -> Tensor:
    """The chunked loss of newer torch. Without options it stores all logits."""
    weight, options = inputs.weight.to(inputs.hidden.dtype), torch.nn.LinearCrossEntropyOptions()
    return functional.linear_cross_entropy(inputs.hidden, weight, inputs.targets, options=options)


def cut(inputs: Inputs, point: Point, **options: Any) -> Tensor:
    """cut-cross-entropy: as it comes it filters gradients; `filter_eps=None` takes the filter off."""
    from cut_cross_entropy import linear_cross_entropy as peer

    return peer(inputs.hidden, inputs.weight.to(inputs.hidden.dtype), inputs.targets, **options)


def liger_full(inputs: Inputs, point: Point) -> Tensor:
    """Liger's fused linear cross-entropy in Triton."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    weight = inputs.weight.to(inputs.hidden.dtype)
    return LigerFusedLinearCrossEntropyLoss()(weight, inputs.hidden, inputs.targets)


def ours_sampled(inputs: Inputs, point: Point, **options: Any) -> Tensor:
    """The sampled softmax of this package; counters are on the device, as in a training loop."""
    device = str(inputs.hidden.device)
    seed, step = counters(device)
    return sampled_linear_cross_entropy(
        inputs.hidden, inputs.weight, inputs.targets, num_negatives=point.negatives, seed=seed, step=step,
        sampler=Uniform() if point.popularity == "uniform" else popularity(point, device),
        **{"impl": "triton", **options},
    )  # fmt: skip


def counters(device: str, made: dict[str, tuple[Tensor, Tensor]] = {}) -> tuple[Tensor, Tensor]:  # noqa: B006 - a cache
    """A seed and a step on the device, made once."""
    if device not in made:
        made[device] = torch.tensor(1, device=device), torch.tensor(0, device=device)
    return made[device]


@lru_cache
def popularity(point: Point, device: str) -> Popularity:
    """Draws negatives by the popularity of the point's items."""
    return Popularity(item_counts(point, device))


def eager_sampled(inputs: Inputs, point: Point) -> Tensor:
    """Plain torch: the gathered negatives [M, N, D] exist."""
    weight = inputs.weight.to(inputs.hidden.dtype)
    if point.popularity != "uniform":
        counts = item_counts(point, str(weight.device))
        chosen = counts.multinomial(point.tokens * point.negatives, replacement=True)
        negatives, q = chosen.view(point.tokens, point.negatives), counts / counts.sum()
    else:
        negatives = torch.randint(0, point.items, (point.tokens, point.negatives), device=weight.device)
        q = torch.full((point.items,), 1 / point.items, device=weight.device)
    hit = negatives == inputs.targets[:, None]
    dtype = torch.promote_types(weight.dtype, torch.float32)
    scores = torch.einsum("md,mnd->mn", inputs.hidden, weight[negatives]).to(dtype)
    rest = (1 - q[inputs.targets])[:, None] / (~hit).sum(1, keepdim=True)
    scores = (scores + rest.log() - q.log()[negatives]).masked_fill(hit, float("-inf"))
    own = (inputs.hidden * weight[inputs.targets]).sum(1, dtype=dtype)
    return functional.cross_entropy(torch.cat((own[:, None], scores), 1), torch.zeros_like(inputs.targets))


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def available() -> dict[str, dict[str, Loss]]:
    """Losses by operation and variant; peers only where they are installed."""
    full: dict[str, Loss] = {"ours": ours_full, "eager torch": eager_full}
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        full["torch linear_cross_entropy"] = torch_linear_ce
    if _has("cut_cross_entropy"):
        full |= {"cut-cross-entropy default": cut, "cut-cross-entropy unfiltered": partial(cut, filter_eps=None)}
    if _has("liger_kernel"):
        full["liger-kernel"] = liger_full
    sampled: dict[str, Loss] = {name: partial(ours_sampled, **options) for name, options in SAMPLED.items()}
    return {"full": full, "sampled": sampled | {"eager torch": eager_sampled}}


def wanted(variant: str, point: Point) -> bool:
    """Leave out what cannot fit, or would take seconds a call."""
    if variant == "eager torch":
        cost = point.tokens * point.negatives * point.dim * (2 if point.dtype == "float32" else 1)
        return cost < 9e9 if point.negatives else point.tokens * point.items < 7e9
    if variant.startswith("ours"):
        # The deterministic and the sparse gradient are shown on the shapes of the table of peers alone.
        return variant in ("ours", "ours, sharing tile", "ours, sharing none") or "-" not in point.name
    # Peers take 16-bit inputs alone. The default of cut-cross-entropy is quick enough for every table but the largest.
    quick = variant == "cut-cross-entropy default"
    return point.dtype != "float32" and point.items < 2e6 and (quick or point.flops < 2e13)
