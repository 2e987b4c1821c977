import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import build_encoder
from rec_models.encoders.packing import layout_of
from rec_models.training.batch import prepare
from rec_models.training.cuda_graphs import FilledSize, bucket_of, prepare_filled, size_of
from rec_models.training.step import StepLoss

WIDTH = 12  # of the network; batches are 10 wide


@settings(deadline=None)
@given(st.integers(1, 2**40))
def test_sizes_are_few_and_near(count):
    size = bucket_of(count)
    assert size % 16 == 0
    assert count <= size < count + max(16, count / 16 + 1)
    assert bucket_of(size) == size
    assert bucket_of(size + 1) > size


def test_sizes_between_two_powers_of_two():
    assert sorted({bucket_of(count) for count in range(1025, 2049)}) == list(range(1088, 2049, 64))


@pytest.mark.parametrize("loss", ["cce", "cce_neg", "bce_neg", "gbce"])
def test_filling_changes_neither_loss_nor_gradient(tiny, model_name, loss):
    torch.manual_seed(0)
    encoder = build_encoder(ModelSettings(model=model_name, hidden=8, max_seq_len=WIDTH, dropout=0.0), tiny.ITEMS)
    encoder.double()
    settings = LossSettings.pick(loss, num_negatives=5, sharing="tile", tile_tokens=3)
    function = StepLoss(encoder, settings, TrainingSettings())
    results = []
    packed = tiny.TinyBatches(model=model_name).batch(0, 3)
    batch, filled = prepare(packed), prepare_filled(packed, WIDTH)
    assert filled.items.numel() > batch.items.numel()
    for variant in (batch, filled):
        encoder.zero_grad()
        mean = function(variant, 4)
        mean.backward()
        results.append([mean.detach(), *(parameter.grad.clone() for parameter in encoder.parameters())])
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_attention_dropout_accepts_the_empty_histories_of_a_filled_batch(tiny, model_name):
    settings = ModelSettings(model=model_name, hidden=8, max_seq_len=WIDTH, attention_dropout=0.3)
    encoder = build_encoder(settings, tiny.ITEMS)
    filled = prepare_filled(tiny.TinyBatches(model=model_name).batch(0, 3), 2)  # so narrow that some are empty
    filled = filled._replace(layout=layout_of(filled.layout.starts.diff().long(), WIDTH))
    assert 0 in filled.layout.starts.diff()
    StepLoss(encoder, LossSettings(loss="cce"), TrainingSettings())(filled, 0).backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_in_batch_sampling_draws_from_real_targets_alone(tiny):
    torch.manual_seed(0)
    encoder = build_encoder(ModelSettings(hidden=8, max_seq_len=WIDTH, dropout=0.0), tiny.ITEMS)
    settings = LossSettings.pick("cce_neg", num_negatives=5, sampling="in_batch", sharing="none")
    function = StepLoss(encoder, settings, TrainingSettings())
    batch = tiny.TinyBatches().batch(0, 3)
    torch.testing.assert_close(function(prepare_filled(batch, WIDTH), 0), function(prepare(batch), 0))


@settings(deadline=None)
@given(
    st.lists(st.integers(1, WIDTH), min_size=1, max_size=90), st.sampled_from(["all", "some", "none"]), st.booleans()
)
def test_a_filled_batch_begins_with_the_batch(tiny, lengths, have_targets, masks):
    random = torch.Generator().manual_seed(len(lengths))
    places = sum(lengths)
    inputs = torch.randint(0, 50, (places,), generator=random)
    here = torch.rand(places, generator=random) < {"all": 1.0, "some": 0.3, "none": 0.0}[have_targets]
    batch = tiny.TinyBatch(
        inputs, torch.tensor([0, *lengths]).cumsum(0), torch.where(here, inputs, -100), here if masks else None
    )
    real, filled = prepare(batch), prepare_filled(batch, WIDTH)
    assert (filled.window_counts, filled.position) == (real.window_counts, real.position)
    assert (filled.num_places, filled.items.numel()) == (places, bucket_of(places))
    assert (real.masked is None, real.rows is None) == (filled.masked is None, filled.rows is None)
    for ours, expected in ((filled.items, inputs), (filled.targets, real.targets), (filled.rows, real.rows)):
        assert expected is None or torch.equal(ours[: len(expected)], expected)
    alone = filled._replace(layout=filled.layout._replace(tiles=None))  # an order for the recorded kernels alone
    assert [tensor.dtype for tensor in alone.tensors()] == [tensor.dtype for tensor in real.tensors()]
    assert (filled.targets[real.num_targets :] == -100).all()
    assert filled.masked is None or torch.equal(filled.masked.nonzero(), here.nonzero())
    layout = layout_of(filled.layout.starts.diff().long(), WIDTH)
    for ours, expected in zip(alone.layout, layout, strict=True):
        assert torch.equal(ours, expected) if isinstance(expected, torch.Tensor) else ours == expected


