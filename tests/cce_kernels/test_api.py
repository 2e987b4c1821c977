"""The public functions: checks, reductions, row offsets, autocast, compile, modules."""

import copy
import pickle

import pytest
import torch
from kernel_cases import DEVICES
from torch.testing import assert_close

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
    modules,
    sampled_linear_cross_entropy,
    validation,
)

M, V, D = 12, 9, 4


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(M, D, generator=generator, requires_grad=True)
    weight = torch.randn(V, D, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(0, V, (M,), generator=generator)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"num_negatives": 0}, "num_negatives"),
        ({"seed": -1}, "seed"),
        ({"seed": torch.tensor(0.5)}, "seed"),
        ({"step": 2**32}, "step"),
        ({"row_offset": -1}, "row_offset"),
        ({"row_offset": 2**32 - 3}, "row_offset"),
        ({"sharing": "some"}, "sharing"),
        ({"tile_tokens": 32}, "tile_tokens"),
        ({"sharing": "tile", "tile_tokens": 0}, "tile_tokens"),
        ({"sampler": "uniform"}, "sampler"),
        ({"sampler": Popularity(torch.ones(V + 1))}, "counts"),
        ({"sampler": Mixed(others=Popularity(torch.ones(V + 1)))}, "counts"),
        ({"sampler": InBatch(logq=True), "objective": BCE()}, "logq"),
        ({"objective": "softmax"}, "objective"),
        ({"objective": GBCE(), "num_negatives": V}, "num_negatives"),
        ({"reduction": "max"}, "reduction"),
        ({"impl": "cuda"}, "impl"),
        ({"bias": torch.zeros(V + 1)}, "bias"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_wrong_arguments_are_named(inputs, options, name):
    with pytest.raises(ValueError, match=name):
        sampled_linear_cross_entropy(*inputs, **{"num_negatives": 3, "seed": 1, **options})


def test_wrong_tensors_are_named(inputs, monkeypatch):
    monkeypatch.setattr(validation, "INTERPRETER", True)
    hidden, weight, targets = inputs
    for arguments, name in (
        ((hidden[:, :3], weight, targets), "hidden and weight"),
        ((hidden, weight[0], targets), "weight"),
        ((hidden, weight, targets[:5]), "targets"),
        ((hidden, weight, targets.int()), "targets"),
        ((hidden.int(), weight, targets), "hidden"),
        ((hidden.to("meta"), weight, targets), "weight"),
        ((hidden[0, 0], weight, targets), "hidden"),
    ):
        with pytest.raises(ValueError, match=name):
            linear_cross_entropy(*arguments)
    for options, name in (
        ({"softcap": 0.0}, "softcap"),
        ({"softcap": float("inf")}, "softcap"),
        ({"ignore_index": 3.5}, "ignore_index: found 3.5, allowed: an integer"),
        ({"bias": [0.0]}, "bias: found list, allowed: a tensor"),
        ({"filter_eps": 2.0}, "filter_eps"),
        ({"filter_eps": 0.1}, "filter_eps"),
    ):
        with pytest.raises(ValueError, match=name):
            linear_cross_entropy(hidden, weight, targets, impl="reference", **options)
    with pytest.raises(ValueError, match="float64"):
        linear_cross_entropy(hidden.double(), weight, targets, impl="triton")
    for dtype, widest in ((torch.float32, 256), (torch.bfloat16, 512)):
        wide, table = (torch.zeros(rows, widest + 1, dtype=dtype) for rows in (1, 2))
        with pytest.raises(ValueError, match=f"up to {widest}"):
            linear_cross_entropy(wide, table, targets[:1], impl="triton")
    monkeypatch.setattr(validation, "INTERPRETER", False)
    with pytest.raises(ValueError, match="impl"):
        sampled_linear_cross_entropy(hidden, weight, targets, num_negatives=1, seed=1, impl="triton")
    for counts in (torch.ones(2, 2), -torch.ones(3), torch.zeros(3), torch.tensor([1.0, torch.inf])):
        with pytest.raises(ValueError, match="counts"):
            Popularity(counts)
    with pytest.raises(ValueError, match=r"GBCE\.t: found 1\.5"):
        GBCE(1.5)


def test_auto_takes_the_reference_on_a_cpu(inputs, monkeypatch):
    monkeypatch.setattr(validation, "check_triton", lambda *_: pytest.fail("Triton was asked"))
    linear_cross_entropy(*inputs)
    sampled_linear_cross_entropy(*inputs, num_negatives=3, seed=1)


def test_check_looks_at_values(inputs):
    hidden, weight, targets = inputs
    options = {"num_negatives": 3, "seed": 1, "check": True}
    sampled_linear_cross_entropy(*inputs, **options)
    wrong = targets.clone()
    wrong[2] = V
    with pytest.raises(ValueError, match="targets"):
        sampled_linear_cross_entropy(hidden, weight, wrong, **options)
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", torch.zeros(V))):
        broken = tensor.detach().clone()
        broken.view(-1)[3] = torch.nan
        tensors = {"hidden": hidden, "weight": weight, "targets": targets, name: broken}
        for function, more in ((linear_cross_entropy, {"check": True}), (sampled_linear_cross_entropy, options)):
            with pytest.raises(ValueError, match=f"^{name}: found NaN or infinity"):
                function(**tensors, **more)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("ignore_index", [-100, 4])
def test_reductions_agree(inputs, sampled, ignore_index):
    hidden, weight, targets = inputs
    targets[::5] = ignore_index
    options = {"num_negatives": 3, "seed": 1} if sampled else {}

    def loss(reduction):
        function = sampled_linear_cross_entropy if sampled else linear_cross_entropy
        return function(hidden, weight, targets, reduction=reduction, ignore_index=ignore_index, **options)

    each = loss("none")
    assert each.shape == targets.shape
    assert torch.equal(each == 0, targets == ignore_index)
    assert_close(loss("sum"), each.sum())
    assert_close(loss("mean"), each.sum() / (targets != ignore_index).sum())
    (gradient,) = torch.autograd.grad(loss("sum"), hidden)
    assert torch.equal((gradient == 0).all(1), targets == ignore_index)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("empty", [False, True])
def test_nothing_to_predict_gives_zero(inputs, sampled, empty):
    hidden, weight, targets = inputs
    if empty:
        hidden, targets = hidden[:0], targets[:0]
    targets = torch.full_like(targets, -100)
    options = {"num_negatives": 3, "seed": 1} if sampled else {}
    loss = (sampled_linear_cross_entropy if sampled else linear_cross_entropy)(hidden, weight, targets, **options)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, (inputs[0], weight)):
        assert (gradient == 0).all()


