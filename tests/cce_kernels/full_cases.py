"""Inputs and float64 truth for the tests of the full loss."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from cce_kernels import linear_cross_entropy

linear_cross_entropy_triton = partial(linear_cross_entropy, impl="triton", reduction="none", return_lse=True)

NAMES = ("loss", "dhidden", "dweight", "dbias")


@dataclass(frozen=True)
class Case:
    tokens: int
    items: int
    dim: int
    dtype: torch.dtype = torch.float32
    weight_dtype: torch.dtype | None = None
    bias: bool = False
    softcap: float | None = None
    per_token: bool = False
    scores: str = "flat"  # flat | peaked | fitted
    ignore_index: int = -100

    def __str__(self) -> str:
        parts = [f"M{self.tokens}-V{self.items}-D{self.dim}-{str(self.dtype)[6:]}", self.scores]
        parts += [str(self.weight_dtype)[6:]] if self.weight_dtype else []
        parts += ["bias"] * self.bias + ["pertoken"] * self.per_token
        parts += [f"cap{self.softcap:g}"] if self.softcap else []
        parts += [f"ignore{self.ignore_index}"] if self.ignore_index != -100 else []
        return "-".join(parts)


@dataclass
class Inputs:
    hidden: Tensor
    weight: Tensor
    targets: Tensor
    bias: Tensor | None
    grad: Tensor  # [M] upstream gradient
    shared: bool  # ... is one number for all
    ignore_index: int = -100

    def leaves(self) -> list[Tensor]:
        return [x for x in (self.hidden, self.weight, self.bias) if x is not None]


def make(case: Case, device: str = "cpu", seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    targets = torch.randint(0, case.items, (case.tokens,), generator=generator)
    weight = normal(case.items, case.dim)
    hidden = normal(case.tokens, case.dim)
    if case.scores == "flat":
        hidden *= 0.5 / case.dim**0.5
    elif case.scores == "peaked":
        hidden *= 4.0 / case.dim**0.5
    else:  # p_t from one half to 0.999...: the score of the target stands out by log V + up to 8
        margin = torch.linspace(0, 8, case.tokens)[:, None] + torch.tensor(float(case.items)).log()
        own = weight[targets]
        hidden = hidden * 0.3 / case.dim**0.5 + own * margin / (own**2).sum(1, keepdim=True)
    if case.tokens > 4:
        targets[1] = targets[2] = targets[0]
        targets[3] = case.ignore_index
    grad = torch.rand(case.tokens, generator=generator) + 0.1
    if not case.per_token:
        grad = torch.full((case.tokens,), 1.0 / max(1, int((targets != case.ignore_index).sum())))
    return Inputs(
        hidden.to(device, case.dtype).requires_grad_(),
        weight.to(device, case.weight_dtype or case.dtype).requires_grad_(),
        targets.to(device),
        (normal(case.items) * 0.3).to(device).requires_grad_() if case.bias else None,
        grad.to(device),
        not case.per_token,
        case.ignore_index,
    )


def backward(loss: Tensor, inputs: Inputs) -> list[Tensor]:
    """Loss and gradients; a shared upstream gradient arrives as an expanded scalar, as a mean sends it."""
    total = loss.sum() * inputs.grad[0].to(loss.dtype) if inputs.shared else (loss * inputs.grad.to(loss.dtype)).sum()
    return [loss.detach(), *torch.autograd.grad(total, inputs.leaves())]


def run(inputs: Inputs, softcap: float | None = None, **options: object) -> list[Tensor]:
    """What the kernels compute: loss and gradients."""
    loss, _ = linear_cross_entropy_triton(
        inputs.hidden, inputs.weight, inputs.targets, bias=inputs.bias, softcap=softcap,
        ignore_index=inputs.ignore_index, **options,
    )  # fmt: skip
    return backward(loss, inputs)


def truth_of(inputs: Inputs, softcap: float | None = None) -> list[Tensor]:
    """What plain torch computes in float64, from the weights as the kernel multiplies them."""
    dtype = torch.float64
    weight = inputs.weight.detach().to(inputs.hidden.dtype).to(dtype).requires_grad_()
    bias = None if inputs.bias is None else inputs.bias.detach().to(dtype).requires_grad_()
    hidden = inputs.hidden.detach().to(dtype).requires_grad_()
    scores = hidden @ weight.T
    if bias is not None:
        scores = scores + bias
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    loss = torch.nn.functional.cross_entropy(scores, inputs.targets, ignore_index=inputs.ignore_index, reduction="none")
    return backward(loss, replace(inputs, hidden=hidden, weight=weight, bias=bias))


def errors(got: list[Tensor], truth: list[Tensor]) -> dict[str, float]:
    """Relative error of each result in the Euclidean norm."""
    names = NAMES[: len(truth)]
    return {
        name: ((x.double() - y.double()).norm() / y.double().norm().clamp_min(1e-30)).item()
        for name, x, y in zip(names, got, truth, strict=True)
    }


def score_size(inputs: Inputs) -> float:
    """The largest score, its bias included; a softcap only makes it smaller."""
    scores = inputs.hidden.detach().double() @ inputs.weight.detach().double().T
    return float(scores.abs().max()) + (0.0 if inputs.bias is None else float(inputs.bias.detach().abs().max()))


def worst_row(got: Tensor, truth: Tensor) -> float:
    """Largest relative error of a row, in the Euclidean norm: of a token's loss [M], of its dH or an item's dW [*, D].

    A row of zeros must be one. Half a step of fp16's smallest numbers is forgiven.
    """
    exact = truth.double().view(len(truth), -1)
    apart = (got.double().view(exact.shape) - exact).abs()
    if got.dtype == torch.float16:
        apart = (apart - 2.0**-25).clamp_min(0)
    size = exact.norm(dim=1)
    assert not apart[size == 0].any()
    return (apart.norm(dim=1) / size.clamp_min(1e-30)).amax().item()
