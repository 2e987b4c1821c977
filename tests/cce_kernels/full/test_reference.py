"""The full reference against torch's own cross-entropy, and gradcheck of both references."""

import pytest
import torch
from rounding import allowed_error
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from cce_kernels import GBCE, InBatch, Softmax, linear_cross_entropy, sampled_linear_cross_entropy
from cce_kernels.full import reference
from cce_kernels.sampled import reference as reference_sampled

M, V, D = 11, 13, 5


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(2)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((M, D), (V, D), (V,))
    )
    targets = torch.randint(0, V, (M,), generator=generator)
    targets[[2, 5]] = -100
    return hidden, weight, bias, targets


@pytest.mark.parametrize(
    ("elements", "items"), [(1, 1), (12, 4), (3 * V, V), (1 << 22, 8192)], ids=["1x1", "3x4", "3xV", "all"]
)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_equals_torch(inputs, softcap, elements, items, monkeypatch):
    monkeypatch.setattr(reference, "_CHUNK_ELEMENTS", {"cpu": elements})
    monkeypatch.setattr(reference, "_CHUNK_ITEMS", items)
    hidden, weight, bias, targets = inputs
    upstream = torch.rand(M, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got, lse = linear_cross_entropy(
        hidden, weight, targets, bias=bias, softcap=softcap, reduction="none", return_lse=True
    )
    logits = hidden @ weight.T + bias
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = cross_entropy(logits, targets, reduction="none")
    assert_close(got, expected)
    assert_close(lse, torch.where(targets >= 0, logits.logsumexp(1), 0).detach())
    leaves = hidden, weight, bias
    assert_close(
        torch.autograd.grad((got * upstream).sum(), leaves), torch.autograd.grad((expected * upstream).sum(), leaves)
    )


@pytest.mark.parametrize(
    ("tokens", "items", "expected"),
    [
        (3, 100, [(3, 100)]),  # everything fits
        (50, 10, [(40, 10), (10, 10)]),  # a small catalogue whole
        (50, 100, [(20, 20)] * 10 + [(10, 20)] * 5),  # else at least 20 items, and as many tokens as fit
        (5, 100, [(5, 80), (5, 20)]),  # few tokens: more items
    ],
)
def test_chunks_cover_every_score_once(tokens, items, expected, monkeypatch):
    monkeypatch.setattr(reference, "_CHUNK_ELEMENTS", {"cpu": 400})
    monkeypatch.setattr(reference, "_CHUNK_ITEMS", 20)
    of_tokens, of_items = reference._chunks(torch.empty(tokens, 1), torch.empty(items, 1))
    seen = torch.zeros(tokens, items)
    for part in of_tokens:
        for block in of_items:
            seen[part, block] += 1
    assert seen.eq(1).all()
    assert [(p.stop - p.start, b.stop - b.start) for p in of_tokens for b in of_items] == expected


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_fitted_tokens_keep_their_digits(softcap):
    """At p_t = 0.99996 loss and gradient are what is left of a difference; fp32 must not lose it."""
    weight = torch.eye(8, dtype=torch.float64)
    hidden = 12.0 * weight[:4]
    targets = torch.arange(4)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        loss = linear_cross_entropy(*leaves, targets, softcap=softcap, reduction="none")
        found.append([x.double() for x in (loss.detach(), *torch.autograd.grad(loss.sum(), leaves))])
    assert 1e-5 < found[1][0].max() < 1e-3
    assert_close(found[0], found[1], rtol=allowed_error(12, 8, 8), atol=1e-12)


@pytest.mark.parametrize("items", [1, 3, 8])
def test_scores_of_any_size_lose_nothing_of_their_differences(items, monkeypatch):
    """From 2^24 on fp32 has no odd numbers: a log-sum-exp is off by up to 1, and neither loss nor gradients may be."""
    monkeypatch.setattr(reference, "_CHUNK_ELEMENTS", {"cpu": items})
    monkeypatch.setattr(reference, "_CHUNK_ITEMS", items)
    weight = torch.zeros(8, 4)
    weight[:, 0], weight[:, 1] = 4096.0, 2.0 * (torch.arange(8) % 3 == 0)
    hidden = torch.tensor([[4096.0, 1.0, 0.0, 0.0], [-4096.0, 0.0, 0.0, 0.0]])
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        loss = linear_cross_entropy(*leaves, torch.tensor([1, 7]), reduction="none")
        d_hidden, d_weight = torch.autograd.grad(loss.sum(), leaves)
        found.append([x.double() for x in (loss.detach(), d_hidden[:, 1], d_weight)])
    assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("where", ["target", "another"])
def test_an_infinite_score_is_no_plausible_loss(where):
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    bias = torch.zeros(5)
    bias[0 if where == "target" else 1] = torch.inf
    loss = linear_cross_entropy(hidden, weight, torch.zeros(3, dtype=torch.int64), bias=bias, reduction="none")
    assert not loss.isfinite().any()
    assert torch.autograd.grad(loss.sum(), hidden)[0].isnan().any()


def test_one_item_leaves_nothing_to_learn():
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(1, 4, requires_grad=True)
    loss, lse = linear_cross_entropy(hidden, weight, torch.zeros(3, dtype=torch.int64), return_lse=True)
    assert loss == 0
    assert_close(lse, (hidden @ weight.T).squeeze(1).detach())
    assert all(not gradient.any() for gradient in torch.autograd.grad(loss, (hidden, weight)))


def test_out_of_range_target_is_nan_and_nothing_else(inputs):
    hidden, weight, _, targets = inputs
    clean = linear_cross_entropy(hidden, weight, targets, reduction="none")
    targets[7], targets[8] = V, -1
    loss, lse = linear_cross_entropy(hidden, weight, targets, reduction="none", return_lse=True)
    bad = torch.zeros(M, dtype=torch.bool)
    bad[[7, 8]] = True
    assert torch.equal(loss.isnan(), bad)
    assert torch.equal(lse.isnan(), bad)
    assert torch.equal(loss[~bad], clean[~bad])
    d_hidden, d_weight = torch.autograd.grad(loss.sum(), (hidden, weight))
    assert torch.equal(d_hidden.isnan().all(1), bad)
    assert not d_weight.isnan().any()
    assert linear_cross_entropy(hidden, weight, targets).isnan()


def test_gradcheck_of_the_full_loss(inputs):
    hidden, weight, bias, targets = inputs
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_cross_entropy(h, w, targets, bias=b, softcap=3.0, return_lse=True),
        (hidden, weight, bias),
    )