def test_leading_dimensions_and_strides_do_not_matter(inputs):
    hidden, weight, targets = inputs
    options = {"num_negatives": 3, "seed": 1, "reduction": "none"}
    flat = sampled_linear_cross_entropy(hidden, weight, targets, **options)
    strided = hidden.detach().T.contiguous().T.unflatten(0, (3, 4))
    table = weight.detach().T.contiguous().T
    got = sampled_linear_cross_entropy(strided, table, targets.unflatten(0, (3, 4)), **options)
    assert_close(got, flat.unflatten(0, (3, 4)))
    assert_close(
        linear_cross_entropy(strided, table, targets.unflatten(0, (3, 4)), reduction="none").flatten(),
        linear_cross_entropy(hidden, weight, targets, reduction="none"),
    )


@pytest.mark.parametrize(("sharing", "tile"), [("none", 64), ("tile", 5), ("batch", 64)])
def test_micro_batches_draw_what_one_batch_would(inputs, sharing, tile):
    hidden, weight, targets = inputs
    options = {"num_negatives": 3, "seed": 1, "step": 4, "sharing": sharing, "tile_tokens": tile, "reduction": "sum"}
    whole = sampled_linear_cross_entropy(hidden, weight, targets, **options)
    whole_gradients = torch.autograd.grad(whole, (hidden, weight))
    parts = sum(
        sampled_linear_cross_entropy(hidden[i:j], weight, targets[i:j], row_offset=i, **options)
        for i, j in ((0, 3), (3, 10), (10, 12))
    )
    assert_close(parts, whole)
    assert_close(torch.autograd.grad(parts, (hidden, weight)), whole_gradients)


