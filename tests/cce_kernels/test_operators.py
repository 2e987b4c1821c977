"""torch.compile and the custom operators that it sees: no graph break, one graph for all M, shapes told truly."""

import pytest
import torch

from cce_kernels import GBCE, Popularity, linear_cross_entropy, sampled_linear_cross_entropy

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def full_loss(hidden, weight, targets, step):
    return linear_cross_entropy(hidden * 1.0, weight, targets, impl="triton")


def sampled_loss(sampler):
    def loss_of(hidden, weight, targets, step):
        return sampled_linear_cross_entropy(
            hidden * 1.0, weight, targets, num_negatives=3, seed=1, step=step, sharing="tile", tile_tokens=4,
            objective=GBCE(), sampler=sampler, impl="triton",
        )  # fmt: skip

    return loss_of


@pytest.mark.slow  # importing the compiler alone takes seconds
def test_one_graph_without_breaks_for_every_number_of_tokens():
    from torch._dynamo.testing import CompileCounter

    weight = torch.randn(11, 16, device=DEVICE, requires_grad=True)
    for loss_of in (full_loss, sampled_loss(Popularity(torch.rand(11)))):
        torch._dynamo.reset()
        counter = CompileCounter()
        compiled = torch.compile(loss_of, backend=counter, fullgraph=True, dynamic=True)
        for tokens in (5, 9):  # two tiles, then three
            hidden = torch.randn(tokens, 16, device=DEVICE, requires_grad=True)
            targets, step = torch.randint(0, 11, (tokens,), device=DEVICE), torch.tensor(tokens, device=DEVICE)
            got, expected = compiled(hidden, weight, targets, step), loss_of(hidden, weight, targets, step)
            torch.testing.assert_close(got, expected)
            leaves = hidden, weight
            torch.testing.assert_close(torch.autograd.grad(got, leaves), torch.autograd.grad(expected, leaves))
        assert counter.frame_count == 1


class Record(torch.utils._python_dispatch.TorchDispatchMode):
    """Keeps the calls of this package's operators, with what they returned."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        if operator.namespace == "cce_kernels":
            self.calls.append((operator, arguments, result))
        return result


@pytest.mark.parametrize(("bias", "reduction"), [(False, "mean"), (True, "none")])
def test_operators_tell_the_shapes_and_dtypes_that_they_return(bias, reduction, monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # take the road through the operators
    hidden = torch.randn(5, 16, device=DEVICE, dtype=torch.float16, requires_grad=True)
    weight = torch.randn(4, 16, device=DEVICE, requires_grad=True)
    b = torch.randn(4, device=DEVICE, requires_grad=True) if bias else None
    targets = torch.tensor([0, 3, -100, 1, 1], device=DEVICE)
    options = {"bias": b, "reduction": reduction, "impl": "triton"}
    with Record() as record:
        losses = [linear_cross_entropy(hidden, weight, targets, **options)]
        for sharing in ("none", "tile"):
            negatives = 7 if sharing == "tile" else 2  # tile: enough for a 16-bit copy of the table
            losses.append(
                sampled_linear_cross_entropy(
                    hidden, weight, targets, num_negatives=negatives, seed=1, sharing=sharing, **options
                )
            )
        sum(loss.sum() for loss in losses).backward()
    assert len(record.calls) == 6
    with FakeTensorMode() as mode:
        for operator, arguments, results in record.calls:
            told = operator(*(mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in arguments))
            for mine, real in zip(told, results, strict=True):
                assert (mine.shape, mine.dtype, mine.device) == (real.shape, real.dtype, real.device), operator


def test_strides_and_leading_dimensions_do_not_matter():
    hidden, weight = torch.randn(6, 16, device=DEVICE), torch.randn(5, 16, device=DEVICE)
    targets = torch.randint(0, 5, (6,), device=DEVICE)
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
