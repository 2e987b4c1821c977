"""What is measured: shapes, kinds of scores and dtypes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SHAPES = {"beauty": (32768, 176450, 511), "ml20m": (131072, 14000, 511), "zvuk": (131072, 893022, 2047)}  # M, V, N


@dataclass(frozen=True)
class Point:
    """M tokens, V items, D columns, N negatives (0: the full loss)."""

    name: str
    tokens: int
    items: int
    dim: int
    negatives: int = 0
    scores: str = "flat"  # flat: as at initialisation | peaked | fitted: p_t from one half to 0.999
    dtype: str = "bfloat16"
    weight_dtype: str = "bfloat16"
    zipf: bool = False  # negatives by popularity, item j in proportion to 1 / (j + 1); else uniform

    @property
    def op(self) -> str:
        """The loss that is measured here."""
        return "sampled" if self.negatives else "full"

    @property
    def flops(self) -> float:
        """Two matrix products forward, two backward."""
        return 8.0 * self.tokens * self.items * self.dim


@dataclass
class Inputs:
    """Inputs of a loss; hidden and weight want gradients."""

    hidden: Tensor  # [M, D]
    weight: Tensor  # [V, D]
    targets: Tensor  # [M] int64


# The three shapes of the table of peers, then sweeps over D, scores, dtype and V.
FULL = [
    *(Point(name, *SHAPES[name][:2], 256) for name in ("beauty", "ml20m", "zvuk")),
    *(Point(scores, 4096, 50000, 128, scores=scores) for scores in ("flat", "peaked", "fitted")),
    *(Point(f"d{dim}", 32768, 131072, dim) for dim in (64, 128, 256, 320, 512)),
    *(Point(f"fitted-d{dim}", 4096, 50000, dim, scores="fitted") for dim in (64, 256)),
    Point("master", 32768, 131072, 256, weight_dtype="float32"),
    Point("fp16", 32768, 131072, 128, dtype="float16", weight_dtype="float16"),
    *(
        Point(name, 4096, 32768, dim, dtype="float32", weight_dtype="float32")
        for name, dim in (("fp32-d64", 64), ("fp32", 128), ("fp32-d256", 256), ("fp32-d512", 512))
    ),
    Point("huge", 8192, 9_400_000, 256),
]
# An fp32 table, as a trainer keeps it.
SAMPLED = [
    *(Point(name, *SHAPES[name][:2], 256, SHAPES[name][2], weight_dtype="float32") for name in SHAPES),
    *(Point(f"beauty-d{dim}", 32768, 176450, dim, 511, weight_dtype="float32") for dim in (64, 128, 320, 512)),
    Point("beauty-fp32", 32768, 176450, 256, 511, dtype="float32", weight_dtype="float32"),
    Point("beauty-16bit", 32768, 176450, 256, 511),
    Point("beauty-zipf", 32768, 176450, 256, 511, weight_dtype="float32", zipf=True),
    *(
        Point(f"beauty-{scores}", 32768, 176450, 256, 511, scores=scores, weight_dtype="float32")
        for scores in ("peaked", "fitted")
    ),
    Point("huge", 8192, 9_400_000, 256, 511),
]


def make_inputs(point: Point, device: str = "cuda") -> Inputs:
    """Draw inputs with the point's kind of scores."""
    generator = torch.Generator(device).manual_seed(0)
    targets = torch.randint(0, point.items, (point.tokens,), device=device, generator=generator)
    weight_dtype = getattr(torch, point.weight_dtype)
    weight = torch.empty(point.items, point.dim, device=device, dtype=weight_dtype).normal_(generator=generator)
    hidden = torch.randn(point.tokens, point.dim, device=device, generator=generator)
    if point.scores == "flat":
        hidden *= 0.5 / point.dim**0.5
    elif point.scores == "peaked":
        hidden *= 4.0 / point.dim**0.5
    else:
        own = weight[targets].float()
        margin = torch.linspace(0, 7, point.tokens, device=device)[:, None] + torch.tensor(point.items).log()
        hidden = hidden * 0.3 / point.dim**0.5 + own * margin / own.square().sum(1, keepdim=True)
    return Inputs(hidden.to(getattr(torch, point.dtype)).requires_grad_(), weight.requires_grad_(), targets)


def true_gradients(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """DH [M, D] and dW [V, D] of the mean full loss in float64, from the numbers that the products see."""
    chunk = max(1, min(1024, 800_000_000 // len(inputs.weight)))  # of tokens: up to 6.4 GB of scores
    hidden = inputs.hidden.detach().double()
    weight = inputs.weight.detach().to(inputs.hidden.dtype).double()
    dhidden, dweight = torch.empty_like(hidden), torch.zeros_like(weight)
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        p = torch.softmax(hidden[part] @ weight.T, 1)
        p[torch.arange(len(p), device=p.device), inputs.targets[part]] -= 1
        p /= len(hidden)
        dhidden[part] = p @ weight
        dweight.addmm_(p.T, hidden[part])
    return dhidden, dweight
