"""The planner: bytes against what autograd keeps, the authors' log, refitting, sizes."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cce_kernels.sampled import tuning as tuning_sampled
from cutrec.config import ParamsError, from_mapping
from cutrec.reporting.results_file import Result
from pipelines import plan
from pipelines.paper import points
from pipelines.planner import authors as planner_authors
from pipelines.planner import calibration as planner_calibration
from pipelines.planner import fit as planner_fit
from pipelines.planner import memory as planner_memory
from pipelines.planner import plans
from pipelines.planner.authors import CATALOGUES, FITTED, errors, fit, read_log
from pipelines.planner.calibration import Calibration
from pipelines.planner.memory import LOSSES, activation_bytes, memory_of, parameter_count
from pipelines.planner.seconds import seconds_of
from pipelines.planner.sizes import Sizes, filled_up, sizes_from, sizes_of
from rec_models.config import ModelSettings
from rec_models.encoders import build_encoder
from rec_models.encoders.packing import layout_of
from rec_models.losses import paper as faithful
from rec_models.training.cuda_graphs import bucket_of
from tests.small_log import ROOT

SIZES = Sizes(
    items=100_000, rows=64, tokens=3000, most_tokens=3500, targets_share=1.0, mean_length=47, steps=100,
    validation_users=500,
)  # fmt: skip


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_parameters_are_counted_exactly(model: str):
    point = from_mapping({"model": model, "max_seq_len": 20, "backbone": {"hidden": 32, "blocks": 3}})
    encoder = build_encoder(ModelSettings(model=model, max_seq_len=20, hidden=32, blocks=3), 500)
    assert parameter_count(point, 500) == sum(parameter.numel() for parameter in encoder.parameters())


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_activations_are_the_bytes_that_autograd_keeps(model: str):
    rows, width = 6, 24
    point = from_mapping({"model": model, "max_seq_len": width, "backbone": {"hidden": 64}})
    encoder = build_encoder(ModelSettings(model=model, max_seq_len=width, hidden=64), 50)
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
    assert found / (rows * width) == pytest.approx(activation_bytes(point), rel=0.1)


def test_the_parts_add_up_and_factors_scale_them():
    point = from_mapping({"loss": "ce", "backbone": {"hidden": 128}})
    memory = memory_of(point, SIZES, Calibration())
    parts = memory.state + memory.gradients + memory.activations + memory.loss
    assert memory.peak == pytest.approx(parts + memory.constant)
    logits = 3500 * 100_000
    assert memory.loss == pytest.approx((12 * logits + 2 * 100_000 * 128) / 2**30, rel=0.01)
    scaled = memory_of(point, SIZES, Calibration(activations=2.0, loss={"ce": 0.5}, constant_gib=1.0))
    assert scaled.peak == pytest.approx(memory.peak + memory.activations - memory.loss / 2 + 1.0)
    assert memory.fits(40)
    assert not memory.fits(memory.peak)


def test_every_loss_has_a_model_and_fused_ones_take_the_least():
    def peak(loss: str, **options: Any) -> float:
        point = from_mapping({"loss": loss, "num_negatives": 500, "negatives": {"sharing": "none"}, **options})
        return memory_of(point, SIZES, Calibration()).peak

    peaks = {loss: peak(loss) for loss in LOSSES}
    assert max(peaks["cce"], peaks["cce_neg"], peaks["bce"]) < min(peaks["ce"], peaks["ce_neg"], peaks["sce"])
    assert peak("cce", paper_faithful=True) > peaks["cce"]
    assert peak("ce_neg", negatives={"sharing": "tile"}) < peaks["ce_neg"]


@pytest.mark.parametrize(
    ("loss", "tokens", "items", "negatives", "sharing", "mib"),
    [  # an H100's peaks beyond inputs: packages/cce-kernels/benchmarks/results/losses.csv, fp32 tables, D 256
        ("cce", 32_768, 131_072, 1, "none", 160.4),
        ("cce_neg", 32_768, 176_450, 511, "tile", 204.7),
        ("cce_neg", 32_768, 176_450, 511, "none", 264.2),
        ("cce_neg", 131_072, 14_000, 511, "tile", 150.0),
        ("cce_neg", 131_072, 14_000, 511, "none", 187.8),
        ("cce_neg", 131_072, 893_022, 2047, "tile", 1437.6),
        ("cce_neg", 131_072, 893_022, 2047, "none", 1123.9),
    ],
)
def test_fused_losses_take_what_was_measured(
    loss: str, tokens: int, items: int, negatives: int, sharing: str, mib: float
):
    values = {"loss": loss, "num_negatives": negatives, "negatives": {"sharing": sharing}, "backbone": {"hidden": 256}}
    sizes = dataclasses.replace(SIZES, items=items)
    found = LOSSES[loss](planner_memory._shape(from_mapping(values), sizes, tokens))
    with_gradient = found.backward + 4 * items * 256
    assert max(found.forward, with_gradient) / 2**20 == pytest.approx(mib, rel=0.1)


def test_time_grows_with_the_work_of_the_loss():
    def step(**values: Any) -> float:
        return seconds_of(from_mapping({"num_negatives": 512, **values}), SIZES, Calibration()).device

    tile, none = {"sharing": "tile"}, {"sharing": "none"}
    assert step(loss="cce_neg", negatives=tile) < step(loss="cce_neg", negatives=none) < step(loss="cce")
    wide, narrow = ({"hidden": width, "heads": 2} for width in (512, 64))
    assert step(loss="cce", backbone=wide) > 2 * step(loss="cce", backbone=narrow)
    assert step(loss="cce") < step(loss="ce")


def test_a_step_takes_as_long_as_the_slower_of_host_and_gpu():
    def of(**values: Any) -> Any:
        rates = Calibration(seconds={"launched_ms": 3.9, "recorded_ms": 0.5, "ready_places": 1e6})
        return seconds_of(from_mapping(values), SIZES, rates)

    recorded, launched = of(), of(train={"cuda_graphs": False})
    assert (recorded.host, launched.host) == pytest.approx((0.0035, 0.0039))
    assert recorded.step == recorded.host > recorded.device
    slow = of(loss="ce")  # nothing records it
    assert slow.host == pytest.approx(0.0039)
    assert slow.step == slow.device == slow.network + slow.loss + slow.adam > slow.host


def test_batches_are_accumulated_and_adam_steps_once():
    one, three = (from_mapping({"train": {"accumulate": n, "cuda_graphs": False}}) for n in (1, 3))
    single, window = (seconds_of(point, SIZES, Calibration()) for point in (one, three))
    assert window.adam == single.adam
    parts = (window.network, window.loss, window.host)
    assert parts == pytest.approx((3 * single.network, 3 * single.loss, 3 * single.host))
    whole = seconds_of(three, SIZES, Calibration(), tokens=3 * SIZES.tokens)
    assert whole == window
    planned = plans.Plan(three, SIZES, memory_of(three, SIZES, Calibration()), window)
    assert planned.epoch_seconds == pytest.approx(34 * window.step)
    # What was summed so far stays while the next batch's gradient of the table is made.
    extra = memory_of(three, SIZES, Calibration()).peak - memory_of(one, SIZES, Calibration()).peak
    assert 0 < extra <= 4.1 * SIZES.items * 64 / 2**30


def test_lean_optimisers_read_and_write_less():
    def adam(optimizer: str) -> float:
        return seconds_of(from_mapping({"train": {"optimizer": optimizer}}), SIZES, Calibration()).adam

    full = adam("adam")
    assert [adam(name) / full for name in ("adam_bf16", "adam_rowwise")] == pytest.approx([24 / 32, 20 / 32], rel=0.01)
    assert adam("adam_lazy") < full / 50


def test_dropout_in_attention_works_on_padded_histories():
    def kept(dropout: float, length: int) -> float:
        values = {"max_seq_len": length, "backbone": {"attention_dropout": dropout}}
        return memory_of(from_mapping(values), SIZES, Calibration()).activations * 2**30

    assert kept(0.0, 512) == kept(0.0, 64)
    padded = (512 - 64) * SIZES.rows * (8 * 64 + 4 * 2)  # a block
    assert kept(0.1, 512) - kept(0.1, 64) >= 2 * padded


def test_a_recorded_step_needs_no_gradient_of_the_step_before():
    point = from_mapping({"loss": "cce", "max_seq_len": 2000})
    launched = from_mapping({"loss": "cce", "max_seq_len": 2000, "train": {"cuda_graphs": False}})
    sizes = dataclasses.replace(SIZES, rows=2)
    assert memory_of(point, sizes, Calibration()).peak < memory_of(launched, sizes, Calibration()).peak
    recorded = memory_of(point, sizes, Calibration())
    assert recorded.pool == pytest.approx(recorded.gradients + recorded.activations + recorded.loss)
    assert not recorded.fits((recorded.peak + 0.5) / 0.95 + recorded.pool / 2)
    counts = (1, 16, 17, 500, 3500, 32_768, 32_769, 117_356)
    assert [filled_up(count) for count in counts] == [bucket_of(count) for count in counts]


def test_the_largest_batch_is_near_the_largest_of_many():
    random = np.random.default_rng(0)
    lengths = np.maximum(2, random.lognormal(3, 0.8, 20_000)).astype(np.int64)
    point = from_mapping({"batch_size": 128, "max_seq_len": 100})
    sizes = sizes_from(point, lengths, 1000, len(lengths), 10)
    read = np.minimum(random.permuted(np.tile(lengths, 128)).reshape(-1, 128) - 1, 100)
    batches = read[: sizes.steps].sum(1)
    assert sizes.steps == 157
    assert sizes.tokens == pytest.approx(batches.mean(), rel=0.02)
    assert sizes.most_tokens == pytest.approx(batches.max(), rel=0.05)


def test_masked_models_have_fewer_targets():
    point = from_mapping({"model": "bert4rec", "batch_size": 4, "max_seq_len": 10, "backbone": {"mask_prob": 0.2}})
    sizes = sizes_from(point, np.array([5, 20]), 10, 2, 1)
    assert (sizes.tokens, sizes.targets(100), sizes.rows) == (15, 20, 2)


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_windows_that_slide_are_counted_as_training_cuts_them(model: str):
    from rec_data.sequences.batches import TrainingBatches
    from rec_data.sequences.store import SequenceStore

    lengths = np.random.default_rng(0).integers(2, 60, 400)
    values = {"model": model, "batch_size": 16, "max_seq_len": 10, "train": {"window": 4}}
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    store = SequenceStore(torch.zeros(int(offsets[-1]), dtype=torch.int32), offsets, torch.arange(400), None)
    task = "masked_item" if model == "bert4rec" else "next_item"
    batches = TrainingBatches(store, num_items=5, task=task, batch_size=16, max_seq_len=10, window=4)
    real = [int(batch.offsets[-1]) for batch in batches.epoch(0)]
    sizes = sizes_from(from_mapping(values), lengths, 5, 400, 10)
    assert sizes.steps == len(batches)
    assert sizes.tokens == pytest.approx(np.mean(real), rel=0.02)
    assert sizes_from(from_mapping(values), lengths, 5, 4000, 10).steps == pytest.approx(10 * len(batches), abs=10)


def test_a_log_is_planned_once_it_is_split(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=r"dataset: found 'demo', allowed: movielens_20m, beauty, .*; any other once"):
        sizes_of(from_mapping({}))
    from rec_data.splits.split import split_log
    from tests.small_log import small_log

    small_log().write_parquet(tmp_path / "log.parquet")
    (tmp_path / "data/split").mkdir(parents=True)
    summary = split_log(tmp_path / "log.parquet", tmp_path / "data/split", strategy="leave_one_out")
    (tmp_path / "data/split/summary.json").write_text("{}")
    (tmp_path / "data/download").mkdir()
    (tmp_path / "data/download/summary.json").write_text('{"dataset": "demo"}')
    sizes = sizes_of(from_mapping({"batch_size": 32, "max_seq_len": 4}))
    assert sizes.items == summary["items"]
    assert 2 <= sizes.mean_length <= 4
    assert sizes.steps == 5
    known = r"movielens_20m, beauty, zvuk, megamarket, 30music, gowalla, twin:NAME or twin:NAME@SCALE of one of them"
    with pytest.raises(ParamsError, match=f"dataset: found 'nope', allowed: {known}, demo, whose split is in data/sp"):
        sizes_of(from_mapping({"dataset": "nope"}))


def measured(calibration: Calibration) -> list[tuple[Any, Result]]:
    """Results that the planner itself would predict."""
    found = []
    for point in points.distinct(points.table_points(points.load(ROOT / "params.yaml"), twin=True)):
        if point.dataset not in ("beauty", "gowalla", "movielens_20m"):
            continue
        sizes = sizes_of(point.params)
        memory = memory_of(point.params, sizes, calibration, tokens=sizes.most_tokens)
        step = seconds_of(point.params, sizes, calibration, tokens=sizes.tokens).step
        fields = {"peak_loop_gib": memory.peak, "step_ms": step * 1e3}
        tokens = {"most_tokens": sizes.most_tokens, "tokens_per_step": sizes.tokens}
        found.append((point.params, Result.of(point.params, "training", device="H100", **fields, **tokens)))
    return found


def test_refitting_finds_the_constants_that_made_the_results():
    planted = Calibration(
        activations=1.25, constant_gib=0.2, loss={"ce": 0.9, "ce_neg": 1.1, "sce": 0.7},
        seconds={"launched_ms": 2.5, "bytes": 1.5e12, "exact_flops": 4e14, "gathered_elements": 4e10},
    )  # fmt: skip
    found = planner_fit.refit(measured(planted), Calibration(), by="a test")
    assert found.measured_on == found.time_measured_on == "a test"
    assert found.activations == pytest.approx(1.25, rel=0.02)
    assert found.constant_gib == pytest.approx(0.2, abs=0.01)
    for loss, factor in planted.loss.items():
        assert found.loss[loss] == pytest.approx(factor, rel=0.02)
    text, memory, time = plan.check([result for _, result in measured(planted)], found)
    assert max(map(abs, memory)) < 0.02
    assert max(map(abs, time)) < 0.1
    assert "sasrec-sce-twin_beauty-1024x32" in text


def test_refitting_tells_the_host_from_the_gpu_and_bears_odd_rows():
    planted = {"launched_ms": 7.0, "recorded_ms": 2.0, "ready_places": 5e6, "exact_flops": 3e14, "bytes": 1e12}
    steps = []
    for items in (1_000, 50_000, 2_000_000):
        for tokens in (2_000, 20_000, 60_000):
            for recorded in (True, False):
                point = from_mapping({"loss": "cce", "train": {"cuda_graphs": recorded}})
                sizes = dataclasses.replace(SIZES, items=items, tokens=tokens)
                step = seconds_of(point, sizes, Calibration(seconds=planted)).step
                result = Result.of(point, "training", device="a GPU", step_ms=step * 1e3, tokens_per_step=tokens)
                steps.append(planner_fit.Step.of(point, result, sizes))
    steps[4] = dataclasses.replace(steps[4], seconds=3 * steps[4].seconds)
    found = planner_fit.fit_seconds(steps, {"gathered_elements": 1.0})
    assert found["gathered_elements"] == 1.0
    assert {name: found[name] for name in planted} == pytest.approx(planted, rel=0.05)


def test_a_run_with_other_options_is_no_point_of_a_table():
    index = planner_fit.PointIndex(points.load(ROOT / "params.yaml"))
    (row, *_) = points.table_points(points.load(ROOT / "params.yaml"), [3], twin=True)
    result = Result.of(row.params, "training", device="a GPU")
    assert index.find(result) == row.params
    assert index.find(dataclasses.replace(result, precision="32-true")) == row.params
    assert index.find(dataclasses.replace(result, options="optimizer=adam_rowwise")) is None


def test_constants_of_other_modules_are_still_theirs():
    assert planner_memory._SCRATCH == tuning_sampled.SCRATCH_BYTES
    assert planner_memory._CHUNK == faithful._CHUNK_ELEMENTS


def test_constants_come_back_from_their_file(tmp_path: Path):
    kept = dataclasses.replace(planner_calibration.load(), measured_on="x", seconds={"bytes": 1e12})
    planner_calibration.save(kept, tmp_path / "planner.json")
    assert planner_calibration.load(tmp_path / "planner.json") == kept
    (tmp_path / "planner.json").write_text('{"activation": 1}')
    with pytest.raises(ValueError, match="unknown activation; allowed: measured_on, activations"):
        planner_calibration.load(tmp_path / "planner.json")


def test_the_authors_log_is_predicted():
    runs = read_log()
    assert len(runs) == 997
    for loss, median, within_a_quarter in (("ce", 0.015, 0.97), ("ce_neg", 0.07, 0.94)):
        size = np.abs(errors([run for run in runs if run.loss == loss]))
        assert np.median(size) < median
        assert np.mean(size < 0.25) > within_a_quarter


def test_the_constants_of_the_authors_model_are_what_their_log_fits():
    constants, catalogues = fit(read_log())
    for name, value in dataclasses.asdict(FITTED).items():
        assert getattr(constants, name) == pytest.approx(value, rel=0.02), name
    assert catalogues == pytest.approx(CATALOGUES, rel=0.02)
    assert planner_authors.LOGIT_BYTES == 2 + 4 + 4