@settings(deadline=None)
@given(st.lists(st.integers(2, WIDTH), min_size=1, max_size=40))
def test_what_fills_up_a_batch_is_spread_over_its_items(tiny, lengths):
    places = sum(lengths)
    inputs = torch.arange(places) + 7
    targets = torch.where(torch.arange(places) % 3 == 0, 1, -100)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    filled = prepare_filled(tiny.TinyBatch(inputs, offsets, targets), WIDTH)
    for values, real in ((filled.items, inputs), (filled.rows, (targets == 1).nonzero().flatten())):
        assert torch.equal(values[: len(real)], real)
        added = values[len(real) :].bincount(minlength=int(real.max()) + 1)
        assert added[real].sum() == len(values) - len(real)
        assert added.max() - added[real].min() <= 1


def test_shapes_depend_on_few_numbers(tiny, model_name):
    shapes = {}
    for index in range(40):
        packed = tiny.TinyBatches(model=model_name).batch(0, index)
        batch, filled = prepare(packed), prepare_filled(packed, WIDTH)
        assert (filled.num_places, filled.num_targets) == (batch.items.numel(), batch.targets.numel())
        sizes = (bucket_of(batch.items.numel()), None if batch.rows is None else bucket_of(batch.targets.numel()))
        shapes.setdefault(sizes, set()).add(size_of(filled))
        assert filled.layout.starts[-1] == filled.items.numel()
    assert all(len(found) == 1 for found in shapes.values())
    assert len(shapes) < 10


_LENGTHS = st.lists(st.integers(1, WIDTH), min_size=1, max_size=60)


@settings(deadline=None)
@given(st.lists(st.tuples(_LENGTHS, st.sampled_from(["all", "some", "none"])), min_size=1, max_size=4))
def test_the_batches_of_all_ranks_are_filled_up_to_one_size(tiny, ranks):
    """Of other numbers of histories, places and targets: all record the same graph, and real places come first."""
    batches = []
    for lengths, have_targets in ranks:
        random = torch.Generator().manual_seed(len(lengths))
        inputs = torch.randint(0, 50, (sum(lengths),), generator=random)
        here = torch.rand(sum(lengths), generator=random) < {"all": 1.0, "some": 0.3, "none": 0.0}[have_targets]
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        batches.append(tiny.TinyBatch(inputs, offsets, torch.where(here, inputs, -100)))
    size = FilledSize.of_ranks([FilledSize.of(batch, WIDTH) for batch in batches], WIDTH)
    filled = [prepare_filled(batch, WIDTH, size) for batch in batches]
    assert len({size_of(one) for one in filled}) == 1
    for ours, batch in zip(filled, batches, strict=True):
        real = prepare(batch)
        assert torch.equal(ours.items[: len(batch.items)], batch.items)
        assert torch.equal(ours.targets[ours.targets >= 0], real.targets)
        assert ours.num_targets == real.num_targets
        lengths = ours.layout.starts.diff()
        assert torch.equal(lengths[: len(batch.lengths)], batch.lengths)
        assert lengths.max() <= WIDTH
        assert lengths.sum() == ours.items.numel() == bucket_of(size.places)
