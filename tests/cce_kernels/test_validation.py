"""Wrong options: one ValueError of one line that begins with the option's name, where it is built or called."""

import numpy as np
import pytest
import torch

from cce_kernels import (
    BCE,
    GBCE,
    InBatch,
    LinearCrossEntropy,
    Mixed,
    Popularity,
    SampledLinearCrossEntropy,
    draw_negatives,
    linear_cross_entropy,
    sampled_linear_cross_entropy,
)

M, V, D = 6, 9, 4
GPU = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(*shape, generator=generator) for shape in ((M, D), (V, D)))
    return hidden, weight, torch.randint(0, V, (M,), generator=generator)


def refused(call, name):
    """The message of the error, which must be a ValueError of one line about `name`."""
    with pytest.raises(ValueError, match=rf"^{name}: found .*, allowed") as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("sampler", lambda: SampledLinearCrossEntropy(3, 5, sampler="uniform")),
        ("sampler", lambda: SampledLinearCrossEntropy(3, 5, sampler="uniform", objective=BCE())),
        ("sampler", lambda: SampledLinearCrossEntropy(3, 5, sampler=InBatch(logq=1))),
        ("objective", lambda: SampledLinearCrossEntropy(3, 5, objective="bce")),
        ("seed", lambda: SampledLinearCrossEntropy(3, -1)),
        ("seed", lambda: SampledLinearCrossEntropy(3, 1.5)),
        ("seed", lambda: SampledLinearCrossEntropy(3, True)),
        ("num_negatives", lambda: SampledLinearCrossEntropy("3", 5)),
        ("num_negatives", lambda: SampledLinearCrossEntropy(torch.tensor(3), 5)),
        ("num_negatives", lambda: SampledLinearCrossEntropy(np.bool_(True), 5)),
        ("GBCE.t", lambda: GBCE("x")),
        ("GBCE.t", lambda: GBCE(None)),
        ("GBCE.t", lambda: GBCE(True)),
        ("GBCE.t", lambda: GBCE(float("nan"))),
        ("Popularity.counts", lambda: Popularity([1, 2])),
        ("Popularity.counts", lambda: Popularity(np.ones(2))),
        ("Popularity.counts", lambda: Popularity(torch.ones(2, dtype=torch.complex64))),
        ("Popularity.counts", lambda: Popularity(torch.zeros(2))),
        ("Popularity.counts", lambda: Popularity(torch.tensor([-1.0, 5.0]))),
        ("Popularity.counts", lambda: Popularity(torch.tensor([float("nan"), 5.0]))),
        ("Mixed.others", lambda: Mixed(others=InBatch())),
        ("Mixed.others", lambda: Mixed(others=Popularity(torch.ones(2), logq=True))),
        ("Mixed.share", lambda: Mixed(share=1.0)),
        ("Mixed.share", lambda: Mixed(share="x")),
        ("Popularity.alpha", lambda: Popularity(torch.ones(2), alpha=None)),
        ("Popularity.alpha", lambda: Popularity(torch.ones(2), alpha="x")),
        ("Popularity.alpha", lambda: Popularity(torch.ones(2), alpha=float("inf"))),
        ("reduction", lambda: LinearCrossEntropy(reduction=None)),
        ("reduction", lambda: LinearCrossEntropy(reduction=["mean"])),
        ("impl", lambda: LinearCrossEntropy(impl=torch.tensor(1))),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_when_it_is_built(name, build):
    refused(build, name)


@pytest.mark.parametrize("value", ["x", True, torch.tensor(3.0), 0.0, -1.0, float("nan"), float("inf"), [3.0]], ids=str)
@pytest.mark.parametrize("name", ["softcap", "filter_eps", "temperature", "label_smoothing"])
def test_numbers_are_numbers(inputs, name, value):
    if name == "label_smoothing" and value == 0.0:
        value = 1.0  # 0 switches it off
    refused(lambda: LinearCrossEntropy(**{name: value}), name)
    refused(lambda: linear_cross_entropy(*inputs, impl="reference", **{name: value}), name)


@pytest.mark.parametrize("value", [[1.0] * V, torch.ones(V + 1), torch.ones(V, 1), torch.ones(V).long()], ids=str)
@pytest.mark.parametrize("name", ["token_weights", "item_weights"])
def test_weights_are_floats_of_the_right_shape(inputs, name, value):
    assert M != V + 1
    refused(lambda: linear_cross_entropy(*inputs, **{name: value}), name)
    refused(lambda: sampled_linear_cross_entropy(*inputs, num_negatives=3, seed=1, **{name: value}), name)


