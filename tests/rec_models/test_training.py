import csv
import math

import pytest
import torch

from rec_models.backbones import build_encoder
from rec_models.checkpoint import ModelCheckpoint
from rec_models.errors import TrainingError
from rec_models.feed import prepare
from rec_models.inference import load
from rec_models.losses import LossContext, build_loss
from rec_models.settings import LOSSES, LossSettings, ModelSettings, SettingsError, TrainingSettings
from rec_models.training import fit


@pytest.fixture
def folders(tmp_path):
    return {"out": tmp_path / "out", "checkpoints": tmp_path / "checkpoints"}


def weights_of(folder):
    return ModelCheckpoint.read(folder / "model.ckpt").weights


def losses_of(result):
    return [row["train_loss"] for row in result.history]


def assert_same_run(first, second, first_out, second_out):
    """Equal to the last bit: losses, metrics, weights."""
    assert losses_of(first) == losses_of(second)
    assert [row["validation_ndcg@10"] for row in first.history] == [row["validation_ndcg@10"] for row in second.history]
    assert first.best_epoch == second.best_epoch
    for ours, theirs in zip(weights_of(first_out).values(), weights_of(second_out).values(), strict=True):
        assert torch.equal(ours, theirs)


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
    assert sorted(path.name for path in out.iterdir()) == ["history.csv", "model.ckpt", "tensorboard"]
    with (out / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[2]["train_loss"]) == result.history[2]["train_loss"]
    assert float(rows[1]["validation_recall@10"]) == result.history[1]["validation_recall@10"]
    assert list((out / "tensorboard").glob("events.*"))

    checkpoint = ModelCheckpoint.read(out / "model.ckpt")
    assert checkpoint.epoch == result.best_epoch
    assert checkpoint.metrics == result.metrics
    assert checkpoint.loss == LossSettings(loss="cce")
    encoder = load(out / "model.ckpt")
    assert not encoder.training
    assert tiny.validate(encoder) == result.metrics


OVERFITTED = [("sasrec", loss) for loss in LOSSES] + [("bert4rec", "cce"), ("bert4rec", "cce_neg")]


@pytest.mark.parametrize(("model", "loss"), OVERFITTED)
def test_every_loss_overfits_one_batch(tiny, model, loss):
    torch.manual_seed(0)
    encoder = build_encoder(ModelSettings(model=model, hidden=32, max_seq_len=10, dropout=0.0), tiny.ITEMS)
    function = build_loss(LossSettings.pick(loss, num_negatives=16, sharing="tile", sce_bucket_size_y=16))
    step = prepare(tiny.TinyBatches(model=model, rows=4).batch(0, 0))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    # Few negatives a step teach slowly: one that is not drawn is not pushed down.
    steps, share = {"bce": (300, 0.25), "bce_neg": (200, 0.2), "gbce": (200, 0.2)}.get(loss, (100, 0.05))
    losses = []
    for number in range(steps):
        hidden = encoder.encode_packed(step.items, step.layout, step.masked)
        tokens = hidden if step.rows is None else hidden[step.rows]
        value = function(tokens, encoder.item_table, step.targets, LossContext(seed=1, step=number))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert sum(losses[-10:]) / 10 < share * losses[0]


@pytest.mark.parametrize("loss", LOSSES)
def test_fit_computes_every_loss_at_its_place_in_the_run(tiny, folders, model_name, loss):
    options = {"model": model_name, "loss": loss, "learning_rate": 1e-12, "max_epochs": 1, "dropout": 0.0}
    result = tiny.run(**folders, **options)
    encoder = load(folders["out"] / "model.ckpt")
    checkpoint = ModelCheckpoint.read(folders["out"] / "model.ckpt")
    function = build_loss(checkpoint.loss)
    total, count = 0.0, 0
    for number, batch in enumerate(tiny.TinyBatches(model=model_name).epoch(0)):
        tokens = encoder(batch.inputs, batch.lengths, batch.masked)[batch.targets != -100]
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


