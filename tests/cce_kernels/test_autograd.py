"""Gradients of the losses have no derivative: who asks for one is told, and who does not is not disturbed."""

from functools import partial

import pytest
import torch
from kernel_cases import DEVICES

from cce_kernels import BCE, autograd, linear_cross_entropy, sampled_linear_cross_entropy

LOSSES = {
    "full": (linear_cross_entropy, {}),
    "none": (sampled_linear_cross_entropy, {"num_negatives": 3, "seed": 1}),
    "tile": (sampled_linear_cross_entropy, {"num_negatives": 3, "seed": 1, "sharing": "tile"}),
    "sparse": (sampled_linear_cross_entropy, {"num_negatives": 3, "seed": 1, "sparse_grad": True}),
}


@pytest.fixture(params=DEVICES)
def leaves(request):
    generator = torch.Generator().manual_seed(2)
    shapes = {"hidden": (6, 16), "weight": (9, 16), "bias": (9,)}
    return {
        name: torch.randn(*shape, generator=generator).to(request.param).requires_grad_()
        for name, shape in shapes.items()
    }


def loss_of(loss, impl, leaves, hidden=None, **more):
    function, options = LOSSES[loss]
    targets = torch.tensor([0, 8, 3, -100, 3, 1], device=leaves["weight"].device)
    hidden = leaves["hidden"] if hidden is None else hidden
    return function(hidden, leaves["weight"], targets, bias=leaves["bias"], impl=impl, **options, **more)


@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_gradient_penalty_is_refused(leaves, loss, impl, reduction):
    for name in leaves:
        value = loss_of(loss, impl, leaves, reduction=reduction).sum()
        (gradient,) = torch.autograd.grad(value, leaves[name], create_graph=True)
        penalty = (gradient.to_dense() if gradient.is_sparse else gradient).pow(2).sum()
        with pytest.raises(RuntimeError, match=r"^cce_kernels: the gradient of a loss cannot be differentiated again"):
            (value + 10 * penalty).backward()


@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_penalty_is_refused_whatever_it_is_differentiated_by(leaves, loss, impl):
    wanted = list(leaves.values())

    def penalised():
        value = loss_of(loss, impl, leaves)
        (gradient,) = torch.autograd.grad(value, leaves["hidden"], create_graph=True)
        return value + 10 * gradient.pow(2).sum()

    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(penalised(), wanted)
    for leaf in wanted:
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            penalised().backward(inputs=[leaf])
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.functional.hessian(lambda x: loss_of(loss, impl, leaves, hidden=x), leaves["hidden"].detach())


@pytest.mark.parametrize("impl", ["triton", "reference"])
def test_a_penalty_through_a_network_is_refused(leaves, impl):
    """The gradient of a network's input, as of an adversarial perturbation: dH is a step on its way."""
    inputs = torch.randn_like(leaves["hidden"]).requires_grad_()
    value = loss_of("full", impl, leaves, hidden=torch.tanh(inputs @ leaves["hidden"].T @ leaves["hidden"]))
    (gradient,) = torch.autograd.grad(value, inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        gradient.pow(2).sum().backward()


@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("loss", LOSSES)
def test_create_graph_alone_changes_no_gradient(leaves, loss, impl):
    wanted = list(leaves.values())
    expected = torch.autograd.grad(loss_of(loss, impl, leaves), wanted)
    got = torch.autograd.grad(loss_of(loss, impl, leaves), wanted, create_graph=True)
    for mine, other in zip(got, expected, strict=True):
        assert mine.requires_grad
        assert not other.requires_grad
        assert mine.is_sparse == other.is_sparse
        assert torch.equal(mine.to_dense(), other.to_dense())
    assert not mine.is_sparse or mine.is_coalesced()
    optimizer = torch.optim.SGD(wanted, lr=1.0)
    before = leaves["weight"].detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(loss, impl, leaves).backward(create_graph=True)
        optimizer.step()
    assert not torch.equal(leaves["weight"], before)


@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_is_not_disturbed(leaves, impl, reentrant):
    wanted = list(leaves.values())
    loss_of("full", impl, leaves).backward()
    expected = [leaf.grad for leaf in wanted]
    for leaf in wanted:
        leaf.grad = None

    def part(hidden):
        return loss_of("full", impl, leaves, hidden=hidden)

    torch.utils.checkpoint.checkpoint(part, leaves["hidden"], use_reentrant=reentrant).backward()
    torch.testing.assert_close([leaf.grad for leaf in wanted], expected)


@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("loss", ["full", "tile"])
def test_the_operators_refuse_too(leaves, loss, impl, monkeypatch):
    monkeypatch.setattr(autograd, "is_compiling", lambda: True)  # take the road through the operators
    value = loss_of(loss, impl, leaves)
    (gradient,) = torch.autograd.grad(value, leaves["hidden"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"cce_kernels[.:]+\w+_backward"):
        (value + gradient.pow(2).sum()).backward()


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda y: f(y).sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "vmap": lambda f, x: torch.func.vmap(f)(x[None]),
    "per sample": lambda f, x: torch.func.vmap(torch.func.grad(lambda y: f(y).sum()))(x[None]),
    "batched": lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
}


@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_of_torch_func_are_refused_by_name(leaves, loss, impl, transform):
    with pytest.raises(RuntimeError, match=r"^cce_kernels: found a transform of torch\.func .*, allowed: "):
        TRANSFORMS[transform](partial(one_by_one, loss, impl, leaves), leaves["hidden"].detach())


@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("loss", LOSSES)
def test_forward_mode_is_refused_by_name(leaves, loss, impl):
    with torch.autograd.forward_ad.dual_level():
        hidden = torch.autograd.forward_ad.make_dual(leaves["hidden"].detach(), leaves["hidden"].detach())
        with pytest.raises(RuntimeError, match=r"^cce_kernels: found forward-mode"):
            loss_of(loss, impl, leaves, hidden=hidden)


def one_by_one(loss, impl, leaves, hidden):
    return loss_of(loss, impl, leaves, hidden=hidden, reduction="none")


@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("loss", [*LOSSES, "deterministic", "bce"])
@pytest.mark.parametrize(("road", "dtype"), [("eager", torch.bfloat16), ("operators", torch.float32)])
def test_backward_may_run_inside_autocast(leaves, loss, impl, road, dtype, monkeypatch, bf16_of_hardware):
    if road == "operators":
        monkeypatch.setattr(autograd, "is_compiling", lambda: True)
    more = {"deterministic": {"deterministic": True}, "bce": {"objective": BCE()}}.get(loss, {})
    loss = loss if loss in LOSSES else "tile"
    wanted, device = list(leaves.values()), leaves["weight"].device.type
    hidden = leaves["hidden"].to(dtype)
    expected = torch.autograd.grad(loss_of(loss, impl, leaves, hidden=hidden, **more), wanted, retain_graph=True)
    value = loss_of(loss, impl, leaves, hidden=hidden, **more)
    with torch.autocast(device, torch.bfloat16):
        found = torch.autograd.grad(value, wanted)
    for mine, exact in zip(found, expected, strict=True):
        assert mine.dtype == exact.dtype
        torch.testing.assert_close(mine.to_dense(), exact.to_dense())
