"""The sampled kernels on small shapes, against float64: in Triton's interpreter, and on a GPU (marker gpu).

What test_sampled_gpu.py repeats on larger shapes runs in the interpreter alone.
"""

import pytest
import torch
from kernel_cases import DEVICES, INTERPRETED, MOST_INTERPRETED, pairwise
from rounding import UNIT, allowed_error
from sampled_cases import (
    Case,
    assert_exact,
    assert_kernels_draw_the_ids_of_the_reference,
    make,
    objective_of,
    ours,
    relative_error,
    score_size,
    truth_of,
)

from cce_kernels import BCE, Popularity, Softmax, Uniform, draw_negatives, sampled_linear_cross_entropy
from cce_kernels.sampled import triton_impl, tuning

pytestmark = pytest.mark.usefixtures("bf16_of_hardware")
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
SMALL = Case(dim=16, tokens=4, items=6, negatives=4)

SWEEP = pairwise(
    {
        "dim": [16, 20],
        "dtype": [FP32, BF16, FP16],
        "weight_dtype": [FP32, BF16],
        "sampler": ["uniform", "popularity", "constant", "in_batch", "mixed"],
        "objective": ["softmax", "cool", "bce", "gbce"],
        "sharing": ["none", "tile", "batch"],
        "bias": [False, True],
        "deterministic": [False, True],
        "sparse": [False, True],
        "lse": [False, True],
        "targets": ["random", "same", "ignored", "fitted"],
        "offset": [0, 3],
        "ignore_index": [-100, 0],
    },
    SMALL,
)


@pytest.mark.parametrize("case", SWEEP, ids=str)
@INTERPRETED
def test_pairs_of_options_match_float64(case):
    assert_exact(case, "cpu")


@pytest.mark.parametrize(
    "case",
    [
        Case(dim=16, tokens=1, items=2, negatives=1),
        Case(dim=16, tokens=1, items=2, negatives=3, sharing="tile"),
        Case(dim=16, tokens=9, items=7, negatives=66, sharing="tile", tile=5, offset=3),
        Case(dim=16, tokens=34, items=7, negatives=3, sharing="tile", tile=33),
        # Several blocks of negatives: the running maximum rises between them.
        Case(dim=16, tokens=6, items=99, negatives=131, peak=4.0),
        Case(dim=16, tokens=6, items=99, negatives=131, dtype=FP16, sharing="tile", peak=4.0),
    ],
    ids=str,
)
@INTERPRETED
def test_edges(case):
    assert_exact(case, "cpu")


@pytest.mark.parametrize(
    ("peak", "sampler", "sharing"),
    [
        (30.0, "uniform", "none"), (30.0, "popularity", "tile"), (75.0, "popularity", "none"),
        (75.0, "uniform", "batch"), (260.0, "uniform", "tile"), (260.0, "popularity", "none"),
    ],
)  # fmt: skip
@INTERPRETED
def test_peaked_scores_match_float64(peak, sampler, sharing):
    """Scores up to 120, 300 and 1,000."""
    case = Case(dim=16, tokens=12, negatives=9, bias=False, peak=peak, sampler=sampler, sharing=sharing)
    assert_exact(case, "cpu")


@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
@pytest.mark.parametrize("sampler", ["uniform", "popularity", "in_batch", "mixed"])
@INTERPRETED
def test_kernels_draw_the_ids_of_the_reference(sharing, sampler):
    assert_kernels_draw_the_ids_of_the_reference("cpu", sharing, sampler, 9, 31)


@INTERPRETED
def test_several_chunks_of_the_sort(monkeypatch):
    monkeypatch.setattr(tuning, "SCRATCH_BYTES", 400)
    for sharing in ("none", "tile"):
        case = Case(dim=16, tokens=5, items=3, negatives=5, sharing=sharing, tile=3, deterministic=True)
        if sharing == "none":
            case.tile = 64
        assert_exact(case, "cpu")


