"""The full loss in Triton against float64: through the interpreter on small shapes, in full on a GPU (marker gpu)."""

import math

import pytest
import torch
from full_cases import Case, Inputs, backward, eager, errors, make

from cce_kernels import tuning
from cce_kernels.full import linear_cross_entropy_triton

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32

# Pairwise: every dtype, dimension, option and kind of score meets most of the others.
SMALL = [
    Case(1, 2, 16),
    Case(5, 2, 64, bias=True, per_token=True),
    Case(17, 33, 100, scores="peaked"),
    Case(17, 35, 128, BF16, FP32, bias=True),
    Case(16, 32, 256, BF16, per_token=True, scores="peaked"),
    Case(18, 33, 320, FP32, softcap=3.0, per_token=True),
    Case(17, 20, 512, FP32, bias=True, scores="fitted"),
    Case(33, 18, 64, BF16, softcap=5.0, scores="fitted"),
    Case(17, 32, 100, FP16, FP32, bias=True, softcap=4.0, per_token=True),
    Case(19, 18, 320, FP16, scores="fitted"),
    Case(18, 50, 16, FP16, per_token=True, scores="peaked"),
    Case(20, 17, 320, BF16, FP32, bias=True, per_token=True, scores="fitted"),
]
LARGE = [
    Case(tokens, items, dim, dtype, weight_dtype, bias, softcap, per_token, scores)
    for dim in (16, 64, 100, 128, 256, 320, 512)
    for dtype, weight_dtype, bias, softcap, per_token, scores, tokens, items in (
        (FP32, None, True, None, False, "flat", 300, 1500),
        (FP32, None, False, 5.0, True, "fitted", 513, 1000),
        (BF16, FP32, False, None, False, "flat", 1025, 5003),
        (BF16, None, True, None, True, "peaked", 777, 3001),
        (BF16, FP32, False, 8.0, False, "fitted", 640, 2048),
        (FP16, None, False, None, True, "fitted", 501, 4001),
        (FP16, FP32, True, 6.0, False, "peaked", 1, 999),
        (FP16, None, False, None, False, "flat", 2048, 20011),
    )
]
DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu), pytest.param("cpu")]


@pytest.fixture(autouse=True)
def _interpreter(request: pytest.FixtureRequest) -> None:
    if not request.node.get_closest_marker("gpu") and torch.cuda.is_available():
        pytest.skip("the interpreter is switched on only where there is no GPU")


def run(inputs: Inputs, softcap: float | None = None, **options: object) -> list[torch.Tensor]:
    loss, _ = linear_cross_entropy_triton(
        inputs.hidden, inputs.weight, inputs.targets, bias=inputs.bias, softcap=softcap, **options
    )
    return backward(loss, inputs)


def check(case: Case, device: str, slack: float, **options: object) -> None:
    inputs = make(case, device)
    truth = eager(inputs, case.softcap, torch.float64)
    ours = errors(run(inputs, case.softcap, **options), truth)
    theirs = errors(eager(inputs, case.softcap, case.dtype), truth)
    # The loss and the sums are fp32 in every dtype; gradients are rounded to the dtype at most twice on the way. bf16
    # dH is stored times 1 / M: with a few ignored tokens among M the second factor is so near 1 that its rounding is
    # not spread evenly, and errs up to 1.7 times as much as one that is.
    rounding = {FP32: 3e-6, FP16: 4e-4, BF16: 3.2e-3}[case.dtype] * slack
    for name, error in ours.items():
        assert not math.isnan(error), name
        assert error <= max(theirs[name] * slack, 2e-6 if name == "loss" else rounding), (name, ours, theirs)


# Triton's interpreter truncates where hardware rounds to nearest: an error up to 2.4 times as large in 16 bits.
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_small_shapes_match_float64(case: Case) -> None:
    check(case, "cpu", slack=1.05 if case.dtype == FP32 else 2.6)


@pytest.mark.gpu
@pytest.mark.parametrize("case", [*SMALL, *LARGE], ids=str)
def test_all_shapes_match_float64(case: Case) -> None:
    check(case, "cuda", slack=1.05)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("dim", [16, 64, 100, 128, 256, 320, 512])
@pytest.mark.parametrize("size", [12, 27, 55, 110])
def test_fewer_tokens_or_items_than_a_tile_holds(size: int, dim: int, dtype: torch.dtype) -> None:
    check(Case(size, 300, dim, dtype), "cuda", slack=1.05)
    check(Case(300, size, dim, dtype), "cuda", slack=1.05)
    check(Case(size, size, dim, dtype, bias=True, per_token=True), "cuda", slack=1.05)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("dim", [16, 32, 64, 100, 128, 256, 320, 512])
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
    truth = eager(inputs, None, torch.float64)
    assert max(errors(found, truth).values()) < {FP32: 1e-4, FP16: 2e-3, BF16: 1e-2}[dtype]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("softcap", [0.3, 20.0, 50.0, 1e3, 1e6, 1e12])