def test_a_z_loss_through_the_log_sum_exp(inputs):
    hidden, weight, targets = inputs
    targets[0] = -100
    loss, lse = linear_cross_entropy(hidden, weight, targets, return_lse=True)
    scores = hidden @ weight.T
    expected = scores.logsumexp(1) * (targets != -100)
    assert_close(lse, expected)
    plain = torch.nn.functional.cross_entropy(scores, targets)
    for total, truth in ((lse.square().mean(), expected.square().mean()), (loss + lse.sum(), plain + expected.sum())):
        found, true = (torch.autograd.grad(x, (hidden, weight), retain_graph=True) for x in (total, truth))
        assert_close(found, true)


def test_autocast_uses_its_dtype(inputs):
    hidden, weight, targets = inputs
    options = {"num_negatives": 3, "seed": 1}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sampled_linear_cross_entropy(hidden, weight, targets, **options)
        full = linear_cross_entropy(hidden, weight, targets)
    assert loss.dtype == full.dtype == torch.float32
    assert_close(loss, sampled_linear_cross_entropy(hidden.bfloat16(), weight, targets, **options))
    assert_close(full, linear_cross_entropy(hidden.bfloat16(), weight, targets))
    assert torch.autograd.grad(loss, hidden)[0].dtype == torch.float32


def test_seed_and_step_may_be_tensors(inputs):
    options = {"num_negatives": 3, "reduction": "none"}
    plain = sampled_linear_cross_entropy(*inputs, seed=5, step=7, **options)
    assert torch.equal(
        plain, sampled_linear_cross_entropy(*inputs, seed=torch.tensor(5), step=torch.tensor([7]), **options)
    )
    assert not torch.equal(plain, sampled_linear_cross_entropy(*inputs, seed=5, step=8, **options))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_a_tensor_step_counts_modulo_two_to_the_32(inputs, impl, device):
    inputs = [x.to(device) for x in inputs]
    options = {"num_negatives": 3, "seed": 5, "reduction": "none", "impl": impl}
    plain = sampled_linear_cross_entropy(*inputs, step=7, **options)
    for step in (2**32 + 7, 7 - 2**32, 2**63 - 2**32 + 7):
        wrapped = torch.tensor(step, device=device)
        assert torch.equal(sampled_linear_cross_entropy(*inputs, step=wrapped, **options), plain)


def test_modules_do_what_the_functions_do(inputs):
    hidden, weight, targets = inputs
    module = SampledLinearCrossEntropy(3, 5, sharing="tile", tile_tokens=4, objective=BCE())
    expected = sampled_linear_cross_entropy(
        hidden, weight, targets, num_negatives=3, seed=5, step=2, sharing="tile", tile_tokens=4, objective=BCE()
    )
    assert_close(module(hidden, weight, targets, step=2), expected)
    bias = torch.randn(V)
    assert_close(
        LinearCrossEntropy(softcap=3.0)(hidden, weight, targets, bias=bias),
        linear_cross_entropy(hidden, weight, targets, bias=bias, softcap=3.0),
    )


def test_a_seed_tensor_of_a_module_goes_where_the_module_goes(inputs):
    seed = torch.tensor(5)
    module = SampledLinearCrossEntropy(3, seed)
    assert module.seed is seed
    assert list(module.state_dict()) == []
    expected = SampledLinearCrossEntropy(3, 5)(*inputs, step=2)
    for other in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module)), module.half()):
        assert other.seed.dtype == torch.int64
        assert torch.equal(other(*inputs, step=2), expected)
    assert module.to("meta").seed.is_meta
    plain = pickle.loads(pickle.dumps(copy.deepcopy(SampledLinearCrossEntropy(3, 5))))
    assert plain.seed == 5
    plain.seed = 6
    assert torch.equal(plain(*inputs, step=2), SampledLinearCrossEntropy(3, torch.tensor(6))(*inputs, step=2))