@pytest.mark.parametrize(
    ("piece", "sparse", "targets"),
    [
        (1, False, "random"), (2, True, "random"), (2, False, "same"), (3, True, "same"), (3, False, "random"),
        (8, True, "random"), (8, False, "same"),
    ],
)  # fmt: skip
@INTERPRETED
def test_items_drawn_more_often_than_one_program_adds_up(monkeypatch, piece, sparse, targets):
    """Some thirty draws per item, or two or three, in pieces that begin anywhere."""
    monkeypatch.setattr(tuning, "PIECE", piece)
    case = Case(dim=16, tokens=10, items=3, negatives=9, sampler="popularity", sparse=sparse, targets=targets)
    if piece < 3:
        case.tokens, case.items, case.negatives = 6, 9, 3
    assert_exact(case, "cpu")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "case",
    [
        Case(dim=16, tokens=9, items=7, negatives=45, sharing="tile", tile=4, offset=3, targets="ignored"),
        Case(dim=16, tokens=9, items=7, negatives=5, sharing="tile", tile=3, sampler="popularity", sparse=True),
        Case(dim=16, tokens=5, items=6, negatives=9, sharing="batch", sampler="in_batch", objective="bce", dtype=BF16),
    ],
    ids=str,
)
def test_draws_that_are_sorted_first_make_the_same_gradient(monkeypatch, device, case):
    monkeypatch.setattr(tuning, "SORTED_BYTES", 0)
    monkeypatch.setattr(tuning, "SORTED_DRAWS", 0)
    assert_exact(case, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sharing", ["none", "tile"])
def test_a_wider_table_is_rounded_as_the_reference_rounds_it(device, sharing):
    case = Case(dim=16, tokens=6, items=9, negatives=5, dtype=FP16, sharing=sharing)
    tensors, options = make(case, device)
    with torch.no_grad():
        tensors["weight"] += 7.001
    for got, expected in zip(*(ours(case, tensors, options, impl) for impl in ("triton", "reference")), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-3, atol=2e-3)
    loss = ours(case, tensors, options, "reference")[0]
    with torch.no_grad():
        tensors["weight"].copy_(tensors["weight"].half())
    assert torch.equal(ours(case, tensors, options, "reference")[0], loss)


@pytest.mark.parametrize("device", DEVICES)
def test_sparse_gradient_holds_the_rows_touched(device):
    case = Case(dim=16, tokens=4, items=40, negatives=3, sharing="tile", sparse=True, targets="ignored")
    for impl in ("triton", "reference"):
        tensors, options = make(case, device)
        loss = sampled_linear_cross_entropy(
            tensors["hidden"], tensors["weight"], tensors["targets"], sparse_grad=True, impl=impl, **options
        )
        (gradient,) = torch.autograd.grad(loss, tensors["weight"])
        assert gradient.is_coalesced()
        targets = tensors["targets"]
        seed = torch.tensor(options["seed"], device=device)
        ids = draw_negatives(4, 40, num_negatives=3, seed=seed, step=options["step"], sharing="tile")
        touched = torch.cat((ids.flatten(), targets[targets != -100])).unique()
        assert 0 not in touched  # the address that is read for an ignored token
        assert torch.equal(gradient.indices()[0], touched)
        optimizer = torch.optim.SparseAdam([tensors["weight"]])
        before = tensors["weight"].detach().clone()
        tensors["weight"].grad = gradient
        optimizer.step()
        assert int((tensors["weight"] != before).any(1).sum()) == gradient._nnz()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sharing", ["none", "tile"])
def test_any_leaf_alone_may_want_a_gradient(device, sharing):
    case = Case(dim=16, tokens=2, items=3, negatives=3, sharing=sharing)
    tensors, options = make(case, device)
    every = dict(zip(("hidden", "weight", "bias"), ours(case, tensors, options, "triton")[1:], strict=True))
    for wanted in every:
        leaves = {name: tensors[name].detach().requires_grad_(name == wanted) for name in every}
        loss = sampled_linear_cross_entropy(
            leaves["hidden"], leaves["weight"], tensors["targets"], bias=leaves["bias"], reduction="none",
            impl="triton", **options,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad((loss * tensors["upstream"]).sum(), leaves[wanted])
        torch.testing.assert_close(gradient, every[wanted])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("sharing", "dtype", "tokens", "objective"),
    [
        ("none", BF16, 55, "softmax"), ("tile", BF16, 177, "softmax"), ("batch", FP16, 177, "softmax"),
        ("none", FP16, 55, "bce"), ("tile", BF16, 6029, "softmax"), ("none", BF16, 6029, "softmax"),
    ],
)  # fmt: skip
def test_the_gradient_of_hidden_is_rounded_once(device, sharing, dtype, tokens, objective):
    """One rounding errs by up to u, and by 0.42 u in the mean square; two would by 0.60 u."""
    if device == "cpu" and tokens > MOST_INTERPRETED:
        pytest.skip("takes minutes in the interpreter")
    case = Case(dim=32, tokens=tokens, items=50, negatives=32, dtype=dtype, sharing=sharing, targets="ignored")
    case.objective, case.bias = objective, False
    tensors, options = make(case, device)
    counted = int((tensors["targets"] != -100).sum())
    assert 0 < counted < tokens
    # fp16 would lose digits at the size of a mean: a loss scale of 1,024, as its trainers have.
    scale = 1024 if dtype == FP16 else 1
    tensors["upstream"].fill_(scale / counted)
    loss = sampled_linear_cross_entropy(
        tensors["hidden"], tensors["weight"], tensors["targets"], objective=objective_of(case), impl="triton", **options
    )
    (found,) = torch.autograd.grad(loss * scale, tensors["hidden"])
    assert relative_error(found, truth_of(case, tensors, options)[1]) < 0.5 * UNIT[dtype]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("sharing", ["none", "tile"])
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
def test_scores_of_any_size_lose_nothing_of_their_differences(device, impl, sharing, dtype):
    """From 2^24 on fp32 has no odd numbers: log q and log-sum-exps are off by up to 1, and the loss must not be."""
    hidden, weight = (torch.zeros(n, 16, dtype=dtype, device=device).requires_grad_() for n in (6, 8))
    with torch.no_grad():
        hidden[:3, 0], hidden[3:, 0], weight[:, 0] = 4096, -4096, 4096
        hidden[:, 1], weight[:, 1] = 1, 2 * torch.arange(8, device=device) % 4  # scores are 0 or 2 apart
    targets = torch.arange(6, device=device)
    for sampler in (Uniform(), Popularity(torch.arange(1, 9, device=device))):
        options = {"num_negatives": 5, "seed": 1, "sharing": sharing, "sampler": sampler, "reduction": "none"}
        loss = sampled_linear_cross_entropy(hidden, weight, targets, impl=impl, **options)
        exact_leaves = hidden.detach().double().requires_grad_(), weight.detach().double()
        exact = sampled_linear_cross_entropy(*exact_leaves, targets, impl="reference", **options)
        torch.testing.assert_close(loss.double(), exact, rtol=32 * UNIT[FP32], atol=0)
        found, truth = (torch.autograd.grad(x.sum(), h)[0][:, 1] for x, h in ((loss, hidden), (exact, exact_leaves[0])))
        # Column 1 alone: in column 0 equal numbers are subtracted.
        assert (found.double() - truth).abs().max() <= 4 * 2 * UNIT[dtype] + 1e-6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [FP32, FP16])