def test_any_softcap_is_exact(device: str, softcap: float) -> None:
    check(Case(18, 33, 64, FP32, softcap=softcap, scores="peaked"), device, slack=1.05)


@pytest.mark.parametrize("device", DEVICES)
def test_splits_are_merged(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "full_splits", lambda *_: 3)
    check(Case(35, 70, 64, FP32, bias=True, scores="peaked"), device, 1.05)
    check(Case(18, 50, 320, FP16, softcap=4.0, scores="fitted"), device, 2.6)


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
    truth = eager(inputs, None, torch.float64)
    assert max(errors(run(inputs), truth).values()) < {FP32: 1e-4, FP16: 1e-3}[dtype]


@pytest.mark.parametrize("device", DEVICES)
def test_all_targets_equal(device: str) -> None:
    inputs = make(Case(20, 20, 16, FP32), device)
    inputs.targets.fill_(7)
    truth = eager(inputs, None, torch.float64)
    assert max(errors(run(inputs), truth).values()) < 2e-6


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
def test_filter_leaves_out_only_what_it_may(device: str) -> None:
    rare = 128 if device == "cuda" else 32
    inputs = make(Case(20, 2 * rare, 16, FP32), device)
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


def test_dimension_limit_is_named() -> None:
    with pytest.raises(ValueError, match="hidden has 513 columns"):
        tuning.full_tiles(torch.device("cpu"), FP32, 513)


@pytest.mark.parametrize(("dim", "expected"), [(16, (16, 0)), (20, (32, 0)), (64, (64, 0)), (100, (128, 0)),
                                               (128, (128, 0)), (192, (128, 64)), (320, (256, 64)), (512, (512, 0)),
                                               (1, (16, 0))])  # fmt: skip
def test_dimensions_are_split_with_little_padding(dim: int, expected: tuple[int, int]) -> None:
    from cce_kernels.kernels.full_tiles import split_dimension

    assert split_dimension(dim) == expected


@pytest.mark.parametrize(
    ("programs", "partial_mib", "expected"),
    [
        (132, 1, 1),  # one wave, full
        (256, 32, 1),  # two waves, nearly full; the sums of two parts would be too large anyway
        (2, 1, 16),  # a chip nearly empty: as many parts as there may be
        (133, 1, 10),  # one program more than a wave: 1330 programs in 11 waves instead of 133 in 2
        (133, 24, 2),  # ... but memory allows two parts only
    ],
)
def test_splits_fill_the_chip(programs: int, partial_mib: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "device_properties", lambda _: (90, 132))
    assert tuning.full_splits(torch.device("cuda"), programs, 1000, 8, partial_mib << 20) == expected


def test_tokens_are_sorted_by_the_tile_of_their_target() -> None:
    from cce_kernels.kernels.full_backward import sort_by_tile

    targets = torch.tensor([17, 3, 16, -100, 0, 40, 3])
    order, tiles = sort_by_tile(targets, 16)
    assert order.tolist() == [3, 1, 4, 6, 0, 2, 5]
    assert tiles.tolist() == [-7, 0, 0, 0, 1, 1, 2]
    assert tiles.dtype == torch.int32


@pytest.mark.parametrize(("architecture", "rows"), [(90, 64), (80, 32), (86, 32)])
def test_fp32_has_tiles_of_64_rows_on_hopper_alone(
    architecture: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "device_properties", lambda _: (architecture, 132))
    forward, _ = tuning.full_tiles(torch.device("cuda"), FP32, 256)
    assert forward.block_m == rows


@pytest.mark.skipif(not hasattr(torch.nn.functional, "linear_cross_entropy"), reason="needs a newer torch")
@pytest.mark.parametrize("device", DEVICES)
def test_agrees_with_the_loss_of_torch(device: str) -> None:
    inputs = make(Case(23, 41, 64, FP32, bias=True, scores="peaked"), device)
    expected = torch.nn.functional.linear_cross_entropy(
        inputs.hidden, inputs.weight, inputs.targets, linear_bias=inputs.bias, reduction="sum"
    )
    ours = run(inputs)
    torch.testing.assert_close(ours[0].sum(), expected.detach(), rtol=1e-5, atol=1e-5)
    for mine, gradient in zip(ours[1:], torch.autograd.grad(expected, inputs.leaves()), strict=True):
        torch.testing.assert_close(mine, gradient * inputs.grad[0], rtol=1e-4, atol=1e-6)


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
def test_the_reduced_loss_has_the_gradients_of_the_losses_reduced(device: str, reduction: str) -> None:
    inputs = make(Case(9, 20, 16, BF16), device)
    each, _ = linear_cross_entropy_triton(inputs.hidden, inputs.weight, inputs.targets)
    expected = each.sum() if reduction == "sum" else each.sum() / 8
    got, _ = linear_cross_entropy_triton(inputs.hidden, inputs.weight, inputs.targets, reduction=reduction)
    torch.testing.assert_close(got, expected)
    wanted = torch.autograd.grad(expected, inputs.leaves())
    torch.testing.assert_close(torch.autograd.grad(got, inputs.leaves()), wanted)