def test_modules_hand_every_option_on(monkeypatch):
    seen = []
    for name in ("linear_cross_entropy", "sampled_linear_cross_entropy"):
        monkeypatch.setattr(modules, name, lambda *tensors, **options: seen.append(options))
    common = {"ignore_index": 4, "reduction": "sum", "check": True, "impl": "triton"}
    full = {**common, "softcap": 3.0, "temperature": 2.0, "filter_eps": 0.1}
    sampled = {
        **common, "num_negatives": 3, "seed": 5, "sampler": InBatch(logq=False), "objective": BCE(), "sharing": "tile",
        "tile_tokens": 7, "deterministic": True, "sparse_grad": True,
    }  # fmt: skip
    given = {"bias": "bias", "token_weights": "token weights", "item_weights": "item weights"}
    LinearCrossEntropy(**full)("hidden", "weight", "targets", **given)
    SampledLinearCrossEntropy(**sampled)("hidden", "weight", "targets", step=2, row_offset=6, **given)
    smooth = {**full, "softcap": None, "label_smoothing": 0.1}  # not together with a softcap
    LinearCrossEntropy(**smooth)("hidden", "weight", "targets", **given)
    assert seen == [
        {**full, "label_smoothing": 0.0, **given}, {**sampled, "step": 2, "row_offset": 6, **given},
        {**smooth, **given},
    ]  # fmt: skip


def test_modules_refuse_wrong_options_when_built_and_print_the_others():
    for options, name in (({"softcap": 0.0}, "softcap"), ({"reduction": "avg"}, "reduction"), ({"impl": "x"}, "impl")):
        with pytest.raises(ValueError, match=name):
            LinearCrossEntropy(**options)
    for options, name in (
        ({"num_negatives": -1}, "num_negatives"),
        ({"tile_tokens": 5}, "tile_tokens"),
        ({"sampler": Popularity(torch.ones(3), logq=True), "objective": BCE()}, "logq"),
    ):
        with pytest.raises(ValueError, match=name):
            SampledLinearCrossEntropy(**{"num_negatives": 3, "seed": 5, **options})
    assert "softcap=3.0" in repr(LinearCrossEntropy(softcap=3.0))
    shown = repr(SampledLinearCrossEntropy(3, 5, sampler=Popularity(torch.ones(3))))
    assert "num_negatives=3" in shown
    assert "sampler=Popularity" in shown


@pytest.mark.parametrize(
    "options",
    [
        {"num_negatives": 1.5}, {"num_negatives": True}, {"num_negatives": 2**31}, {"seed": 1.5}, {"step": 1.5},
        {"row_offset": 1.5}, {"tile_tokens": 1.5, "sharing": "tile"},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_are_no_integers_in_their_range_are_named(inputs, options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=name + ": found .*, allowed: an integer in"):
        sampled_linear_cross_entropy(*inputs, **{"num_negatives": 3, "seed": 1, **options})
    with pytest.raises(ValueError, match="sampler: found logq='x'"):
        sampled_linear_cross_entropy(*inputs, num_negatives=3, seed=1, sampler=InBatch(logq="x"))


def test_draws_need_what_they_read():
    with pytest.raises(ValueError, match=r"targets: found torch\.float32, allowed: int64"):
        draw_negatives(3, 9, num_negatives=2, seed=1, sampler=InBatch(), targets=torch.zeros(3))
    with pytest.raises(ValueError, match="targets"):
        draw_negatives(3, 9, num_negatives=2, seed=1, sampler=InBatch())
    with pytest.raises(ValueError, match="targets"):
        draw_negatives(3, 9, num_negatives=2, seed=1, targets=torch.zeros(3, dtype=torch.int64))
