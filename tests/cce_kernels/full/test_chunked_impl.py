"""The full loss by chunks of tokens, against float64: its kernels in the interpreter, all of it on a GPU."""

from dataclasses import replace

import pytest
import torch
from full_cases import Case, errors, make, score_size, truth_of
from kernel_cases import DEVICES
from rounding import UNIT, allowed_error
from torch import Tensor
from torch.nn import functional

from cce_kernels import linear_cross_entropy
from cce_kernels.full import tuning
from cce_kernels.full.call import FullCall
from cce_kernels.full.chunked_impl import full_chunked

BF16, FP32 = torch.bfloat16, torch.float32
pytestmark = pytest.mark.usefixtures("bf16_of_hardware")


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 128 tokens."""
    monkeypatch.setattr(tuning, "CHUNK_TOKENS", 128)
    monkeypatch.setattr(tuning, "CHUNK_BYTES", 0)


def chunked(inputs, reduction: str = "mean", temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    call = FullCall(
        inputs.hidden, inputs.weight, None, inputs.targets, inputs.ignore_index, None, temperature, None, True
    )
    loss, lse, predicted = full_chunked(call, reduction)
    assert predicted is None
    return loss, lse


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "case",
    [
        Case(1, 2, 16, BF16),
        Case(150, 77, 64, BF16),
        Case(17, 500, 16, BF16, weight_dtype=FP32, scores="peaked"),
        Case(140, 20, 100, BF16, scores="fitted", ignore_index=0),
        Case(70, 130, 400, BF16, scores="fitted"),
    ],
    ids=str,
)
def test_loss_and_gradients(device: str, reduction: str, case: Case) -> None:
    inputs = make(case, device)
    count = (inputs.targets != case.ignore_index).sum().clamp(min=1)
    upstream = 0.75
    inputs = replace(inputs, grad=torch.full_like(inputs.grad, upstream) / (count if reduction == "mean" else 1))
    loss, lse = chunked(inputs, reduction)
    gradients = torch.autograd.grad(loss, inputs.leaves(), torch.tensor(upstream, device=device))
    truth = truth_of(inputs)
    sizes = score_size(inputs), case.dim, max(case.items, case.tokens), device
    true_loss = truth[0].sum() / (count if reduction == "mean" else 1)
    assert (loss.double() - true_loss).abs() <= allowed_error(*sizes, FP32) * true_loss.abs()
    for name, error in errors([truth[0], *gradients], truth).items():
        assert error <= allowed_error(*sizes, BF16), (name, error)
    exact = [x.detach().to(BF16).double() for x in inputs.leaves()]
    true_lse = torch.where(inputs.targets == case.ignore_index, 0.0, (exact[0] @ exact[1].T).logsumexp(1))
    torch.testing.assert_close(lse.double(), true_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_temperature_and_targets_that_do_not_count(device: str) -> None:
    inputs = make(Case(9, 20, 16, BF16), device)
    inputs.targets.copy_(torch.tensor([3, 3, -7, 1, 20, -100, 2**40, 19, 0]))
    loss, lse = chunked(inputs, "sum", temperature=0.5)
    invalid, good = torch.tensor([2, 4, 6], device=device), torch.tensor([0, 1, 3, 7, 8], device=device)
    assert loss.isnan()
    assert lse[invalid].isnan().all()
    assert lse[5] == 0
    d_hidden, d_weight = torch.autograd.grad(loss, inputs.leaves())
    assert d_hidden[invalid].isnan().all()
    assert (d_hidden[5] == 0).all()
    hidden, weight = (x.detach().double().requires_grad_() for x in inputs.leaves())
    expected = functional.cross_entropy(hidden[good] @ weight.T / 0.5, inputs.targets[good], reduction="sum")
    truth = torch.autograd.grad(expected, (hidden, weight))
    for x, y in ((d_hidden[good], truth[0][good]), (d_weight, truth[1])):
        assert (x.double() - y).norm() <= 2 * UNIT[BF16] * y.norm()


@pytest.mark.parametrize("device", DEVICES)
def test_a_chunk_whose_scores_leave_the_range_is_computed_again(device: str) -> None:
    """Scores up to 10,000 above the base of the first pass, in one chunk of two."""
    inputs = make(Case(200, 100, 32, BF16), device)
    with torch.no_grad():
        inputs.hidden[150:] *= 3000
    loss, _ = chunked(inputs)
    found = torch.autograd.grad(loss, inputs.leaves())
    hidden, weight = (x.detach().double().requires_grad_() for x in inputs.leaves())
    expected = functional.cross_entropy(hidden @ weight.T, inputs.targets)
    assert abs(loss.item() / expected.item() - 1) < 1e-5
    for x, y in zip(found, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        assert (x.double() - y).norm() <= 3 * UNIT[BF16] * y.norm()


@pytest.mark.parametrize("device", DEVICES)
def test_scores_whose_rounding_leaves_the_range_of_exponents(device: str) -> None:
    """All items equal, scores near 1e12: two products of the same rows differ by more than 2^127 as exponentials."""
    inputs = make(Case(20, 30, 330, BF16), device)
    with torch.no_grad():
        inputs.weight.copy_(inputs.weight[:1].clone())
        inputs.hidden.mul_(1e6)
        inputs.weight.mul_(1e6)
    loss, lse = chunked(inputs, "sum")
    counted = inputs.targets != inputs.ignore_index
    hidden, weight = (x.detach().double() for x in inputs.leaves())
    torch.testing.assert_close(lse[counted].double(), (hidden @ weight.T).logsumexp(1)[counted], rtol=1e-4, atol=1e6)
    assert loss.isfinite()
    assert all(x.isfinite().all() for x in torch.autograd.grad(loss, inputs.leaves()))


def test_a_graph_that_is_kept_gives_its_gradients_twice() -> None:
    inputs = make(Case(20, 30, 16, BF16))
    loss, _ = chunked(inputs)
    first = torch.autograd.grad(loss, inputs.leaves(), retain_graph=True)
    for x, y in zip(first, torch.autograd.grad(2 * loss, inputs.leaves()), strict=True):
        torch.testing.assert_close(2 * x, y)


@pytest.mark.parametrize(("items", "expected"), [(100, 2684288), (131072, 2048), (262144, 1024), (10_000_000, 1024)])
def test_tokens_of_a_chunk(items: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert tuning.chunk_tokens(items) == expected


def _call(tokens: int = 2048, items: int = 65_536, dim: int = 328, dtype: torch.dtype = BF16, **options) -> FullCall:
    hidden, weight, bias = (
        torch.empty(shape, dtype=dtype, device="meta") for shape in ((tokens, dim), (items, dim), items)
    )
    targets = torch.empty(tokens, dtype=torch.int64, device="meta")
    call = FullCall(hidden, weight.requires_grad_(), None, targets, -100, None, 1.0, None, True)
    return call._replace(**{name: bias if name == "bias" else value for name, value in options.items()})


@pytest.mark.parametrize(
    "options",
    [
        {"tokens": 2047}, {"items": 65_535}, {"dim": 320}, {"dim": 330}, {"dtype": torch.float16}, {"dtype": FP32},
        {"bias": True}, {"softcap": 5.0}, {"filter_eps": 1e-4}, {"with_predicted": True},
    ],
    ids=str,
)  # fmt: skip
def test_which_calls_go_by_chunks(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert tuning.is_chunked(_call())
    assert not tuning.is_chunked(_call(**options))


@pytest.mark.parametrize(
    ("tokens", "items", "expected"), [(2**14, 2**14, True), (2**14, 2**14 - 1, False), (2**15, 14_999, False)]
)
def test_a_smaller_catalogue_goes_by_chunks_with_many_tokens(
    tokens: int, items: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert tuning.is_chunked(_call(tokens=tokens, items=items)) == expected


def test_no_chunks_without_a_gradient_for_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    call = _call()
    with torch.no_grad():
        assert not tuning.is_chunked(call)
    assert not tuning.is_chunked(call._replace(weight=call.weight.detach()))


@pytest.mark.gpu
@pytest.mark.parametrize(("tokens", "dim", "expected"), [(7000, 512, True), (1000, 512, False), (7000, 320, False)])
def test_auto_chooses_by_width(tokens: int, dim: int, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(tuning, "CHUNKED_ITEMS", 20_000)
    monkeypatch.setattr(tuning, "CHUNK_BYTES", 0)  # 7 chunks
    inputs = make(Case(tokens, 20_000, dim, BF16), "cuda")
    seen = []
    true = tuning.is_chunked
    monkeypatch.setattr(tuning, "is_chunked", lambda call: seen.append(true(call)) or seen[-1])
    results = []
    for impl in ("auto", "auto", "triton"):
        loss = linear_cross_entropy(inputs.hidden, inputs.weight, inputs.targets, impl=impl)
        results.append((loss, *torch.autograd.grad(loss, inputs.leaves())))
    assert seen == [expected, expected]
    assert all(torch.equal(x, y) for x, y in zip(*results[:2], strict=True))  # no atomics: the same bits
    torch.testing.assert_close(results[0][0], results[2][0])
    for x, y in zip(results[0][1:], results[2][1:], strict=True):
        assert (x.double() - y.double()).norm() <= 2 * UNIT[BF16] * y.double().norm()
    with torch.no_grad():
        linear_cross_entropy(inputs.hidden, inputs.weight, inputs.targets)
    assert seen[-1] is False