@pytest.mark.parametrize("loss", ["cce", "cce_neg", "bce_neg", "gbce"])
def test_accumulated_batches_are_one_large_batch(tiny, tmp_path, loss):
    options = {"loss": loss, "dropout": 0.0, "max_epochs": 2}
    whole = tiny.run(tmp_path / "whole", tmp_path / "whole-kept", **options)
    parts = tiny.run(tmp_path / "parts", tmp_path / "parts-kept", micro=4, **options)
    assert losses_of(parts) == pytest.approx(losses_of(whole), rel=1e-5)
    assert whole.history[-1]["step"] == parts.history[-1]["step"] == 12
    for ours, theirs in zip(
        weights_of(tmp_path / "parts").values(), weights_of(tmp_path / "whole").values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("optimizer", ["adam_bf16", "adam_rowwise", "adam_lazy"])
def test_lean_optimisers_learn_as_adam_does(tiny, tmp_path, optimizer):
    options = {"loss": "cce_neg", "dropout": 0.0, "max_epochs": 8, "patience": 8, "learning_rate": 1e-2}
    adam, lean = (
        tiny.run(tmp_path / name, tmp_path / f"{name}-kept", optimizer=name, **options) for name in ("adam", optimizer)
    )
    assert losses_of(adam)[-1] < 0.7 * losses_of(adam)[0]
    assert losses_of(lean)[-1] < losses_of(adam)[-1] + 0.1 * (losses_of(adam)[0] - losses_of(adam)[-1])
    assert losses_of(lean) != losses_of(adam)


def test_the_network_is_compiled_where_it_was_asked_for(tiny, folders, monkeypatch):
    compiled = []

    def fake(function, **options):
        compiled.append((function.__name__, options))
        return function

    monkeypatch.setattr(torch, "compile", fake)
    tiny.run(**folders, max_epochs=1)
    assert compiled == []
    tiny.run(out=folders["out"], checkpoints=folders["out"] / "kept", max_epochs=1, compile=True)
    assert compiled == [("transform", {"dynamic": True})]


def test_settings_that_contradict_the_loss_stop_before_anything_is_trained(tiny, folders):
    with pytest.raises(SettingsError, match="optimizer: found 'adam_lazy'"):
        tiny.run(**folders, loss="cce", optimizer="adam_lazy")
    assert not folders["checkpoints"].exists()


def test_memory_of_validation_is_not_the_loops(tiny, folders, monkeypatch):
    from rec_models import conductor, memory

    peak = [1.0]
    for module in (conductor, memory):
        monkeypatch.setattr(module, "peak_gib", lambda device: peak[0])
    monkeypatch.setattr(tiny, "validate", lambda encoder: peak.__setitem__(0, peak[0] + 2.0) or {"ndcg@10": 0.5})
    result = tiny.run(**folders, max_epochs=2)
    assert (result.loop_peak_memory_gib, result.peak_memory_gib) == (1.0, 5.0)


def test_processes_that_share_cores_are_told_of(capfd):
    from rec_models.training import _announce

    model, loss = ModelSettings(), LossSettings(loss="cce")
    for devices in (1, 2, 4096):
        _announce(model, loss, TrainingSettings(devices=devices), 5, torch.device("cpu"), "32-true")
    lines = capfd.readouterr().err.splitlines()
    told = [line.split(":")[0] for line in lines]
    assert told == [lines[0], lines[0], "devices=2 on a CPU", lines[0], "devices=4096 on a CPU"]
    assert lines[-1].endswith("cores, which is slower than devices=1")


def test_a_cpu_trains_without_cuda_graphs(tiny, tmp_path):
    recorded, plain = (
        tiny.run(tmp_path / str(on), tmp_path / f"{on}-kept", max_epochs=1, cuda_graphs=on) for on in (True, False)
    )
    assert losses_of(recorded) == losses_of(plain)


def scripted(tiny, folders, scores, *, max_epochs=10, patience=2):
    values = iter(scores)
    return fit(
        model=ModelSettings(hidden=8, max_seq_len=10),
        loss=LossSettings(loss="cce"),
        training=TrainingSettings(max_epochs=max_epochs, patience=patience, accelerator="cpu"),
        num_items=tiny.ITEMS,
        train_batches=tiny.TinyBatches(count=1),
        validate=lambda encoder: {"ndcg@10": next(values)},
        out=folders["out"],
        checkpoint_dir=folders["checkpoints"],
    )


def test_training_stops_after_patience_and_keeps_the_best(tiny, folders):
    result = scripted(tiny, folders, [0.1, 0.3, 0.2, 0.3, 0.9])  # an equal score is no better one
    assert (result.best_epoch, result.epochs) == (2, 4)
    assert result.metrics == {"ndcg@10": 0.3}
    assert ModelCheckpoint.read(folders["out"] / "model.ckpt").epoch == 2


def test_validation_sees_the_encoder_in_eval_mode(tiny, folders):
    modes = []
    fit(
        model=ModelSettings(hidden=8, max_seq_len=10),
        loss=LossSettings(loss="cce"),
        training=TrainingSettings(max_epochs=2, accelerator="cpu"),
        num_items=tiny.ITEMS,
        train_batches=tiny.TinyBatches(count=1),
        validate=lambda encoder: modes.append((encoder.training, torch.is_grad_enabled())) or {"ndcg@10": 0.5},
        out=folders["out"],
        checkpoint_dir=folders["checkpoints"],
    )
    assert modes == [(False, False)] * 2


def test_without_validation_the_last_epoch_is_kept(tiny, folders):
    result = fit(
        model=ModelSettings(hidden=8, max_seq_len=10),
        loss=LossSettings(loss="cce"),
        training=TrainingSettings(max_epochs=3, patience=1, accelerator="cpu"),
        num_items=tiny.ITEMS,
        train_batches=tiny.TinyBatches(count=2),
        validate=None,
        out=folders["out"],
        checkpoint_dir=folders["checkpoints"],
    )
    assert (result.best_epoch, result.epochs, result.metrics) == (3, 3, {})


@pytest.mark.parametrize("scores", [[math.nan], [math.inf]])
def test_a_validation_score_that_is_no_number_stops(tiny, folders, scores):
    with pytest.raises(TrainingError, match=r"validate: found (nan|inf) for ndcg@10"):
        scripted(tiny, folders, scores)


def test_validation_without_the_monitored_metric_stops(tiny, folders, monkeypatch):
    monkeypatch.setattr(tiny, "validate", lambda encoder: {"recall@10": 0.5})
    with pytest.raises(TrainingError, match=r"validate: found only \['recall@10'\] for ndcg@10"):
        tiny.run(**folders)


def test_a_nan_loss_names_the_step_and_the_last_good_checkpoint(tiny, folders, monkeypatch):
    from rec_models.module import TrainingModule

    step = TrainingModule.training_step

    def poisoned(self, batch, batch_idx):
        if self.optimizer_step_count == 8:  # the ninth step: the third of the second epoch
            torch.nn.init.constant_(self.encoder.norm.bias, math.nan)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", poisoned)
    with pytest.raises(TrainingError) as error:
        tiny.run(**folders, checkpoint_steps=4)
    assert "the loss is nan at step 9 (epoch 2)" in str(error.value)
    assert f"the last good checkpoint is {folders['checkpoints'] / 'last.ckpt'}" in str(error.value)
    state = torch.load(folders["checkpoints"] / "last.ckpt", weights_only=True)
    assert state["state"]["step"] == 8
    assert all(torch.isfinite(value).all() for value in state["encoder"].values())


def test_out_of_memory_says_what_to_lower(tiny, folders, monkeypatch):
    from rec_models.module import TrainingModule

    def hungry(self, batch, batch_idx):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TrainingModule, "training_step", hungry)
    with pytest.raises(
        TrainingError, match=r"out of memory with a batch of 8 x 10: .* lower batch_size or max_seq_len"
    ):
        tiny.run(**folders, loss="ce")


