"""The full loss in Triton against float64: through the interpreter on small shapes, in full on a GPU (marker gpu)."""

import math
from dataclasses import replace

import pytest
import torch
from full_cases import Case, errors, linear_cross_entropy_triton, make, run, score_size, truth_of, worst_row
from kernel_cases import DEVICES, INTERPRETED, MOST_INTERPRETED, pairwise
from rounding import UNIT, allowed_error, allowed_row_error

from cce_kernels import linear_cross_entropy
from cce_kernels.full import tuning

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32

CHOICES = {
    "dtype": [FP32, BF16, FP16],
    "weight_dtype": [None, FP32],
    "bias": [False, True],
    "per_token": [False, True],
    "scores": ["flat", "peaked", "fitted"],
    "ignore_index": [-100, 0],
}


def taken(cases: list[Case]) -> list[Case]:
    """The cases, fp32 ones at half their width where the kernels take no such width."""
    return [c if c.dim <= tuning.widest(c.dtype) else replace(c, dim=c.dim // 2) for c in cases]


SMALL = taken(
    pairwise(
        {
            **CHOICES,
            "dim": [16, 64, 100, 256, 320, 512],
            "softcap": [None, 4.0],
            "tokens": [1, 17, 34],
            "items": [2, 20, 33],
        },
        Case(1, 2, 16),
    )
)
LARGE = taken(
    pairwise(
        {
            **CHOICES,
            "dim": [16, 64, 100, 128, 256, 320, 512],
            "softcap": [None, 6.0],
            "tokens": [1, 300, 777, 2048],
            "items": [999, 2048, 5003, 20011],
        },
        Case(1, 2, 16),
    )
)
WIDTHS = [
    (dim, dtype) for dim in (16, 32, 64, 100, 128, 160, 256, 320, 512) for dtype in (FP32, BF16, FP16)
    if dim <= tuning.widest(dtype)
]  # fmt: skip
pytestmark = pytest.mark.usefixtures("bf16_of_hardware")


def check(case: Case, device: str, **options: object) -> None:
    inputs = make(case, device)
    truth = truth_of(inputs, case.softcap)
    found = run(inputs, case.softcap, **options)
    sizes = score_size(inputs), case.dim, max(case.items, case.tokens), device
    for name, error in errors(found, truth).items():
        # The loss and db are fp32 sums in every dtype; dH and dW are rounded to the dtype on the way.
        dtype = FP32 if name in ("loss", "dbias") else case.dtype
        assert error <= allowed_error(*sizes, dtype), (name, error)
    if case.scores == "fitted":
        # Each token by itself: beside the others, one that is sure of its target weighs nothing in a norm. Its 1 - p_t,
        # down to 3e-4, would have an error of 5e-5 and more if it were formed by subtraction.
        assert worst_row(found[0], truth[0]) <= allowed_row_error(*sizes)
        assert worst_row(found[1], truth[1]) <= allowed_row_error(*sizes, case.dtype)


@pytest.mark.parametrize("case", SMALL, ids=str)
@INTERPRETED
def test_small_shapes_match_float64(case: Case) -> None:
    check(case, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("case", [*SMALL, *LARGE], ids=str)
def test_all_shapes_match_float64(case: Case) -> None:
    check(case, "cuda")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
def test_every_fitted_token_keeps_its_digits(device: str, dtype: torch.dtype) -> None:
    check(Case(17, 20, 64, dtype, FP32, bias=True, scores="fitted"), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
def test_what_a_fitted_token_leaves_in_the_table_keeps_its_digits(device: str, dtype: torch.dtype) -> None:
    """Column m is token m's alone: what row m of dW holds there is -(1 - p_t) g h_m and nothing else."""
    factors = torch.linspace(2.5, 4.0, 17)[:16].to(device, dtype)
    hidden, weight = torch.diag(factors).requires_grad_(), (4 * torch.eye(16, device=device)).requires_grad_()
    loss, _ = linear_cross_entropy_triton(hidden, weight, torch.arange(16, device=device))
    (dweight,) = torch.autograd.grad(loss.sum() * 0.7, weight)
    rest = 15 * torch.exp(-4 * factors.double())  # against e^score of the target; the 15 other scores are 0
    expected = -0.7 * rest / (1 + rest) * factors.double()
    assert (rest < 1e-3).all()
    # The scores, up to 16, are single products and exact. Their product with log2 e makes 16 u; its constant, exp2, a
    # tree of 15 additions and two divisions make 18 u. Two bf16 numbers per entry instead of three would err by more.
    assert worst_row(dweight.diagonal(), expected) <= 34 * UNIT[FP32]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("upstream", ["shared", "per token", "tiny"])
def test_fp16_keeps_probabilities_and_gradients_below_its_range(device: str, upstream: str) -> None:
    """Every item but the target of all has p near 1e-6, and an upstream gradient may be 1e-6 too."""
    inputs = make(Case(17, 33, 64, FP16, FP32, bias=True, per_token=upstream != "shared"), device)
    with torch.no_grad():
        inputs.hidden.div_(64.0)
        inputs.weight.mul_(64.0)  # so that dH lies in the range again
        inputs.bias.fill_(-14.0)
        inputs.bias[20] = 0.0
    inputs.targets.fill_(20)
    if upstream == "tiny":
        inputs.grad *= 1e-6
    found, truth = run(inputs), truth_of(inputs)
    sizes = score_size(inputs), 64, 33, device
    assert worst_row(found[2], truth[2]) <= allowed_row_error(*sizes, FP16)
    assert worst_row(found[3], truth[3]) <= allowed_row_error(*sizes)
    if upstream != "tiny":
        assert worst_row(found[1], truth[1]) <= allowed_row_error(*sizes, FP16)


@pytest.mark.gpu
@pytest.mark.parametrize(("dim", "dtype"), WIDTHS)
@pytest.mark.parametrize("size", [12, 27, 55, 110])
def test_fewer_tokens_or_items_than_a_tile_holds(size: int, dim: int, dtype: torch.dtype) -> None:
    check(Case(size, 300, dim, dtype), "cuda")
    check(Case(300, size, dim, dtype), "cuda")
    check(Case(size, size, dim, dtype, bias=True, per_token=True), "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize(("dim", "dtype"), WIDTHS)
@pytest.mark.parametrize("items", [20, 256, 300])
def test_a_tile_worked_out_again_whether_items_fill_their_tiles_or_not(
    items: int, dim: int, dtype: torch.dtype
) -> None:
    # 20: the loop over whole tiles has no turn (up to 128 items a tile). 256: the last tile is whole.
    inputs = make(Case(40, items, dim, dtype), "cuda")
    with torch.no_grad():
        inputs.hidden[:, 0] = 8.0
        inputs.weight[:, 0] = 0.0
        inputs.weight[-3, 0] = 80.0  # a score of 640 against a few in the first tile and at the target
        inputs.targets.clamp_(max=10)
    found = run(inputs)
    truth = truth_of(inputs)
    assert max(errors(found, truth).values()) <= allowed_error(score_size(inputs), dim, 300, "cuda", dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("softcap", [0.3, 20.0, 50.0, 1e3, 1e6, 1e12])
def test_any_softcap_is_exact(device: str, softcap: float) -> None:
    check(Case(18, 33, 64, FP32, softcap=softcap, scores="peaked"), device)


@pytest.mark.parametrize("device", DEVICES)
def test_splits_are_merged(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "full_splits", lambda *_: 3)
    check(Case(35, 70, 64, FP32, bias=True, scores="peaked"), device)
    check(Case(18, 50, 320, FP16, softcap=4.0, scores="fitted"), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [FP32, FP16])
def test_scores_far_above_the_first_tile_are_redone(device: str, dtype: torch.dtype) -> None:
    inputs = make(Case(7, 200 if device == "cuda" else 50, 16, dtype), device)
    with torch.no_grad():
        inputs.hidden.fill_(1.0)
        inputs.weight.zero_()
        inputs.weight[-5] = 40.0  # a score of 640 against 0 in the first tile and at the target
        inputs.weight[-4] = 39.9
        inputs.targets.clamp_(max=10)
    truth = truth_of(inputs)
    assert max(errors(run(inputs), truth).values()) <= allowed_error(640, 16, 200, device, dtype)


@pytest.mark.parametrize("device", DEVICES)
def test_all_targets_equal(device: str) -> None:
    inputs = make(Case(20, 20, 16, FP32), device)
    inputs.targets.fill_(7)
    truth = truth_of(inputs)
    assert max(errors(run(inputs), truth).values()) <= allowed_error(score_size(inputs), 16, 20, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "case",
    [
        Case(34, 33, 64, FP32, bias=True, softcap=4.0, per_token=True, scores="peaked"),
        Case(35, 50, 320, BF16, weight_dtype=FP32, scores="fitted"),
        Case(18, 20, 16, FP16, per_token=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("loss_grad", [1.0, 0.0])
def test_the_log_sum_exp_has_a_gradient(device: str, case: Case, loss_grad: float) -> None:
    inputs = make(case, device)
    inputs.grad *= loss_grad
    pulls = torch.linspace(-2, 2, case.tokens, device=device) if case.per_token else inputs.grad.new_tensor(0.1)
    hidden, weight, bias = (
        None if x is None else x.detach().to(dtype).double().requires_grad_()
        for x, dtype in ((inputs.hidden, case.dtype), (inputs.weight, case.dtype), (inputs.bias, FP32))
    )
    scores = hidden @ weight.T + (0.0 if bias is None else bias)
    scores = scores if case.softcap is None else case.softcap * torch.tanh(scores / case.softcap)
    exact = torch.nn.functional.cross_entropy(scores, inputs.targets, reduction="none"), scores.logsumexp(1)
    found = linear_cross_entropy_triton(
        inputs.hidden, inputs.weight, inputs.targets, bias=inputs.bias, softcap=case.softcap
    )
    pulls = pulls * (inputs.targets >= 0)
    gradients, truth = [], [x for x in (hidden, weight, bias) if x is not None]
    for (loss, lse), leaves in ((found, inputs.leaves()), (exact, truth)):
        total = (lse * pulls).sum() + ((loss * inputs.grad).sum() if loss_grad else 0.0)
        gradients.append(torch.autograd.grad(total, leaves))
    sizes = score_size(inputs), case.dim, max(case.items, case.tokens), device
    for x, y, dtype in zip(*gradients, (case.dtype, case.dtype, FP32), strict=False):
        assert ((x.double() - y).norm() / y.norm()).item() <= allowed_error(*sizes, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("temperature", [0.05, 3.0])
@pytest.mark.parametrize("softcap", [None, 4.0])
def test_a_temperature_divides_scores(device: str, impl: str, temperature: float, softcap: float | None) -> None:
    inputs = make(Case(35, 50, 64, FP32, bias=True), device)
    found = linear_cross_entropy(
        inputs.hidden, inputs.weight, inputs.targets, bias=inputs.bias, softcap=softcap, temperature=temperature,
        reduction="none", return_lse=True, impl=impl,
    )  # fmt: skip
    exact = [x.detach().double().requires_grad_() for x in inputs.leaves()]
    scores = exact[0] @ exact[1].T + exact[2]
    scores = (scores if softcap is None else softcap * torch.tanh(scores / softcap)) / temperature
    counted = inputs.targets >= 0
    truth = torch.nn.functional.cross_entropy(scores, inputs.targets, reduction="none"), scores.logsumexp(1) * counted
    results = []
    for (loss, lse), leaves in ((found, inputs.leaves()), (truth, exact)):
        total = (loss * inputs.grad).sum() + 0.1 * lse.square().mean()
        results.append((loss, lse, *torch.autograd.grad(total, leaves)))
    allowed = allowed_error(score_size(inputs) / min(1.0, temperature), 64, 50, device)
    for x, y in zip(*results, strict=True):
        assert ((x.double() - y).norm() / y.norm()).item() <= allowed


@pytest.mark.parametrize("device", DEVICES)
def test_ignored_and_invalid_targets(device: str) -> None:
    inputs = make(Case(9, 20, 16, FP32, per_token=True), device)
    inputs.targets.copy_(torch.tensor([3, 3, -7, 1, 20, -100, 2**40, 19, 0]))
    loss, lse = linear_cross_entropy_triton(inputs.hidden, inputs.weight, inputs.targets)
    (loss.nan_to_num() * inputs.grad).sum().backward()
    invalid = torch.tensor([2, 4, 6], device=device)
    good = torch.tensor([0, 1, 3, 7, 8], device=device)
    assert loss[invalid].isnan().all()
    assert lse[invalid].isnan().all()
    assert loss[5] == 0
    assert lse[5] == 0
    assert inputs.hidden.grad is not None
    assert inputs.hidden.grad[invalid].isnan().all()
    assert (inputs.hidden.grad[5] == 0).all()
    hidden = inputs.hidden.detach()[good].double().requires_grad_()
    weight = inputs.weight.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, inputs.targets[good], reduction="none")
    (expected * inputs.grad[good]).sum().backward()
    torch.testing.assert_close(loss[good].double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lse[good].double(), torch.logsumexp(hidden @ weight.T, 1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(inputs.hidden.grad[good].double(), hidden.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(inputs.weight.grad.double(), weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_only_what_is_needed_is_computed(device: str) -> None:
    inputs = make(Case(20, 30, 16, FP32), device)
    _, dhidden, dweight = run(inputs)
    for name, expected in (("hidden", dhidden), ("weight", dweight)):
        frozen = make(Case(20, 30, 16, FP32), device)
        for other in {"hidden", "weight"} - {name}:
            getattr(frozen, other).requires_grad_(False)
        loss, _ = linear_cross_entropy_triton(frozen.hidden, frozen.weight, frozen.targets)
        (loss.sum() * frozen.grad[0]).backward()
        torch.testing.assert_close(getattr(frozen, name).grad, expected, rtol=0, atol=0)
    with torch.no_grad():
        loss, lse = linear_cross_entropy_triton(inputs.hidden, inputs.weight, inputs.targets)
    torch.testing.assert_close(loss, run(inputs)[0], rtol=0, atol=1e-6)
    assert not lse.requires_grad


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [FP32, FP16])
def test_filter_leaves_out_only_what_it_may(device: str, dtype: torch.dtype) -> None:
    rare = 128 if device == "cuda" else 32
    inputs = make(Case(20, 2 * rare, 16, dtype, FP32), device)
    with torch.no_grad():
        inputs.hidden.abs_()
        inputs.weight[:rare] = -20.0 / inputs.hidden.sum(1).min()  # scores of at most -20
        inputs.targets.clamp_(min=rare)
    exact = run(inputs)
    unlikely = run(inputs, filter_eps=1e-7)
    assert (exact[2][:rare] != 0).all()
    assert (unlikely[2][:rare] == 0).all()
    assert max(errors(unlikely, exact).values()) < 1e-5
    assert max(errors(run(inputs, filter_eps=1e-30), exact).values()) == 0


@pytest.mark.parametrize("device", DEVICES)
def test_filtered_items_leave_no_trace_in_the_gradient_of_hidden(device: str) -> None:
    """They come last, as forward compares with the sum so far; no tile of tokens has an end that is padded."""
    tokens, rare = (256, 128) if device == "cuda" else (16, 32)
    inputs = make(Case(tokens, 2 * rare, 16, FP32), device)
    with torch.no_grad():
        inputs.hidden.abs_()
        inputs.weight[rare:] = -10.0 / inputs.hidden.sum(1).min()  # scores of at most -10
        inputs.targets.clamp_(max=rare - 1)
    scores = inputs.hidden.detach().double() @ inputs.weight.detach().double().T
    left_out = scores.softmax(1)[:, rare:] @ inputs.weight.detach()[rare:].double() * inputs.grad[:, None]
    left_out[inputs.targets < 0] = 0
    exact, filtered = run(inputs)[1], run(inputs, filter_eps=1e-3)[1]
    assert (exact - filtered - left_out).norm() < 0.01 * left_out.norm()


@pytest.mark.skipif(not hasattr(torch.nn.functional, "linear_cross_entropy"), reason="needs a newer torch")
@pytest.mark.parametrize("device", DEVICES)
def test_agrees_with_the_loss_of_torch(device: str) -> None:
    inputs = make(Case(23, 41, 64, FP32, bias=True, scores="peaked"), device)
    expected = torch.nn.functional.linear_cross_entropy(
        inputs.hidden, inputs.weight, inputs.targets, linear_bias=inputs.bias, reduction="sum"
    )
    ours = run(inputs)
    theirs = [x * inputs.grad[0] for x in torch.autograd.grad(expected, inputs.leaves())]
    allowed = 2 * allowed_error(score_size(inputs), 64, 41, device)
    assert abs(ours[0].sum() / expected.detach() - 1) <= allowed
    assert max(errors(ours[1:], theirs).values()) <= allowed


@pytest.mark.parametrize("device", DEVICES)
def test_upstream_gradients_of_ignored_tokens_do_not_matter(device: str) -> None:
    inputs = make(Case(9, 20, 16, FP32, per_token=True), device)
    gradients = []
    for value in (1.0, math.nan):
        inputs.grad[3] = value  # the token whose target is ignored
        loss, _ = linear_cross_entropy_triton(inputs.hidden, inputs.weight, inputs.targets)
        gradients.append(torch.autograd.grad(loss, inputs.leaves(), inputs.grad))
    for clean, dirty in zip(*gradients, strict=True):
        torch.testing.assert_close(dirty, clean, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("ignore_index", [-100, 0])
def test_the_reduced_loss_has_the_gradients_of_the_losses_reduced(
    device: str, reduction: str, ignore_index: int
) -> None:
    inputs = make(Case(9, 20, 16, BF16, ignore_index=ignore_index), device)
    options = {"ignore_index": ignore_index}
    each, _ = linear_cross_entropy_triton(inputs.hidden, inputs.weight, inputs.targets, **options)
    expected = each.sum() if reduction == "sum" else each.sum() / 8
    got, _ = linear_cross_entropy_triton(inputs.hidden, inputs.weight, inputs.targets, reduction=reduction, **options)
    torch.testing.assert_close(got, expected)
    wanted = torch.autograd.grad(expected, inputs.leaves())
    torch.testing.assert_close(torch.autograd.grad(got, inputs.leaves()), wanted)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "tokens", "upstream"),
    [
        (BF16, 177, "mean"), (BF16, 77, "per token"), (FP16, 77, "sum"),
        (BF16, 6029, "mean"),
    ],
)  # fmt: skip
def test_the_gradient_of_hidden_is_rounded_once(device: str, dtype: torch.dtype, tokens: int, upstream: str) -> None:
    """One rounding errs by up to u, and by 0.42 u in the mean square; two would by 0.60 u. One token is ignored."""
    if device == "cpu" and tokens > MOST_INTERPRETED:
        pytest.skip("takes half a minute in the interpreter")
    inputs = make(Case(tokens, 40, 32, dtype, per_token=upstream == "per token"), device)
    if upstream == "sum":
        inputs.grad.fill_(0.3)
    truth = truth_of(inputs)
    if upstream == "mean":
        loss, _ = linear_cross_entropy_triton(inputs.hidden, inputs.weight, inputs.targets, reduction="mean")
        found = [truth[0], *torch.autograd.grad(loss, inputs.leaves())]
    else:
        found = run(inputs)
    assert errors(found, truth)["dhidden"] < 0.5 * UNIT[dtype]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("splits", [1, 2])
def test_equal_scores_of_any_size_cost_log_v(
    device: str, dtype: torch.dtype, splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 2^24 on fp32 has no odd numbers: a log-sum-exp is off by up to 1, and the loss must not be."""
    monkeypatch.setattr(tuning, "full_splits", lambda *_: splits)
    hidden, weight = (torch.zeros(n, 16, dtype=dtype, device=device).requires_grad_() for n in (2, 40))
    with torch.no_grad():
        hidden[0, 0], hidden[1, 0], weight[:, 0] = 4096, -4096, 4096
    loss, _ = linear_cross_entropy_triton(hidden, weight, torch.tensor([1, 33], device=device))
    torch.testing.assert_close(loss, torch.full_like(loss, math.log(40)), rtol=8 * UNIT[FP32], atol=0)
    (dhidden,) = torch.autograd.grad(loss.sum(), hidden)
    # What is left of 39 / 40 - 39 / 40, each of them rounded once, times 4096.
    assert dhidden.abs().max() <= 4096 * 2 * UNIT[dtype]


@pytest.mark.parametrize("device", DEVICES)
def test_one_gradient_for_all_tokens_reaches_the_kernel_as_one_number(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient per token is only read, and in fp16 rescaled, where the tokens differ."""
    from cce_kernels.full import triton_impl

    seen, launch = [], triton_impl.launch_backward
    monkeypatch.setattr(triton_impl, "launch_backward", lambda *args: seen.append(args[3].dim()) or launch(*args))
    inputs = make(Case(9, 20, 16), device)
    for reduction in ("none", "sum", "mean"):
        loss, _ = linear_cross_entropy_triton(inputs.hidden, inputs.weight, inputs.targets, reduction=reduction)
        loss.sum().backward()
    (linear_cross_entropy_triton(inputs.hidden, inputs.weight, inputs.targets)[0] * inputs.grad).sum().backward()
    assert seen == [0, 0, 0, 1]


@pytest.mark.parametrize("device", DEVICES)
def test_the_public_function_hands_every_option_on(device: str) -> None:
    inputs = make(Case(9, 20, 16, FP32, bias=True, scores="peaked", ignore_index=2), device)
    tensors, leaves = (inputs.hidden, inputs.weight, inputs.targets), inputs.leaves()
    assert (inputs.targets == 2).any()
    options = {"bias": inputs.bias, "ignore_index": 2, "softcap": 2.0, "return_lse": True}
    for reduction in ("none", "sum", "mean"):
        got, lse = linear_cross_entropy(*tensors, impl="triton", reduction=reduction, **options)
        expected, expected_lse = linear_cross_entropy(*tensors, impl="reference", reduction=reduction, **options)
        torch.testing.assert_close((got, lse), (expected, expected_lse))
        gradients = (torch.autograd.grad(loss.sum(), leaves) for loss in (got, expected))
        torch.testing.assert_close(*gradients)
    filtered = linear_cross_entropy(*tensors, impl="triton", filter_eps=0.999)
    dweight = torch.autograd.grad(filtered, inputs.weight)[0]
    assert torch.equal(dweight.any(1).nonzero().squeeze(1), inputs.targets[inputs.targets >= 0].unique())
