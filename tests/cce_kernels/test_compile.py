"""torch.compile and the custom operators that it sees: no graph break, one graph for all M, shapes told truly."""

import pytest
import torch
from kernel_cases import DEVICES, Record

from cce_kernels import GBCE, Popularity, autograd, linear_cross_entropy, sampled_linear_cross_entropy


def full_loss(hidden, weight, targets, step):
    return linear_cross_entropy(hidden * 1.0, weight, targets, impl="triton")


def sampled_loss(sampler):
    def loss_of(hidden, weight, targets, step):
        return sampled_linear_cross_entropy(
            hidden * 1.0, weight, targets, num_negatives=3, seed=1, step=step, sharing="tile", tile_tokens=4,
            objective=GBCE(), sampler=sampler, impl="triton",
        )  # fmt: skip

    return loss_of


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.slow  # importing the compiler alone takes seconds
def test_one_graph_without_breaks_for_every_number_of_tokens(device):
    from torch._dynamo.testing import CompileCounter

    weight = torch.randn(11, 16, device=device, requires_grad=True)
    for loss_of in (full_loss, sampled_loss(Popularity(torch.rand(11, device=device)))):
        torch._dynamo.reset()
        counter = CompileCounter()
        compiled = torch.compile(loss_of, backend=counter, fullgraph=True, dynamic=True)
        for tokens in (5, 9):  # two tiles, then three
            hidden = torch.randn(tokens, 16, device=device, requires_grad=True)
            targets, step = torch.randint(0, 11, (tokens,), device=device), torch.tensor(tokens, device=device)
            got, expected = compiled(hidden, weight, targets, step), loss_of(hidden, weight, targets, step)
            torch.testing.assert_close(got, expected)
            leaves = hidden, weight
            torch.testing.assert_close(torch.autograd.grad(got, leaves), torch.autograd.grad(expected, leaves))
        assert counter.frame_count == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("bias", "reduction"), [(False, "mean"), (True, "none")])
def test_operators_tell_the_shapes_and_dtypes_that_they_return(device, bias, reduction, monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(autograd, "is_compiling", lambda: True)  # take the road through the operators
    hidden = torch.randn(5, 16, device=device, dtype=torch.float16, requires_grad=True)
    weight = torch.randn(4, 16, device=device, requires_grad=True)
    b = torch.randn(4, device=device, requires_grad=True) if bias else None
    targets = torch.tensor([0, 3, -100, 1, 1], device=device)
    options = {"bias": b, "reduction": reduction, "impl": "triton"}
    with Record() as record:
        losses = [linear_cross_entropy(hidden, weight, targets, return_predicted=True, **options)[0]]
        for sharing in ("none", "tile"):
            negatives = 7 if sharing == "tile" else 2  # tile: enough for a 16-bit copy of the table
            losses += sampled_linear_cross_entropy(
                hidden, weight, targets, num_negatives=negatives, seed=1, sharing=sharing, return_lse=True, **options
            )
        sum(loss.sum() for loss in losses).backward()
    assert len(record.calls) == 6
    with FakeTensorMode() as mode:
        for operator, arguments, results in record.calls:
            told = operator(*(mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in arguments))
            for mine, real in zip(told, results, strict=True):
                assert (mine.shape, mine.dtype, mine.device) == (real.shape, real.dtype, real.device), operator


@pytest.mark.parametrize("device", DEVICES)
def test_strides_and_leading_dimensions_do_not_matter(device):
    hidden, weight = torch.randn(6, 16, device=device), torch.randn(5, 16, device=device)
    targets = torch.randint(0, 5, (6,), device=device)
    strided = hidden.T.contiguous().T.unflatten(0, (2, 3))
    shapes = targets.unflatten(0, (3, 2)).T  # another order of tokens, not contiguous
    order = torch.arange(6).unflatten(0, (3, 2)).T.flatten()
    options = {"reduction": "none", "impl": "triton"}
    for loss_of, more in ((linear_cross_entropy, {}), (sampled_linear_cross_entropy, {"num_negatives": 3, "seed": 1})):
        got = loss_of(strided, weight.T.contiguous().T, shapes, **more, **options)
        expected = loss_of(hidden, weight, targets[order], **more, **options)
        torch.testing.assert_close(got.flatten(), expected)
        empty = loss_of(hidden[:0], weight, targets[:0], **more, impl="triton")
        assert empty == 0


@pytest.mark.parametrize("device", DEVICES)
def test_vectors_of_any_stride(device):
    """Targets and a bias that are every second element of something: flat already, and not contiguous."""
    hidden, weight = torch.randn(12, 16, device=device), torch.randn(5, 16, device=device)
    bias, targets = torch.randn(10, device=device)[::2], torch.randint(0, 5, (12,), device=device)[::2]
    options = {"reduction": "none", "impl": "triton"}
    for loss_of, more in ((linear_cross_entropy, {}), (sampled_linear_cross_entropy, {"num_negatives": 3, "seed": 1})):
        got = loss_of(hidden[::2], weight, targets, bias=bias, **more, **options)
        packed = (hidden[::2].clone(), weight, targets.clone())
        torch.testing.assert_close(got, loss_of(*packed, bias=bias.clone(), **more, **options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("impl", ["triton", "reference"])
def test_autocast_gives_its_own_dtype(device, dtype, impl, bf16_of_hardware):
    hidden, weight = torch.randn(6, 16, device=device), torch.randn(5, 16, device=device)
    targets = torch.randint(0, 5, (6,), device=device)
    options = {"reduction": "none", "impl": impl}
    for loss_of, more in ((linear_cross_entropy, {}), (sampled_linear_cross_entropy, {"num_negatives": 3, "seed": 1})):
        with torch.autocast(device, dtype=dtype):
            got = loss_of(hidden, weight, targets, **more, **options)
        assert got.dtype == torch.float32
        assert torch.equal(got, loss_of(hidden.to(dtype), weight, targets, **more, **options))