def test_a_sampled_loss_takes_one_target_per_token(inputs):
    hidden, weight, targets = inputs
    sets = targets[:, None].expand(-1, 3)
    with pytest.raises(ValueError, match=r"targets: found 3 per token, allowed: one; repeat .* with token_weights=1/3"):
        sampled_linear_cross_entropy(hidden, weight, sets, num_negatives=3, seed=1)


@pytest.mark.parametrize(("name", "value"), [("weight", None), ("weight", torch.zeros(())), ("ignore_index", "x")])
def test_several_targets_are_read_after_the_checks(inputs, name, value):
    hidden, weight, targets = inputs
    arguments = {"weight": weight, "targets": targets[:, None].expand(-1, 3), name: value}
    refused(lambda: linear_cross_entropy(hidden, **arguments), name)


def test_smoothing_and_a_softcap_exclude_each_other(inputs):
    refused(lambda: linear_cross_entropy(*inputs, softcap=3.0, label_smoothing=0.1), "label_smoothing")


def test_numbers_may_be_integers_or_of_numpys_float64(inputs):
    wanted = linear_cross_entropy(*inputs, softcap=3.0)
    assert torch.equal(linear_cross_entropy(*inputs, softcap=3), wanted)
    assert torch.equal(linear_cross_entropy(*inputs, softcap=np.float64(3)), wanted)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_integers_of_numpy_are_integers(inputs, dtype, device):
    inputs = [x.to(device) for x in inputs]
    counts = {
        "num_negatives": 3, "seed": 7, "step": 2, "row_offset": 5, "tile_tokens": 4, "ignore_index": 1,
    }  # fmt: skip
    theirs = {name: dtype(value) for name, value in counts.items()}
    expected = sampled_linear_cross_entropy(*inputs, sharing="tile", **counts)
    assert torch.equal(sampled_linear_cross_entropy(*inputs, sharing="tile", **theirs), expected)
    step, offset = theirs.pop("step"), theirs.pop("row_offset")
    module = SampledLinearCrossEntropy(**theirs, sharing="tile")
    assert torch.equal(module(*inputs, step=step, row_offset=offset), expected)
    assert "num_negatives=3, seed=7" in repr(module)
    assert torch.equal(
        linear_cross_entropy(*inputs, ignore_index=dtype(1)), linear_cross_entropy(*inputs, ignore_index=1)
    )


def test_draws_take_integers_of_numpy():
    one = {"num_negatives": 3, "seed": 7, "step": 2, "row_offset": 5}
    theirs = {name: np.int64(value) for name, value in one.items()}
    assert torch.equal(draw_negatives(np.int32(4), np.int64(9), **theirs), draw_negatives(4, 9, **one))
    refused(lambda: draw_negatives(4, 9, num_negatives=3, seed=np.int64(-1)), "seed")


@pytest.mark.parametrize("value", ["False", "no", 1, 0, None, [True], torch.tensor(True)], ids=str)
@pytest.mark.parametrize("name", ["check", "return_lse", "return_predicted", "deterministic", "sparse_grad"])
def test_flags_are_booleans(inputs, name, value):
    wrong = {name: value}
    if name in ("check", "return_lse", "return_predicted"):
        refused(lambda: linear_cross_entropy(*inputs, **wrong), name)
    if name == "check":
        refused(lambda: LinearCrossEntropy(**wrong), name)
    if name != "return_predicted":
        refused(lambda: sampled_linear_cross_entropy(*inputs, num_negatives=3, seed=1, **wrong), name)
    if name not in ("return_lse", "return_predicted"):
        refused(lambda: SampledLinearCrossEntropy(3, 1, **wrong), name)


def test_flags_may_be_numpys(inputs):
    on, off = np.bool_(True), np.bool_(False)
    loss, lse = linear_cross_entropy(*inputs, return_lse=on, check=off)
    assert loss.shape == ()
    assert lse.shape == (M,)
    assert LinearCrossEntropy(check=on).check is True
    weight = inputs[1].requires_grad_()
    sampled_linear_cross_entropy(*inputs, num_negatives=3, seed=1, deterministic=off, sparse_grad=on).backward()
    assert weight.grad.is_sparse
    module = SampledLinearCrossEntropy(3, 1, deterministic=on, sparse_grad=off, check=on)
    assert (module.deterministic, module.sparse_grad, module.check) == (True, False, True)


