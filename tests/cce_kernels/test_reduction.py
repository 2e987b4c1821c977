"""Weights of tokens and of items, with both losses, against float64."""

import pytest
import sampled_cases
import torch
from full_cases import Case, make, score_size
from kernel_cases import DEVICES
from rounding import allowed_error
from torch import Tensor

from cce_kernels import linear_cross_entropy, sampled_linear_cross_entropy

pytestmark = pytest.mark.usefixtures("bf16_of_hardware")
Sampled = sampled_cases.Case
SMALL = {"tokens": 12, "items": 11, "negatives": 5, "dim": 16}  # the interpreter is slow


def weights_of(targets: Tensor, num_items: int, which: str) -> tuple[dict[str, Tensor], Tensor]:
    """The options for weights of `tokens`, `items` or `both`, and the factor of each token's loss, float64 [M]."""
    generator = torch.Generator().manual_seed(1)
    tokens, items = (torch.rand(size, generator=generator).to(targets.device) for size in (targets.numel(), num_items))
    counted = targets >= 0
    tokens[~counted] = torch.nan  # the weight of a token that does not count is not read
    factor = torch.where(counted, 1.0, torch.zeros_like(tokens, dtype=torch.float64))
    options = {}
    if which != "items":
        options["token_weights"], factor = tokens, torch.where(counted, factor * tokens, 0)
    if which != "tokens":
        options["item_weights"], factor = items, factor * items[targets.clamp(min=0)]
    return options, factor


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize(
    ("which", "reduction"), [("tokens", "mean"), ("items", "none"), ("both", "mean"), ("both", "sum")]
)
def test_weights_multiply_the_losses_of_the_full_softmax(device: str, impl: str, reduction: str, which: str) -> None:
    inputs = make(Case(18, 40, 64, torch.float32, scores="fitted"), device)
    options, factor = weights_of(inputs.targets, 40, which)
    found = linear_cross_entropy(
        inputs.hidden, inputs.weight, inputs.targets, reduction=reduction, impl=impl, **options
    )
    exact = [x.detach().double().requires_grad_() for x in inputs.leaves()]
    truth = factor * torch.nn.functional.cross_entropy(exact[0] @ exact[1].T, inputs.targets, reduction="none")
    truth = {"none": truth, "sum": truth.sum(), "mean": truth.sum() / factor.sum()}[reduction]
    gradients = [
        torch.autograd.grad((loss * inputs.grad.to(loss.dtype)).sum(), leaves)
        for loss, leaves in ((found, inputs.leaves()), (truth, exact))
    ]
    allowed = allowed_error(score_size(inputs), 64, 40, device)
    for x, y in zip((found, *gradients[0]), (truth, *gradients[1]), strict=True):
        assert ((x.double() - y).norm() / y.norm()).item() <= allowed


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize(
    ("case", "which", "reduction"),
    [
        (Sampled(**SMALL, targets="ignored", sparse=True), "tokens", "mean"),
        (Sampled(**SMALL, sampler="popularity", objective="gbce"), "items", "sum"),
        (Sampled(**SMALL, sampler="mixed", objective="cool", sharing="tile", dtype=torch.bfloat16), "both", "mean"),
        (Sampled(**SMALL, sharing="tile", tile=8, targets="ignored", deterministic=True), "both", "sum"),
        (Sampled(**SMALL, objective="bce", sharing="batch"), "items", "none"),
    ],
    ids=str,
)
def test_weights_multiply_sampled_losses(device: str, impl: str, case: Sampled, which: str, reduction: str) -> None:
    tensors, sampling = sampled_cases.make(case, device)
    options, factor = weights_of(tensors["targets"], case.items, which)
    found = sampled_linear_cross_entropy(
        tensors["hidden"], tensors["weight"], tensors["targets"], bias=tensors["bias"], reduction=reduction,
        objective=sampled_cases.objective_of(case), deterministic=case.deterministic, sparse_grad=case.sparse,
        impl=impl, **sampling, **options,
    )  # fmt: skip
    upstream = tensors["upstream"] if reduction == "none" else 1.5
    # The gradient of each loss is its factor times that of the result, over the sum of the factors for a mean.
    each = factor / (factor.sum() if reduction == "mean" else 1)
    loss, *gradients = sampled_cases.truth_of(case, tensors | {"upstream": each * upstream}, sampling)
    loss = loss * each if reduction == "none" else (loss * each).sum()
    ours = [found.detach(), *sampled_cases.gradients_of((found * upstream).sum(), tensors)]
    sampled_cases.assert_near(case, tensors, device, ours, [loss, *gradients])


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("name", ["token_weights", "item_weights"])
def test_check_reads_the_weights_of_tokens_that_count(name: str, sampled: bool) -> None:
    inputs = torch.ones(4, 3), torch.ones(5, 3), torch.tensor([1, -100, 2, 4])
    loss = sampled_linear_cross_entropy if sampled else linear_cross_entropy
    options = {"num_negatives": 4, "seed": 1} if sampled else {}
    weights = torch.tensor([1.0, torch.nan, 1.0, 1.0]) if name == "token_weights" else torch.ones(5)
    assert loss(*inputs, **{name: weights}, **options, check=True).isfinite()
    weights[2] = torch.inf
    with pytest.raises(ValueError, match=f"{name}: found NaN or infinity, allowed: finite numbers"):
        loss(*inputs, **{name: weights}, **options, check=True)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("sampled", [False, True])
def test_weights_may_be_learned(sampled: bool, reduction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, tokens, items = (
        torch.rand(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 3), (7, 3), (5,), (7,))
    )
    targets = torch.tensor([6, -100, 0, 6, 2])
    loss = sampled_linear_cross_entropy if sampled else linear_cross_entropy
    options = {"num_negatives": 4, "seed": 1} if sampled else {}
    assert torch.autograd.gradcheck(
        lambda h, w, t, i: loss(h, w, targets, token_weights=t, item_weights=i, reduction=reduction, **options),
        (hidden, weight, tokens, items),
    )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_basket_is_its_token_repeated_with_a_share_of_its_weight(reduction: str) -> None:
    """So a sampled loss needs no several targets per token."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (5, 9))
    baskets = torch.randint(0, 9, (5, 3), generator=generator)
    basket = linear_cross_entropy(hidden, weight, baskets, reduction=reduction)
    repeated = linear_cross_entropy(
        hidden[:, None].expand(-1, 3, -1), weight, baskets, token_weights=torch.full((5, 3), 1 / 3), reduction=reduction
    )
    torch.testing.assert_close(repeated, basket, rtol=1e-6, atol=0)  # a third is rounded to fp32
