import csv

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rec_models.config import LOSSES, LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders.packing import layout_of
from rec_models.inference import load
from rec_models.losses import LossContext, build_loss
from rec_models.training.checkpoint import ModelCheckpoint
from rec_models.training.loop import fit


def weights_of(folder):
    return ModelCheckpoint.read(folder / "model.safetensors").weights


def losses_of(result):
    return [row["train_loss"] for row in result.history]


def assert_same_run(first, second, first_out, second_out):
    """Equal to the last bit: losses, metrics, weights."""
    assert losses_of(first) == losses_of(second)
    assert [row["validation_ndcg@10"] for row in first.history] == [row["validation_ndcg@10"] for row in second.history]
    assert first.best_epoch == second.best_epoch
    for ours, theirs in zip(weights_of(first_out).values(), weights_of(second_out).values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_callback_sees_every_epoch_and_may_end_training(tiny, folders):
    seen = []

    def on_epoch(metrics, epoch):
        seen.append((epoch, metrics["ndcg@10"]))
        return epoch == 2

    result = tiny.run(**folders, on_epoch=on_epoch)
    assert result.epochs == 2
    assert seen == [(row["epoch"], row["validation_ndcg@10"]) for row in result.history]
    assert ModelCheckpoint.read(folders["out"] / "model.safetensors").epoch == result.best_epoch


def test_fit_reports_and_leaves_what_it_promises(tiny, folders):
    result = tiny.run(**folders)
    assert result.epochs == 3
    assert 0 < result.epoch_seconds < result.whole_epoch_seconds
    assert 0.05 < result.loop_peak_memory_gib <= result.peak_memory_gib
    assert result.peak_memory_kind == "peak resident memory of the process"
    assert result.device.startswith("cpu")
    assert result.precision == "32-true"
    assert result.is_first_rank
    assert result.train_loss == result.history[result.best_epoch - 1]["train_loss"]
    tokens = sum(int(batch.lengths.sum()) for batch in tiny.TinyBatches().epoch(0))
    assert result.history[0]["tokens"] == tokens
    assert result.tokens_per_second == pytest.approx(
        sum(row["tokens"] for row in result.history) / sum(row["train_seconds"] for row in result.history)
    )

    out = folders["out"]
    assert sorted(path.name for path in out.iterdir()) == ["history.csv", "model.safetensors", "tensorboard"]
    with (out / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[2]["train_loss"]) == result.history[2]["train_loss"]
    assert float(rows[1]["validation_recall@10"]) == result.history[1]["validation_recall@10"]
    assert len(list((out / "tensorboard").glob("events.*"))) == 1
    curve = EventAccumulator(str(out / "tensorboard")).Reload().Scalars("train/step_loss")
    steps = len(tiny.TinyBatches())
    assert [point.step for point in curve] == list(range(1, 3 * steps + 1))
    targets = [int(batch.targets.shape[0]) for batch in tiny.TinyBatches().epoch(0)]
    first = sum(point.value * tokens for point, tokens in zip(curve[:steps], targets, strict=True)) / sum(targets)
    assert first == pytest.approx(result.history[0]["train_loss"], rel=1e-5)

    checkpoint = ModelCheckpoint.read(out / "model.safetensors")
    assert checkpoint.epoch == result.best_epoch
    assert checkpoint.metrics == result.metrics
    assert checkpoint.loss == LossSettings(loss="cce")
    encoder = load(out / "model.safetensors")
    assert not encoder.training
    assert tiny.validate(encoder) == result.metrics


@pytest.mark.parametrize("loss", LOSSES)
def test_fit_computes_every_loss_at_its_place_in_the_run(tiny, folders, model_name, loss):
    options = {"model": model_name, "loss": loss, "learning_rate": 1e-12, "max_epochs": 1, "dropout": 0.0}
    result = tiny.run(**folders, **options)
    encoder = load(folders["out"] / "model.safetensors")
    checkpoint = ModelCheckpoint.read(folders["out"] / "model.safetensors")
    function = build_loss(checkpoint.loss)
    total, count = 0.0, 0
    for number, batch in enumerate(tiny.TinyBatches(model=model_name).epoch(0)):
        tokens = encoder(batch.items, layout_of(batch.lengths), batch.masked)[batch.targets != -100]
        targets = batch.targets[batch.targets != -100]
        total += len(targets) * float(
            function(tokens, encoder.item_table, targets, LossContext(seed=checkpoint.training.seed, step=number))
        )
        count += len(targets)
    assert result.train_loss == pytest.approx(total / count, rel=1e-5)


def test_a_seed_decides_everything(tiny, tmp_path):
    runs = [tiny.run(tmp_path / f"out{n}", tmp_path / f"kept{n}", loss="cce_neg") for n in range(2)]
    assert_same_run(*runs, tmp_path / "out0", tmp_path / "out1")
    other = tiny.run(tmp_path / "out2", tmp_path / "kept2", loss="cce_neg", seed=7)
    assert losses_of(other) != losses_of(runs[0])


def test_cce_is_ce_along_a_whole_run(tiny, tmp_path):
    runs = {
        loss: tiny.run(tmp_path / loss, tmp_path / f"{loss}-kept", loss=loss, max_epochs=6) for loss in ("ce", "cce")
    }
    assert losses_of(runs["cce"]) == pytest.approx(losses_of(runs["ce"]), rel=1e-4)
    assert losses_of(runs["ce"])[-1] < 0.9 * losses_of(runs["ce"])[0]


NONE, TILE = {"sharing": "none"}, {"sharing": "tile", "tile_tokens": 8}  # tiles that span micro-batches
NEGATIVES = [(loss, shared) for loss in ("cce_neg", "bce_neg", "gbce") for shared in (NONE, TILE)]


@pytest.mark.parametrize(("loss", "loss_options"), [("cce", {}), ("cce", {"paper_faithful": True}), *NEGATIVES])
def test_accumulated_batches_are_one_large_batch(tiny, tmp_path, loss, loss_options):
    options = {"loss": loss, "loss_options": loss_options, "dropout": 0.0, "max_epochs": 2}
    whole = tiny.run(tmp_path / "whole", tmp_path / "whole-kept", **options)
    parts = tiny.run(tmp_path / "parts", tmp_path / "parts-kept", micro=4, **options)
    assert losses_of(parts) == pytest.approx(losses_of(whole), rel=1e-5)
    assert whole.history[-1]["step"] == parts.history[-1]["step"] == 12
    found, expected = (tiny.without_keys_bias(weights_of(tmp_path / name)) for name in ("parts", "whole"))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5)


