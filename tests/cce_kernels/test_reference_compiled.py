"""torch.compile of the reference: one graph for any number of tokens, the numbers of eager mode."""

import pytest
import torch
from kernel_cases import Record
from torch.testing import assert_close

from cce_kernels import GBCE, InBatch, Popularity, autograd, linear_cross_entropy, sampled_linear_cross_entropy
from cce_kernels.full import reference
from cce_kernels.sampled import reference as reference_sampled

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
V, D = 11, 6


def full(hidden, weight, bias, targets, step):
    loss, lse, predicted = linear_cross_entropy(
        hidden * 1.0, weight, targets, bias=bias, softcap=5.0, return_lse=True, return_predicted=True, impl="reference"
    )
    return loss, lse.sum() + predicted.sum()


def without_bias(hidden, weight, bias, targets, step):
    loss = linear_cross_entropy(hidden * 1.0, weight, targets, reduction="none", impl="reference")
    return (loss * bias[0]).sum(), loss.sum().detach()


def sampled(**options):
    def loss_of(hidden, weight, bias, targets, step):
        loss = sampled_linear_cross_entropy(
            hidden * 1.0, weight, targets, bias=bias, num_negatives=3, seed=1, step=step, impl="reference", **options
        )
        return loss, loss.detach()

    return loss_of


def sampled_with_lse(hidden, weight, bias, targets, step):
    loss, lse = sampled_linear_cross_entropy(
        hidden * 1.0, weight, targets, bias=bias, num_negatives=3, seed=1, step=step, sharing="batch", return_lse=True,
        impl="reference",
    )  # fmt: skip
    return loss + 0.1 * lse.square().sum(), lse.detach()


LOSSES = {
    "full": full,
    "full without bias": without_bias,
    "tile, gbce, popularity": sampled(
        sharing="tile", tile_tokens=4, objective=GBCE(), sampler=Popularity(torch.arange(V)), deterministic=True
    ),
    "none, in batch": sampled(sampler=InBatch(), reduction="sum"),
    "batch, uniform, lse": sampled_with_lse,
}


@pytest.mark.slow  # importing the compiler alone takes seconds
@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("name", LOSSES)
def test_one_graph_for_every_number_of_tokens_above_one(name, device, monkeypatch):
    from torch._dynamo.testing import CompileCounterWithBackend

    # One, two or many chunks: what the loops over them would have unrolled.
    monkeypatch.setattr(reference, "_CHUNK_ELEMENTS", {"cpu": 8 * V, "cuda": 8 * V})
    monkeypatch.setattr(reference_sampled, "_CHUNK_ELEMENTS", 40)
    loss_of = LOSSES[name]
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(*shape, generator=generator).to(device).requires_grad_() for shape in ((V, D), (V,)))
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")  # traces backward too, as inductor would
    compiled = torch.compile(loss_of, backend=counter, fullgraph=True)
    graphs = []
    many = (5, 9, 16, 40, 7, 23, 64, 130, 33, 2, 12)  # more than torch compiles anew for
    for number, tokens in enumerate((*many, 1, 0, 1, 0, 6)):
        hidden = torch.randn(tokens, D, generator=generator).to(device).requires_grad_()
        targets = torch.randint(0, V, (tokens,), generator=generator).to(device)
        targets[:1] = -100
        step = torch.tensor(number, device=device)
        expected, got = (call(hidden, weight, bias, targets, step) for call in (loss_of, compiled))
        assert_close(got, expected)
        leaves = (hidden, weight, bias)
        gradients = (torch.autograd.grad(loss, leaves, allow_unused=True) for loss, _ in (got, expected))
        assert_close(*gradients)
        graphs.append(counter.frame_count)
    # The first number of tokens is taken for a constant; the second makes it a variable. 0 and 1 are always constants.
    assert graphs == [1, *(2,) * (len(many) - 1), 3, 4, 4, 4, 4]


@pytest.mark.parametrize("dtypes", [(torch.float16, torch.float32), (torch.float64, torch.float64)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_operators_tell_the_shapes_dtypes_and_strides_that_they_return(dtypes, bias, monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(autograd, "is_compiling", lambda: True)  # take the road through the operators
    hidden = torch.randn(5, 16, dtype=dtypes[0], requires_grad=True)
    weight = torch.randn(16, 4, dtype=dtypes[1]).T.requires_grad_()  # not contiguous
    b = torch.randn(4, dtype=dtypes[1], requires_grad=True) if bias else None
    targets = torch.tensor([0, 3, -100, 1, 1])
    with Record() as record:
        losses = [linear_cross_entropy(hidden, weight, targets, bias=b, impl="reference")]
        losses += [
            sampled_linear_cross_entropy(
                hidden,
                weight,
                targets,
                bias=b,
                num_negatives=2,
                seed=1,
                sharing=sharing,
                impl="reference",
                return_lse=True,
            )[1]
            for sharing in ("none", "tile")
        ]
        sum(loss.sum() for loss in losses).backward()
    assert len(record.calls) == 6
    with FakeTensorMode() as mode:
        for operator, arguments, results in record.calls:
            told = operator(*(mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in arguments))
            pairs = [(told, results)] if isinstance(told, torch.Tensor) else zip(told, results, strict=True)
            for mine, real in pairs:
                assert (mine.shape, mine.dtype, mine.stride()) == (real.shape, real.dtype, real.stride()), operator
