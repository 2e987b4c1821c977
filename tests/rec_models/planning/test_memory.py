"""Predicted memory: parameters and activations against a real network, losses against measured peaks."""

from typing import Any

import pytest
import torch

from rec_models.config import LOSSES, ModelSettings
from rec_models.encoders import build_encoder
from rec_models.encoders.packing import layout_of
from rec_models.planning import Calibration, memory_of
from rec_models.planning.memory import activation_bytes, parameter_count, state_bytes
from rec_models.planning.sizes import loss_cost, loss_size
from tests.rec_models.planning.cases import SIZES, setup_of

COUNTED = Calibration()


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_parameters_are_counted_exactly(model: str):
    settings = ModelSettings(model=model, max_seq_len=20, hidden=32, blocks=3)
    assert parameter_count(settings, 500) == sum(entry.numel() for entry in build_encoder(settings, 500).parameters())


def test_counting_parameters_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    parameter_count(ModelSettings(hidden=6, max_seq_len=17), 500)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_state_of_each_optimizer_is_counted():
    def state(optimizer: str, **options: float) -> float:
        return state_bytes(setup_of(optimizer=optimizer, model={"hidden": 64}, **options), 500)

    adam = 12 * parameter_count(ModelSettings(hidden=64), 500)
    assert state("adam") == adam
    assert state("adam_lazy") == adam - 6 * 500 * 64 + 8 * 500
    assert state("adam_bf16") == adam - 4 * 500 * 64
    assert state("adam_rowwise") == adam - 6 * 500 * 64 + 4 * 500
    assert state("adam", averaging=1.5) == adam * 16 / 12


@pytest.mark.parametrize("options", [{}, {"norm": "query"}, {"norm": "query", "activation": "relu"}], ids=str)
@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_activations_are_the_bytes_that_autograd_keeps(model: str, options: dict[str, str]):
    rows, width = 6, 24
    settings = ModelSettings(model=model, max_seq_len=width, hidden=64, **options)
    encoder = build_encoder(settings, 50)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    held = []  # so that no address is used twice
    weights = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    layout = layout_of(torch.full((rows,), width), width)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        held.append(encoder(torch.arange(rows * width) % 50, layout).bfloat16())
    per_block = (4 + (2 if model == "sasrec" else 8)) * 64 * 64  # 16-bit copies of weights, kept as well
    found = sum(size for address, size in kept.items() if address not in weights) - 2 * 2 * per_block
    assert found / (rows * width) == pytest.approx(activation_bytes(settings), rel=0.1)


def test_the_parts_add_up_and_factors_scale_them():
    setup = setup_of("ce", model={"hidden": 128})
    memory = memory_of(setup, SIZES, COUNTED)
    parts = memory.state + memory.gradients + memory.activations + memory.loss
    assert memory.peak == pytest.approx(parts + memory.constant)
    logits = 3500 * 100_000
    assert memory.loss == pytest.approx((12 * logits + 2 * 100_000 * 128) / 2**30, rel=0.01)
    scaled = memory_of(setup, SIZES, Calibration(activations=2.0, loss={"ce": 0.5}, constant_gib=1.0))
    assert scaled.peak == pytest.approx(memory.peak + memory.activations - memory.loss / 2 + 1.0)
    assert memory.fits(40)
    assert not memory.fits(memory.peak)


def test_every_loss_has_a_cost_and_fused_ones_take_the_least():
    def peak(loss: str, **options: object) -> float:
        return memory_of(setup_of(loss, **{"num_negatives": 500, "sharing": "none", **options}), SIZES, COUNTED).peak

    peaks = {loss: peak(loss) for loss in LOSSES}
    assert max(peaks["cce"], peaks["cce_neg"], peaks["bce"]) < min(peaks["ce"], peaks["ce_neg"], peaks["sce"])
    assert peak("cce", paper_faithful=True) > peaks["cce"]
    assert peak("cce_neg", paper_faithful=True) > peaks["cce_neg"]
    assert peak("ce_neg", sharing="tile") < peaks["ce_neg"]


def test_a_loss_without_a_cost_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    import dataclasses

    monkeypatch.setitem(LOSSES, "ce", dataclasses.replace(LOSSES["ce"], cost=None))
    with pytest.raises(ValueError, match=r"loss: found 'ce', allowed: for predictions ce_neg \| cce"):
        memory_of(setup_of("ce"), SIZES, COUNTED)