def test_the_papers_full_cce_trains_padded_places_towards_item_0(tiny, folders):
    def last_loss(paper_faithful):
        name = f"faithful-{paper_faithful}"
        result = fit(
            model=ModelSettings(hidden=8, max_seq_len=10, dropout=0.0),
            loss=LossSettings(loss="cce", paper_faithful=paper_faithful),
            training=TrainingSettings(max_epochs=1, learning_rate=1e-12, accelerator="cpu"),
            num_items=tiny.ITEMS,
            train_batches=tiny.TinyBatches(count=1),
            validate=None,
            out=folders["out"] / name,
            checkpoint_dir=folders["checkpoints"] / name,
        )
        return result.train_loss, load(folders["out"] / name / "model.safetensors")

    (faithful, encoder), (right, _) = last_loss(True), last_loss(False)
    batch = next(iter(tiny.TinyBatches(count=1).epoch(0)))
    lengths = batch.lengths.tolist()
    hidden = encoder(torch.zeros(10, dtype=torch.int64), layout_of(torch.tensor([10])))
    padding = hidden @ encoder.item_table.T  # [10, V]
    pad_losses = -padding.log_softmax(1)[:, 0]
    pads = torch.cat([pad_losses[: 10 - length] for length in lengths])
    tokens = sum(lengths)
    assert faithful == pytest.approx((right * tokens + float(pads.sum())) / (tokens + len(pads)), rel=1e-5)