def test_batches_without_any_target_are_refused(tiny, folders):
    class Targetless(tiny.TinyBatches):
        def batch(self, epoch, index):
            whole = super().batch(epoch, index)
            return whole._replace(targets=torch.full_like(whole.targets, -100))

    with pytest.raises(TrainingError, match="found no target in a whole epoch"):
        fit(
            model=ModelSettings(hidden=8, max_seq_len=10),
            loss=LossSettings(loss="cce"),
            training=TrainingSettings(max_epochs=1, accelerator="cpu"),
            num_items=tiny.ITEMS,
            train_batches=Targetless(count=2),
            validate=None,
            out=folders["out"],
            checkpoint_dir=folders["checkpoints"],
        )


def test_more_gpus_than_there_are_is_refused(tiny, folders):
    if torch.cuda.device_count() > 7:
        pytest.skip("this machine has them")
    with pytest.raises(ValueError, match="devices: found 8 with"):
        tiny.run(**folders, accelerator="cuda", devices=8)


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
        return result.train_loss, load(folders["out"] / name / "model.ckpt")

    (faithful, encoder), (right, _) = last_loss(True), last_loss(False)
    batch = next(iter(tiny.TinyBatches(count=1).epoch(0)))
    lengths = batch.lengths.tolist()
    padding = encoder(torch.zeros(1, 10, dtype=torch.int64), torch.tensor([10]))[0] @ encoder.item_table.T  # [10, V]
    pad_losses = -padding.log_softmax(1)[:, 0]
    pads = torch.cat([pad_losses[: 10 - length] for length in lengths])
    tokens = sum(lengths)
    assert faithful == pytest.approx((right * tokens + float(pads.sum())) / (tokens + len(pads)), rel=1e-5)
