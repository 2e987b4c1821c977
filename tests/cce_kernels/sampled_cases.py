"""Cases of the sampled losses, and an independent definition of each in plain torch with autograd."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from rounding import allowed_error
from torch.nn.functional import logsigmoid

from cce_kernels import (
    BCE,
    GBCE,
    InBatch,
    Mixed,
    Popularity,
    Softmax,
    Uniform,
    draw_negatives,
    sampled_linear_cross_entropy,
)
from cce_kernels.sampled.call import SampledCall, sampled_call
from cce_kernels.sampled.draws import draw_ids, groups_of


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
    lse: bool = False  # of a softmax: a gradient flows through the log-sum-exp too
    targets: str = "random"  # random | same | ignored | fitted
    ignore_index: int = -100
    peak: float = 1.0  # factor of the scores
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def has_lse(self) -> bool:
        return self.lse and self.objective in ("softmax", "cool")

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        on = {"-bias": self.bias, "-det": self.deterministic, "-sparse": self.sparse, "-lse": self.lse}
        on["-ignore0"] = not self.ignore_index
        flags = "".join(flag for flag, is_on in on.items() if is_on)
        flags += f"-peak{self.peak:g}" if self.peak != 1 else ""
        sizes = f"M{self.tokens}-V{self.items}-N{self.negatives}-D{self.dim}"
        return f"{sizes}-{name}-{self.sampler}-{self.objective}-{self.sharing}{self.tile}-{self.targets}{flags}"


def make(case: Case, device: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Leaves and options of a case."""
    generator = torch.Generator().manual_seed(case.dim + case.tokens)
    hidden = torch.randn(case.tokens, case.dim, generator=generator) * (case.peak / case.dim**0.5)
    weight = torch.randn(case.items, case.dim, generator=generator)
    bias = 0.3 * torch.randn(case.items, generator=generator) if case.bias else None
    targets = torch.randint(0, case.items, (case.tokens,), generator=generator)
    if case.targets == "same":
        targets = torch.full_like(targets, case.items - 1)
    if case.targets == "ignored":
        targets[::3] = case.ignore_index
    if case.ignore_index == 0 and case.tokens > 1:
        targets[1] = 0
    if case.targets == "fitted":  # the target's score stands out: p_t near 0.999
        hidden = weight[targets] * (math.log(1000.0 * case.negatives) / weight[targets].norm(dim=1, keepdim=True) ** 2)
    counts = torch.randint(0, 9, (case.items,), generator=generator)
    counts[0], counts[-1] = 0, 5
    samplers = {
        "uniform": Uniform(),
        "popularity": Popularity(counts.to(device), 0.7),
        "constant": Popularity(counts.to(device), logq=False),
        "in_batch": InBatch(),
        "mixed": Mixed(others=Popularity(counts.to(device), 0.7), share=0.8),
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
        "tile_tokens": case.tile, "sampler": samplers[case.sampler], "ignore_index": case.ignore_index,
    }  # fmt: skip
    return tensors, options


def objective_of(case: Case) -> Any:
    return {"softmax": Softmax(), "cool": Softmax(0.4), "bce": BCE(), "gbce": GBCE(0.5)}[case.objective]