BIAS = torch.zeros(V)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("weight", {"weight": torch.zeros(V, D, dtype=torch.int64)}),
        ("bias", {"bias": BIAS.int()}),
        ("weight", {"weight": torch.zeros(0, D)}),
        ("weight", {"weight": torch.zeros(V, D, device="meta")}),
        ("targets", {"targets": torch.zeros(M, dtype=torch.int64, device="meta")}),
        ("bias", {"bias": BIAS.to("meta")}),
        ("hidden", {"hidden": torch.zeros(M, D, device="meta"), "weight": torch.zeros(V, D, device="meta"),
                    "targets": torch.zeros(M, dtype=torch.int64, device="meta")}),
        ("hidden", {"hidden": torch.zeros(M, D).to_sparse()}),
        ("weight", {"weight": torch.zeros(V, D).to_sparse()}),
        ("targets", {"targets": torch.zeros(M, dtype=torch.int64).to_sparse()}),
        ("bias", {"bias": BIAS.to_sparse()}),
    ],
    ids=["integer weight", "integer bias", "no items", "weight elsewhere", "targets elsewhere", "bias elsewhere",
         "all without numbers", "sparse hidden", "sparse weight", "sparse targets", "sparse bias"],
)  # fmt: skip
def test_tensors_that_no_loss_can_read(inputs, name, change):
    tensors = dict(zip(("hidden", "weight", "targets"), inputs, strict=True)) | change
    refused(lambda: linear_cross_entropy(**tensors), name)
    refused(lambda: sampled_linear_cross_entropy(**tensors, num_negatives=3, seed=1), name)


@pytest.mark.parametrize("name", ["seed", "step"])
@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1, 2]), torch.tensor([], dtype=torch.int64), torch.tensor(1, dtype=torch.int32),
        torch.tensor(1, device="meta"),
    ],
    ids=["two elements", "none", "int32", "elsewhere"],
)  # fmt: skip
def test_counters_are_one_integer_where_hidden_is(inputs, name, value):
    refused(lambda: sampled_linear_cross_entropy(*inputs, **{"num_negatives": 3, "seed": 1, name: value}), name)


def test_tiles_have_at_most_1024_tokens(inputs):
    for tokens in (1025, 2**20):
        options = {"num_negatives": 3, "seed": 1, "sharing": "tile", "tile_tokens": tokens}
        refused(lambda options=options: sampled_linear_cross_entropy(*inputs, **options), "tile_tokens")
        refused(lambda options=options: SampledLinearCrossEntropy(**options), "tile_tokens")
        refused(lambda options=options: draw_negatives(M, V, **options), "tile_tokens")
    sampled_linear_cross_entropy(*inputs, **options | {"tile_tokens": 1024})


TARGETS = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ignore_index", {"ignore_index": 5}),
        ("ignore_index", {"ignore_index": 5, "sampler": Popularity(torch.ones(9))}),
        ("ignore_index", {"ignore_index": 0.5, "sampler": InBatch(), "targets": TARGETS}),
        ("targets", {"targets": TARGETS}),
        ("targets", {"sampler": InBatch()}),
        ("targets", {"sampler": InBatch(), "targets": [0, 0, 0]}),
        ("targets", {"sampler": InBatch(), "targets": TARGETS[:2]}),
        ("targets", {"sampler": InBatch(), "targets": TARGETS.float()}),
        (
            "seed and targets",
            {"seed": torch.tensor(1), "sampler": InBatch(), "targets": TARGETS.to("meta")},
        ),
        ("seed and step", {"seed": torch.tensor(1), "step": torch.tensor(1, device="meta")}),
    ],
)  # fmt: skip
def test_draws_refuse_what_they_would_not_read(name, options):
    refused(lambda: draw_negatives(3, 9, **{"num_negatives": 2, "seed": 1, **options}), name)


def test_draws_among_targets_leave_out_those_that_do_not_count():
    targets = torch.tensor([5, 2, 5])
    ids = draw_negatives(3, 9, num_negatives=40, seed=1, sampler=InBatch(), targets=targets, ignore_index=5)
    assert (ids == 2).all()
    ids = draw_negatives(3, 9, num_negatives=40, seed=torch.tensor(1), sampler=InBatch(), targets=targets)
    assert set(ids.unique().tolist()) == {2, 5}
