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
    # flat: as at initialization | peaked | fitted: p_t from one half to 0.999 | popular: softmax near the popularity
    scores: str = "flat"
    dtype: str = "bfloat16"
    weight_dtype: str = "bfloat16"
    # Of targets and negatives. uniform | spread: Zipf's law over the items in random order | sorted: in order of ids
    popularity: str = "uniform"

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
    *(
        Point(f"beauty-{order}", 32768, 176450, 256, 511, weight_dtype="float32", popularity=order)
        for order in ("spread", "sorted")
    ),
    *(
        Point(f"beauty-{scores}", 32768, 176450, 256, 511, scores=scores, weight_dtype="float32")
        for scores in ("peaked", "fitted")
    ),
    Point("huge", 8192, 9_400_000, 256, 511),
]

# The catalogues of the paper's five data sets and the tokens of a batch (step_points.py of rec-models), rounded up to a
# multiple of 128 as some kernels for Hopper require.
TWINS = {
    "beauty": (6144, 176450), "movielens_20m": (20992, 15405), "gowalla": (41472, 290000),
    "zvuk": (115584, 893022), "30music": (85504, 900000),
}  # fmt: skip
# What peers.py measures, by table. Targets are popular items whose ids are spread, except at the points "sorted".
PEERS = {
    # Each twin at its own V, and at the next multiple of 256 for the kernels that require one.
    "twins": [
        Point(name + suffix, tokens, items + pad, 256, popularity="spread")
        for name, (tokens, items) in TWINS.items()
        for suffix, pad in (("", 0), ("-256", -items % 256))
    ],
    "grid": [
        *(Point(f"v{items}", 32768, items, 256, popularity="spread") for items in (1024, 4096, 16384, 65536, 176384)),
        *(Point(f"d{dim}", 32768, 131072, dim, popularity="spread") for dim in (64, 128, 256, 512)),
        Point("v176450", 32768, 176450, 256, popularity="spread"),
    ],
    "popularity": [
        Point(f"popular-{order}", 32768, 176384, 256, scores="popular", popularity=order)
        for order in ("spread", "sorted")
    ],
}


def item_counts(point: Point, device: str = "cuda") -> Tensor:
    """Popularity of the items, [V] fp32 and not normalized: uniform, or Zipf's law in the order of the point."""
    if point.popularity == "uniform":
        return torch.ones(point.items, device=device)
    counts = 1.0 / torch.arange(1, point.items + 1, device=device)
    if point.popularity == "sorted":
        return counts
    return counts[torch.randperm(point.items, device=device, generator=torch.Generator(device).manual_seed(1))]


def make_inputs(point: Point, device: str = "cuda") -> Inputs:
    """Draw inputs with the point's kind of scores."""
    generator = torch.Generator(device).manual_seed(0)
    if point.popularity == "uniform":
        targets = torch.randint(0, point.items, (point.tokens,), device=device, generator=generator)
    else:
        # Not `multinomial`, whose sums on a GPU differ from run to run: processes must draw the same targets.
        upto = item_counts(point, device).double().cpu().cumsum(0).to(device)
        places = torch.rand(point.tokens, device=device, dtype=torch.float64, generator=generator)
        targets = torch.searchsorted(upto, places * upto[-1]).clamp_(max=point.items - 1)
    weight_dtype = getattr(torch, point.weight_dtype)
    weight = torch.empty(point.items, point.dim, device=device, dtype=weight_dtype).normal_(generator=generator)
    hidden = torch.randn(point.tokens, point.dim, device=device, generator=generator)
    if point.scores in ("flat", "popular"):
        hidden *= 0.5 / point.dim**0.5
        if point.scores == "popular":  # the last column adds the logarithm of the popularity to every score
            hidden[:, -1] = 1
            weight[:, -1] = item_counts(point, device).log()
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