def test_negatives_far_above_the_target_are_redone(device, dtype):
    """Scores 300 above the target's: e^300 is no fp32 number. And 300 below, where every term is 0."""
    case = Case(dim=16, tokens=3, items=4, negatives=6, dtype=dtype, sharing="tile", bias=False, targets="same")
    tensors, options = make(case, device)
    with torch.no_grad():
        tensors["hidden"].fill_(1.0)
        tensors["weight"][:2], tensors["weight"][2], tensors["weight"][3] = 0.0, 10.0, -8.75
        tensors["hidden"][2] *= -1
    truth = truth_of(case, tensors, options)
    for got, exact in zip(ours(case, tensors, options, "triton"), truth, strict=True):
        assert relative_error(got, exact) <= allowed_error(score_size(case, tensors), 16, 6, device, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sharing", ["none", "tile"])
@pytest.mark.parametrize("impl", ["triton", "reference"])
def test_every_negative_a_hit(device, sharing, impl):
    """Nothing is left to compare with: the softmax loss is 0 and so is its gradient; BCE keeps its target."""
    tensors, _ = make(Case(dim=16, tokens=3, items=4), device)
    counts = torch.tensor([0, 0, 5, 0], device=device)  # every draw is item 2
    leaves = tensors["hidden"], tensors["weight"]
    for objective in (Softmax(), BCE()):
        loss = sampled_linear_cross_entropy(
            *leaves, torch.full((3,), 2, device=device), num_negatives=3, seed=1, sharing=sharing, impl=impl,
            sampler=Popularity(counts), objective=objective, reduction="none",
        )  # fmt: skip
        gradients = torch.autograd.grad(loss.sum(), leaves)
        if objective == Softmax():
            assert not any(x.any() for x in (loss, *gradients))
        else:
            expected = torch.nn.functional.softplus(-(tensors["hidden"] @ tensors["weight"][2]))
            torch.testing.assert_close(loss, expected)
            torch.testing.assert_close(gradients, torch.autograd.grad(expected.sum(), leaves))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("sharing", "sparse", "objective", "ignore_index"),
    [
        ("none", False, "softmax", -100),
        ("none", True, "bce", 0),
        ("tile", False, "bce", 0),
        ("tile", True, "softmax", -100),
    ],
)
def test_the_reduced_loss_and_its_gradients(device, sharing, sparse, objective, ignore_index):
    """One upstream gradient for all tokens: what is ignored must be left out by the kernels themselves."""
    case = Case(dim=16, tokens=4, items=6, negatives=3, sharing=sharing, targets="ignored", sparse=sparse)
    case.objective, case.ignore_index = objective, ignore_index
    tensors, options = make(case, device)
    leaves = tensors["hidden"], tensors["weight"], tensors["bias"]
    counted = int((tensors["targets"] != ignore_index).sum())
    assert 0 < counted < 4
    for reduction, factor in (("sum", 1.0), ("mean", 1 / counted)):
        got = sampled_linear_cross_entropy(
            *leaves[:2], tensors["targets"], bias=leaves[2], reduction=reduction, sparse_grad=sparse, impl="triton",
            objective=objective_of(case), **options,
        )  # fmt: skip
        tensors["upstream"].fill_(factor)
        losses, *expected = truth_of(case, tensors, options)
        torch.testing.assert_close(got.double(), losses.sum() * factor, rtol=1e-5, atol=1e-6)
        for mine, exact in zip(torch.autograd.grad(got, leaves), expected, strict=True):
            dense = mine.to_dense() if mine.is_sparse else mine
            torch.testing.assert_close(dense.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sharing", ["none", "tile"])
@pytest.mark.parametrize(("sparse", "ignore_index"), [(False, -100), (True, 0)])
def test_upstream_gradients_of_ignored_tokens_do_not_matter(device, sharing, sparse, ignore_index):
    case = Case(dim=16, tokens=4, items=6, negatives=3, sharing=sharing, targets="ignored", sparse=sparse)
    case.deterministic, case.ignore_index = True, ignore_index
    tensors, options = make(case, device)
    clean = ours(case, tensors, options, "triton")
    loss = sampled_linear_cross_entropy(
        tensors["hidden"], tensors["weight"], tensors["targets"], bias=tensors["bias"], reduction="none",
        deterministic=True, sparse_grad=sparse, impl="triton", **options,
    )  # fmt: skip
    upstream = torch.where(tensors["targets"] == ignore_index, torch.nan, tensors["upstream"])
    dirty = torch.autograd.grad(loss, [tensors[name] for name in ("hidden", "weight", "bias")], upstream)
    for mine, expected in zip(dirty, clean[1:], strict=True):
        torch.testing.assert_close(mine.to_dense() if sparse else mine, expected, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("objective", ["softmax", "bce"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_fp16_keeps_gradients_below_its_range(device, objective, deterministic):
    """A mean over a million tokens sends 1e-6, which fp16 cannot multiply by a probability. (dH itself is fp16.)"""
    case = Case(dim=16, tokens=5, items=7, negatives=6, dtype=FP16, sharing="tile", deterministic=deterministic)
    case.objective = objective
    tensors, options = make(case, device)
    tensors["upstream"] *= 1e-6
    got, truth = ours(case, tensors, options, "triton"), truth_of(case, tensors, options)
    sizes = score_size(case, tensors), 16, 6, device
    assert relative_error(got[2] * 1e6, truth[2] * 1e6) <= allowed_error(*sizes, FP16)
    assert relative_error(got[3] * 1e6, truth[3] * 1e6) <= allowed_error(*sizes)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
def test_deterministic_means_without_atomics(device, sharing, monkeypatch):
    launch = triton_impl.launch_shared_backward

    def forbidden(*arguments, sorted_ids=None):
        if len(arguments) < 5:  # without a scratch
            raise AssertionError("atomics")
        launch(*arguments)

    monkeypatch.setattr(triton_impl, "launch_shared_backward", forbidden)
    for sparse in (False, True):
        case = Case(dim=16, tokens=3, items=5, negatives=3, sharing=sharing, deterministic=True, sparse=sparse)
        ours(case, *make(case, device), "triton")
    if sharing != "none":
        case = Case(dim=16, tokens=3, items=5, negatives=3, sharing=sharing)
        with pytest.raises(AssertionError, match="atomics"):
            ours(case, *make(case, device), "triton")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("sharing", "tile"), [("none", 64), ("tile", 3), ("batch", 64)])
def test_micro_batches_accumulate_to_one_batch(device, sharing, tile):
    case = Case(dim=16, tokens=7, items=9, negatives=3, sharing=sharing, tile=tile, offset=2)
    tensors, options = make(case, device)
    leaves = [tensors[name] for name in ("hidden", "weight", "bias")]

    def loss_of(start, stop):
        part = {**options, "row_offset": 2 + start}
        return sampled_linear_cross_entropy(
            leaves[0][start:stop], leaves[1], tensors["targets"][start:stop], bias=leaves[2], reduction="sum",
            impl="triton", **part,
        )  # fmt: skip

    whole, parts = loss_of(0, 7), loss_of(0, 2) + loss_of(2, 7)
    torch.testing.assert_close(parts, whole)
    for mine, expected in zip(*(torch.autograd.grad(x, leaves) for x in (parts, whole)), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-6)