@pytest.mark.parametrize(
    ("loss", "tokens", "items", "negatives", "sharing", "mib"),
    [  # an H200's peaks beyond inputs: packages/cce-kernels/benchmarks/results/h200_changes.csv, fp32 tables, D 256
        ("cce", 32_768, 131_072, 1, "none", 176.6),
        ("cce_neg", 32_768, 176_450, 511, "tile", 220.6),
        ("cce_neg", 32_768, 176_450, 511, "none", 263.6),
        ("cce_neg", 131_072, 14_000, 511, "tile", 213.5),
        ("cce_neg", 131_072, 14_000, 511, "none", 206.7),
        ("cce_neg", 131_072, 893_022, 2047, "tile", 1501),
        ("cce_neg", 131_072, 893_022, 2047, "none", 1123),
    ],
)
def test_fused_losses_take_what_was_measured(
    loss: str, tokens: int, items: int, negatives: int, sharing: str, mib: float
):
    setup = setup_of(loss, num_negatives=negatives, sharing=sharing, model={"hidden": 256})
    cost = loss_cost(setup, loss_size(setup, SIZES._replace(items=items), tokens))
    with_gradient = cost.backward + 4 * items * 256
    assert max(cost.forward, with_gradient) / 2**20 == pytest.approx(mib, rel=0.1)


def _of_wide_cce(tokens: float, items: int, **options: Any) -> float:
    """Bytes at the end of the forward pass of ``cce`` over vectors of 512 columns."""
    setup = setup_of("cce", model={"hidden": 512}, **options)
    return loss_cost(setup, loss_size(setup, SIZES._replace(items=items), tokens)).forward


def test_chunks_of_wide_vectors_take_what_was_measured():
    copy = 2 * 131_072 * 512  # of an fp32 table; the measured one was bf16 (packages/cce-kernels/TUNING.md)
    assert (_of_wide_cce(32_768, 131_072) - copy) / 2**20 == pytest.approx(849, rel=0.1)


def test_no_chunk_has_more_tokens_than_the_batch():
    whole, half = _of_wide_cce(4096, 65_536), _of_wide_cce(2048, 65_536)
    assert whole - half == 2048 * (2 * 65_536 + 4 * 512)  # numerators and the hidden gradient


@pytest.mark.parametrize("options", [{"impl": "triton"}, {"devices": 2, "table": "sharded"}], ids=str)
def test_no_chunks_are_planned_where_the_loss_takes_none(options: dict[str, Any]):
    tokens = 32_768 // options.get("devices", 1)
    expected = 2 * 131_072 * 512 + 4 * 32_768 * 512  # the table's copy and the hidden gradient
    assert _of_wide_cce(tokens, 131_072, **options) == expected


def test_accumulation_keeps_a_second_gradient_of_the_table():
    one, three = (memory_of(setup_of(accumulate=n, cuda_graphs=False), SIZES, COUNTED).peak for n in (1, 3))
    assert 0 < three - one <= 4.1 * SIZES.items * 64 / 2**30


def test_dropout_in_attention_works_on_padded_histories():
    def kept(dropout: float, length: int) -> float:
        setup = setup_of(model={"max_seq_len": length, "attention_dropout": dropout})
        return memory_of(setup, SIZES, COUNTED).activations * 2**30

    assert kept(0.0, 512) == kept(0.0, 64)
    padded = (512 - 64) * SIZES.rows * (8 * 64 + 4 * 2)  # of one block
    assert kept(0.1, 512) - kept(0.1, 64) >= 2 * padded


def test_a_recorded_step_needs_no_gradient_of_the_step_before_but_a_pool():
    sizes, model = SIZES._replace(rows=2), {"max_seq_len": 2000}
    recorded = memory_of(setup_of("cce", model=model), sizes, COUNTED)
    assert recorded.peak < memory_of(setup_of("cce", model=model, cuda_graphs=False), sizes, COUNTED).peak
    assert recorded.pool == pytest.approx(recorded.gradients + recorded.activations + recorded.loss)
    assert not recorded.fits((recorded.peak + 0.5) / 0.95 + recorded.pool / 2)
