"""The sampled kernels in Triton's interpreter: small shapes, pairwise options, against float64.

The interpreter keeps bf16 as integers and multiplies those in `tl.dot`; bf16 is checked on a GPU (test_sampled_gpu.py).
"""

import pytest
import torch
from kernel_cases import pairwise
from sampled_cases import Case, assert_as_good_as_eager, eager, make, ours, relative_error

from cce_kernels import BCE, Popularity, Softmax, sampled_linear_cross_entropy
from cce_kernels.draws import as_counter, draw_ids, groups_of
from cce_kernels.masking import masks
from cce_kernels.reference_sampled import Draw
from cce_kernels.samplers import prepare

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # with a GPU there is no interpreter
FP32, FP16 = torch.float32, torch.float16
SMALL = Case(dim=16, tokens=4, items=6, negatives=4)

SWEEP = pairwise(
    {
        "dim": [16, 20],
        "dtype": [FP32, FP16],
        "sampler": ["uniform", "popularity", "constant", "in_batch"],
        "objective": ["softmax", "bce", "gbce"],
        "sharing": ["none", "tile", "batch"],
        "bias": [False, True],
        "deterministic": [False, True],
        "sparse": [False, True],
        "targets": ["random", "same", "ignored", "fitted"],
        "offset": [0, 3],
    },
    SMALL,
)


@pytest.mark.parametrize("case", SWEEP, ids=str)
def test_errors_are_those_of_eager_torch(case):
    assert_as_good_as_eager(case, DEVICE)


@pytest.mark.parametrize(
    "case",
    [
        Case(dim=16, tokens=1, items=2, negatives=1),
        Case(dim=16, tokens=1, items=2, negatives=3, sharing="tile"),
        Case(dim=16, tokens=9, items=7, negatives=66, sharing="tile", tile=5, offset=3),
        Case(dim=16, tokens=34, items=7, negatives=3, sharing="tile", tile=33),
    ],
    ids=str,
)
def test_edges(case):
    assert_as_good_as_eager(case, DEVICE)


@pytest.mark.parametrize("sharing", ["none", "tile", "batch"])
@pytest.mark.parametrize("sampler", ["uniform", "popularity", "in_batch"])
def test_kernels_draw_the_ids_of_the_reference(sharing, sampler):
    from cce_kernels.sampled import drawn_ids

    tensors, options = make(Case(tokens=9, items=70001, dim=16, sampler=sampler), DEVICE)
    targets = tensors["targets"]
    source = prepare(options["sampler"], targets, -100, 70001, correct=False)
    seed, step = as_counter(2**62 + 12345, targets.device), as_counter(2**32 - 3, targets.device)
    draw = Draw(source, seed, step, groups_of(9, sharing, 64, 130), 31)
    expected = draw_ids(source, seed, step, draw.groups, 0, draw.groups.number, 31)
    assert torch.equal(drawn_ids(tensors["hidden"], tensors["weight"], draw), expected)


def test_several_chunks_of_the_sort(monkeypatch):
    from cce_kernels import tuning_sampled

    monkeypatch.setattr(tuning_sampled, "SCRATCH_BYTES", 400)
    for sharing in ("none", "tile"):
        case = Case(dim=16, tokens=5, items=3, negatives=5, sharing=sharing, tile=3, deterministic=True)
        if sharing == "none":
            case.tile = 64
        assert_as_good_as_eager(case, DEVICE)


@pytest.mark.parametrize("piece", [1, 3, 8])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("targets", ["random", "same"])
def test_items_drawn_more_often_than_one_program_adds_up(monkeypatch, piece, sparse, targets):
    """Ten tokens draw nine times from three items: some thirty draws an item, in pieces that begin anywhere."""
    from cce_kernels import tuning_sampled

    monkeypatch.setattr(tuning_sampled, "PIECE", piece)
    case = Case(dim=16, tokens=10, items=3, negatives=9, sampler="popularity", sparse=sparse, targets=targets)
    assert_as_good_as_eager(case, DEVICE)


@pytest.mark.parametrize("sharing", ["none", "tile"])
@pytest.mark.parametrize("impl", ["triton", "reference"])
def test_out_of_range_target_is_nan_and_nothing_else(sharing, impl):
    case = Case(dim=16, tokens=5, items=6, negatives=3, bias=False, sharing=sharing)
    tensors, options = make(case, DEVICE)
    clean = ours(case, tensors, options, impl)
    tensors["targets"][1], tensors["targets"][3] = 6, -7
    loss, d_hidden, d_weight = ours(case, tensors, options, impl)
    bad, impossible, _ = masks(tensors["targets"], -100, 6)
    assert torch.equal(impossible, ~bad)
    assert torch.equal(loss.isnan(), impossible)
    assert torch.equal(d_hidden.isnan().all(1), impossible)
    assert torch.equal(loss[bad], clean[0][bad])
    assert not d_weight.isnan().any()