def truth_of(case: Case, tensors: dict[str, torch.Tensor], options: dict[str, Any]) -> list[torch.Tensor]:
    """Loss and gradients from the definition, in float64, by gathering [M, N, D]."""
    dtype = torch.float64
    hidden = tensors["hidden"].detach().to(dtype).requires_grad_()
    rounded = tensors["weight"].detach().to(tensors["hidden"].dtype)
    weight = rounded.to(dtype).requires_grad_()
    bias = tensors["bias"].detach().to(dtype).requires_grad_() if case.bias else None
    targets, sampler = tensors["targets"], options["sampler"]
    valid = targets != case.ignore_index
    safe = torch.where(valid, targets, 0)
    on = {**options, "seed": torch.tensor(options["seed"], device=targets.device)}
    if isinstance(sampler, InBatch):
        on["targets"] = targets
    else:
        del on["ignore_index"]  # no other sampler reads the targets
    ids = draw_negatives(case.tokens, case.items, **on)
    positive = (hidden * weight[safe]).sum(1)
    scores = (hidden[:, None, :] * weight[ids]).sum(2)
    if bias is not None:
        positive, scores = positive + bias[safe], scores + bias[ids]
    kept = ids != safe[:, None]
    left = kept.sum(1)
    if case.objective in ("softmax", "cool"):
        if case.objective == "cool":
            positive, scores = positive / 0.4, scores / 0.4
        if case.sampler in ("uniform", "constant"):
            scores = scores + math.log(case.items - 1) - left.clamp(min=1).to(dtype).log()[:, None]
        else:
            q = share_of(sampler, targets[valid], case.items)
            constant = torch.log1p(-q[safe]) - left.clamp(min=1).to(dtype).log()
            correction = torch.where(left > 0, constant, 0.0)[:, None] - q[ids].log()
            scores = scores + torch.where(valid[:, None], correction, 0.0)  # q is 0 where nothing counts
        scores = scores.masked_fill(~kept, -torch.inf)
        alone = scores.isneginf().all(1)  # logsumexp would have a gradient of NaN
        z = scores.masked_fill(alone[:, None], 0.0).logsumexp(1) - positive
        loss = torch.logaddexp(z, torch.zeros_like(z)).masked_fill(alone, 0.0)  # a loss of 1e-11 keeps its digits
    else:
        beta, scale = 1.0, 1.0
        if case.objective == "gbce":
            rate = case.negatives / (case.items - 1)
            beta, scale = 1 - 0.5 * (1 - rate), 1 / (case.negatives + 1)
        loss = -scale * (beta * logsigmoid(positive) + (logsigmoid(-scores) * kept).sum(1))
    loss = torch.where(valid, loss, 0)
    leaves = [hidden, weight] + ([] if bias is None else [bias])
    total = (loss * tensors["upstream"].to(dtype)).sum()
    if case.has_lse:
        total = total + 0.1 * torch.where(valid, loss + positive, 0).square().sum()
    return [loss.detach(), *torch.autograd.grad(total, leaves)]


def share_of(sampler: Any, targets: torch.Tensor, items: int) -> torch.Tensor:
    """Probabilities of the items, float64 [V], of a sampler with alpha 0.7, or targets that count."""
    if isinstance(sampler, Popularity):
        return sampler.counts.double() ** 0.7 / (sampler.counts.double() ** 0.7).sum()
    batch = torch.bincount(targets, minlength=items).double() / max(len(targets), 1)
    if not isinstance(sampler, Mixed):
        return batch
    return (1 - sampler.share) * batch + sampler.share * share_of(sampler.others, targets, items)


def ours(case: Case, tensors: dict[str, torch.Tensor], options: dict[str, Any], impl: str) -> list[torch.Tensor]:
    """Loss and gradients from the package."""
    found = sampled_linear_cross_entropy(
        tensors["hidden"], tensors["weight"], tensors["targets"], bias=tensors.get("bias"), reduction="none",
        objective=objective_of(case), deterministic=case.deterministic, sparse_grad=case.sparse, impl=impl,
        return_lse=case.has_lse, **options,
    )  # fmt: skip
    loss, lse = found if case.has_lse else (found, None)
    total = (loss * tensors["upstream"]).sum()
    return [loss.detach(), *gradients_of(total if lse is None else total + 0.1 * lse.square().sum(), tensors)]


