"""Cases of the sampled losses, and an independent definition of each in plain torch with autograd."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from cce_kernels import BCE, GBCE, InBatch, Popularity, Softmax, Uniform, draw_negatives, sampled_linear_cross_entropy

IGNORE = -100


@dataclass
class Case:
    dim: int = 20
    tokens: int = 37
    items: int = 23
    negatives: int = 13
    dtype: torch.dtype = torch.float32
    weight_dtype: torch.dtype = torch.float32
    sampler: str = "uniform"
    objective: str = "softmax"
    sharing: str = "none"
    tile: int = 64
    offset: int = 0
    bias: bool = True
    deterministic: bool = False
    sparse: bool = False
    targets: str = "random"  # random | same | ignored | fitted
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        flags = "".join(flag for flag, on in (("-det", self.deterministic), ("-sparse", self.sparse)) if on)
        sizes = f"M{self.tokens}-V{self.items}-N{self.negatives}-D{self.dim}"
        return f"{sizes}-{name}-{self.sampler}-{self.objective}-{self.sharing}{self.tile}-{self.targets}{flags}"


def make(case: Case, device: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Leaves and options of a case."""
    generator = torch.Generator().manual_seed(case.dim + case.tokens)
    hidden = torch.randn(case.tokens, case.dim, generator=generator) / case.dim**0.5
    weight = torch.randn(case.items, case.dim, generator=generator)
    bias = 0.3 * torch.randn(case.items, generator=generator) if case.bias else None
    targets = torch.randint(0, case.items, (case.tokens,), generator=generator)
    if case.targets == "same":
        targets = torch.full_like(targets, case.items - 1)
    if case.targets == "ignored":
        targets[::3] = IGNORE
    if case.targets == "fitted":  # the target's score stands out: p_t near 0.999
        hidden = weight[targets] * (math.log(1000.0 * case.negatives) / weight[targets].norm(dim=1, keepdim=True) ** 2)
    counts = torch.randint(0, 9, (case.items,), generator=generator)
    counts[0], counts[-1] = 0, 5
    samplers = {
        "uniform": Uniform(),
        "popularity": Popularity(counts.to(device), 0.7),
        "constant": Popularity(counts.to(device), logq=False),
        "in_batch": InBatch(),
    }
    tensors = {
        "hidden": hidden.to(device, case.dtype).requires_grad_(),
        "weight": weight.to(device, case.weight_dtype).requires_grad_(),
        "targets": targets.to(device),
        "upstream": torch.rand(case.tokens, generator=generator).to(device),
    }
    if bias is not None:
        tensors["bias"] = bias.to(device).requires_grad_()
    options = {
        "num_negatives": case.negatives, "seed": 5, "step": 2, "row_offset": case.offset, "sharing": case.sharing,
        "tile_tokens": case.tile, "sampler": samplers[case.sampler],
    }  # fmt: skip
    return tensors, options


def objective_of(case: Case) -> Any:
    return {"softmax": Softmax(), "bce": BCE(), "gbce": GBCE(0.5)}[case.objective]


def eager(
    case: Case, tensors: dict[str, torch.Tensor], options: dict[str, Any], dtype: torch.dtype
) -> list[torch.Tensor]:
    """Loss and gradients from the definition, by gathering [M, N, D] in `dtype`."""
    hidden = tensors["hidden"].detach().to(dtype).requires_grad_()
    rounded = tensors["weight"].detach().to(tensors["hidden"].dtype)
    weight = rounded.to(dtype).requires_grad_()
    bias = tensors["bias"].detach().to(dtype).requires_grad_() if case.bias else None
    targets, sampler = tensors["targets"], options["sampler"]
    valid = targets != IGNORE
    safe = torch.where(valid, targets, 0)
    needs_targets = targets if isinstance(sampler, InBatch) else None
    on = {"seed": torch.tensor(options["seed"], device=targets.device)}
    ids = draw_negatives(case.tokens, case.items, targets=needs_targets, **{**options, **on})
    positive = (hidden * weight[safe]).sum(1)
    scores = (hidden[:, None, :] * weight[ids]).sum(2)
    if bias is not None:
        positive, scores = positive + bias[safe], scores + bias[ids]
    kept = ids != safe[:, None]
    left = kept.sum(1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    positive, scores = positive.to(wide), scores.to(wide)
    if case.objective == "softmax":
        if case.sampler in ("uniform", "constant"):
            scores = scores + math.log(case.items - 1) - left.clamp(min=1).to(wide).log()[:, None]
        else:
            if case.sampler == "in_batch":
                q = torch.bincount(targets[valid], minlength=case.items).to(wide) / valid.sum()
            else:
                q = sampler.counts.to(wide) ** 0.7 / (sampler.counts.to(wide) ** 0.7).sum()
            constant = torch.log1p(-q[safe]) - left.clamp(min=1).to(wide).log()
            scores = scores - q[ids].log() + torch.where(left > 0, constant, 0.0)[:, None]
        scores = scores.masked_fill(~kept, -torch.inf)
        loss = torch.cat((positive[:, None], scores), 1).logsumexp(1) - positive
    else:
        beta, scale = 1.0, 1.0
        if case.objective == "gbce":
            rate = case.negatives / (case.items - 1)
            beta, scale = 1 - 0.5 * (1 - rate), 1 / (case.negatives + 1)
        loss = -scale * (beta * logsigmoid(positive) + (logsigmoid(-scores) * kept).sum(1))
    loss = torch.where(valid, loss, 0)
    leaves = [hidden, weight] + ([] if bias is None else [bias])
    return [loss.detach(), *torch.autograd.grad((loss * tensors["upstream"].to(wide)).sum(), leaves)]


def ours(case: Case, tensors: dict[str, torch.Tensor], options: dict[str, Any], impl: str) -> list[torch.Tensor]:
    """Loss and gradients from the package."""
    loss = sampled_linear_cross_entropy(
        tensors["hidden"], tensors["weight"], tensors["targets"], bias=tensors.get("bias"), reduction="none",
        objective=objective_of(case), deterministic=case.deterministic, sparse_grad=case.sparse, impl=impl, **options,
    )  # fmt: skip
    leaves = [tensors["hidden"], tensors["weight"]] + ([tensors["bias"]] if case.bias else [])
    gradients = torch.autograd.grad((loss * tensors["upstream"]).sum(), leaves)
    return [loss.detach(), *(x.to_dense() if x.is_sparse else x for x in gradients)]


def relative_error(got: torch.Tensor, truth: torch.Tensor) -> float:
    got, truth = got.double(), truth.double()
    return float((got - truth).norm() / truth.norm().clamp(min=1e-12))


def assert_as_good_as_eager(case: Case, device: str, impl: str = "triton") -> None:
    """Errors against float64 are at most those of eager torch in the same dtype, plus a small constant."""
    tensors, options = make(case, device)
    truth = eager(case, tensors, options, torch.float64)
    plain = eager(case, tensors, options, case.dtype)
    small = {torch.float32: 3e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}[case.dtype]
    names = ("loss", "hidden", "weight", "bias")
    for name, got, eager_result, exact in zip(names, ours(case, tensors, options, impl), plain, truth, strict=False):
        error, allowed = relative_error(got, exact), relative_error(eager_result, exact) + small
        assert error <= allowed, f"{name}: {error:.2e} > {allowed:.2e}"