@pytest.mark.parametrize("sharing", ["none", "tile"])
@pytest.mark.parametrize("objective", ["softmax", "bce"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["hidden", "weight", "bias"])
def test_what_is_not_finite_is_no_plausible_loss(sharing, objective, value, place):
    case = Case(dim=16, tokens=5, items=4, negatives=6, sharing=sharing, tile=3 if sharing == "tile" else 64)
    case.objective = objective
    tensors, options = make(case, DEVICE)
    with torch.no_grad():
        tensors[place][1] = value
    loss, *_ = ours(case, tensors, options, "triton")
    expected, *_ = ours(case, tensors, options, "reference")
    assert not expected.isfinite().all()
    assert torch.equal(loss.isfinite(), expected.isfinite())


@pytest.mark.parametrize("sharing", ["none", "tile"])
def test_a_wider_table_is_rounded_as_the_reference_rounds_it(sharing):
    case = Case(dim=16, tokens=6, items=9, negatives=5, dtype=FP16, sharing=sharing)
    tensors, options = make(case, DEVICE)
    with torch.no_grad():
        tensors["weight"] += 7.001
    for got, expected in zip(*(ours(case, tensors, options, impl) for impl in ("triton", "reference")), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-3, atol=2e-3)
    loss = ours(case, tensors, options, "reference")[0]
    with torch.no_grad():
        tensors["weight"].copy_(tensors["weight"].half())
    assert torch.equal(ours(case, tensors, options, "reference")[0], loss)


def test_sparse_gradient_holds_the_rows_touched():
    case = Case(dim=16, tokens=4, items=40, negatives=3, sharing="tile", sparse=True)
    for impl in ("triton", "reference"):
        tensors, options = make(case, DEVICE)
        loss = sampled_linear_cross_entropy(
            tensors["hidden"], tensors["weight"], tensors["targets"], sparse_grad=True, impl=impl, **options
        )
        (gradient,) = torch.autograd.grad(loss, tensors["weight"])
        assert gradient.is_coalesced()
        assert gradient._nnz() <= 7
        optimizer = torch.optim.SparseAdam([tensors["weight"]])
        before = tensors["weight"].detach().clone()
        tensors["weight"].grad = gradient
        optimizer.step()
        assert int((tensors["weight"] != before).any(1).sum()) == gradient._nnz()


@pytest.mark.parametrize("sharing", ["none", "tile"])
def test_any_leaf_alone_may_want_a_gradient(sharing):
    case = Case(dim=16, tokens=2, items=3, negatives=3, sharing=sharing)
    tensors, options = make(case, DEVICE)
    every = dict(zip(("hidden", "weight", "bias"), ours(case, tensors, options, "triton")[1:], strict=True))
    for wanted in every:
        leaves = {name: tensors[name].detach().requires_grad_(name == wanted) for name in every}
        loss = sampled_linear_cross_entropy(
            leaves["hidden"], leaves["weight"], tensors["targets"], bias=leaves["bias"], reduction="none",
            impl="triton", **options,
        )  # fmt: skip
        (gradient,) = torch.autograd.grad((loss * tensors["upstream"]).sum(), leaves[wanted])
        torch.testing.assert_close(gradient, every[wanted])


@pytest.mark.parametrize("dtype", [FP32, FP16])
def test_negatives_far_above_the_target_are_redone(dtype):
    """Scores 300 above the target's: e^300 is no fp32 number. And 300 below, where every term is 0."""
    case = Case(dim=16, tokens=3, items=4, negatives=6, dtype=dtype, sharing="tile", bias=False, targets="same")
    tensors, options = make(case, DEVICE)
    with torch.no_grad():
        tensors["hidden"].fill_(1.0)
        tensors["weight"][:2], tensors["weight"][2], tensors["weight"][3] = 0.0, 10.0, -8.75
        tensors["hidden"][2] *= -1
    truth = eager(case, tensors, options, torch.float64)
    for got, exact in zip(ours(case, tensors, options, "triton"), truth, strict=True):
        assert relative_error(got, exact) < {FP32: 1e-5, FP16: 2e-3}[dtype]


@pytest.mark.parametrize("sharing", ["none", "tile"])
@pytest.mark.parametrize("impl", ["triton", "reference"])
def test_every_negative_a_hit(sharing, impl):
    """Nothing is left to compare with: the softmax loss is 0 and so is its gradient; BCE keeps its target."""
    tensors, _ = make(Case(dim=16, tokens=3, items=4), DEVICE)
    counts = torch.tensor([0, 0, 5, 0], device=DEVICE)  # every draw is item 2
    leaves = tensors["hidden"], tensors["weight"]
    for objective in (Softmax(), BCE()):
        loss = sampled_linear_cross_entropy(
            *leaves, torch.full((3,), 2, device=DEVICE), num_negatives=3, seed=1, sharing=sharing, impl=impl,
            sampler=Popularity(counts), objective=objective, reduction="none",
        )  # fmt: skip
        gradients = torch.autograd.grad(loss.sum(), leaves)
        if objective == Softmax():
            assert not any(x.any() for x in (loss, *gradients))
        else:
            expected = torch.nn.functional.softplus(-(tensors["hidden"] @ tensors["weight"][2]))
            torch.testing.assert_close(loss, expected)
            torch.testing.assert_close(gradients, torch.autograd.grad(expected.sum(), leaves))


@pytest.mark.parametrize("sharing", ["none", "tile"])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_reduced_loss_has_the_gradients_of_the_losses_reduced(sharing, sparse):
    case = Case(dim=16, tokens=4, items=6, negatives=3, sharing=sharing, targets="ignored", sparse=sparse)
    tensors, options = make(case, DEVICE)
    leaves = tensors["hidden"], tensors["weight"], tensors["bias"]

    def loss(reduction):
        return sampled_linear_cross_entropy(
            *leaves[:2], tensors["targets"], bias=leaves[2], reduction=reduction, sparse_grad=sparse, impl="triton",
            **options,
        )  # fmt: skip

    each = loss("none").sum()
    for reduction, expected in (("sum", each), ("mean", each / 2)):
        got = loss(reduction)
        torch.testing.assert_close(got, expected)
        wanted = torch.autograd.grad(expected, leaves, retain_graph=True)
        for mine, other in zip(torch.autograd.grad(got, leaves), wanted, strict=True):
            torch.testing.assert_close(*(x.to_dense() if x.is_sparse else x for x in (mine, other)))