def gradients_of(loss: torch.Tensor, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Dense gradients of hidden, weight and, if there is one, bias."""
    leaves = [tensors[name] for name in ("hidden", "weight", "bias") if name in tensors]
    return [x.to_dense() if x.is_sparse else x for x in torch.autograd.grad(loss, leaves)]


def drawn_ids(call: SampledCall) -> torch.Tensor:
    """The ids int64 [G, N] of every group, written out by the kernels' own code."""
    from cce_kernels.sampled.kernels.sum_by_item import launch_draw_keys

    ids = torch.empty(call.num_groups, call.num_negatives, dtype=torch.int64, device=call.hidden.device)
    launch_draw_keys(call, ids, call.num_negatives, 0, call.num_groups)
    return ids


def assert_kernels_draw_the_ids_of_the_reference(
    device: str, sharing: str, sampler: str, tokens: int, negatives: int
) -> None:
    """With a seed and a step near their ends, and rows of a larger batch."""
    tensors, options = make(Case(tokens=tokens, items=70001, dim=16, sampler=sampler, bias=False), device)
    groups = groups_of(tokens, sharing, 64, 130)
    call = sampled_call(
        tensors["hidden"], tensors["weight"], None, tensors["targets"], options["sampler"], Softmax(),
        2**62 + 12345, 2**32 - 3, num_negatives=negatives, groups=groups, ignore_index=-100, deterministic=False,
    )  # fmt: skip
    expected = draw_ids(call.source, call.seed, call.step, groups, 0, groups.number, negatives)
    assert torch.equal(drawn_ids(call), expected)


def relative_error(got: torch.Tensor, truth: torch.Tensor) -> float:
    """Error in the Euclidean norm; half a step of fp16's smallest numbers is forgiven."""
    apart = (got.double() - truth.double()).abs()
    if got.dtype == torch.float16:
        apart = (apart - 2.0**-25).clamp(min=0)
    return float(apart.norm() / truth.double().norm().clamp(min=1e-12))


def score_size(case: Case, tensors: dict[str, torch.Tensor]) -> float:
    """The largest finite score, with its bias, and what corrects it: log q, log V and log N."""
    hidden, weight = tensors["hidden"].detach().double(), tensors["weight"].detach().double()
    found = [torch.nan_to_num(hidden @ weight.T, 0.0, 0.0, 0.0)]
    if case.bias:
        found.append(torch.nan_to_num(tensors["bias"].detach(), 0.0, 0.0, 0.0))
    largest = sum(float(x.abs().max()) for x in found) / (0.4 if case.objective == "cool" else 1.0)
    return largest + 2 * math.log(case.items * case.negatives)


def assert_exact(case: Case, device: str, impl: str = "triton") -> None:
    """Loss and gradients agree with float64 as far as the dtype's digits go."""
    assert_true(case, *make(case, device), device, impl)


def assert_true(
    case: Case, tensors: dict[str, torch.Tensor], options: dict[str, Any], device: str, impl: str = "triton"
) -> None:
    """As `assert_exact`, for the leaves of `make` after a change."""
    assert_near(case, tensors, device, ours(case, tensors, options, impl), truth_of(case, tensors, options))


def assert_near(
    case: Case, tensors: dict[str, torch.Tensor], device: str, found: list[torch.Tensor], truth: list[torch.Tensor]
) -> None:
    """A loss and the gradients of the leaves agree with those in float64 as far as the dtype's digits go."""
    sizes = score_size(case, tensors), case.dim, max(case.negatives, case.tokens), device
    names = ("loss", "hidden", "weight", "bias")
    for name, got, exact in zip(names, found, truth, strict=False):
        dtype = {"hidden": case.dtype, "weight": case.dtype}.get(name, torch.float32)
        if name == "weight" and case.weight_dtype == torch.bfloat16:
            dtype = torch.bfloat16
        elif (name, case.sharing) == ("weight", "none"):
            dtype = torch.float32  # sums of an item's draws, on the CUDA cores
        error, allowed = relative_error(got, exact), allowed_error(*sizes, dtype)
        assert error <= allowed, f"{name}: {error:.2e} > {allowed:.2e}"