@pytest.mark.parametrize("objective", [Softmax(), GBCE()], ids=str)
@pytest.mark.parametrize("sharing", ["none", "tile"])
def test_gradcheck_of_the_sampled_loss(inputs, objective, sharing, monkeypatch):
    monkeypatch.setattr(reference_sampled, "_CHUNK_ELEMENTS", 60)
    hidden, weight, bias, targets = (x.detach()[:7].requires_grad_(x.is_floating_point()) for x in inputs)
    hidden, weight = (x.detach()[:, :2].requires_grad_() for x in (hidden, weight))
    targets = targets.clamp(max=6)
    assert torch.autograd.gradcheck(
        lambda h, w, b: sampled_linear_cross_entropy(
            h, w, targets, num_negatives=6, seed=1, bias=b, objective=objective, sharing=sharing, sampler=InBatch()
        ),
        (hidden, weight, bias),
    )


def test_16_bit_inputs_are_worked_on_in_fp32(inputs):
    hidden, weight, _, targets = inputs
    h, w = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))
    loss = linear_cross_entropy(h, w, targets)
    assert loss.dtype == torch.float32
    assert_close(loss.double(), linear_cross_entropy(h.double(), w.double(), targets), rtol=1e-6, atol=1e-6)
    assert [x.dtype for x in torch.autograd.grad(loss, (h, w))] == [torch.bfloat16] * 2
