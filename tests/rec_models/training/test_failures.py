"""When training ends: patience, bad numbers, no memory, nothing to train on."""

import math

import pytest
import torch

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.errors import TrainingError
from rec_models.inference import load
from rec_models.training import bookkeeping
from rec_models.training.checkpoint import ModelCheckpoint
from rec_models.training.loop import fit
from rec_models.training.run_state import RunState
from rec_models.training.step import StepLoss


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
    assert ModelCheckpoint.read(folders["out"] / "model.safetensors").epoch == 2


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


@pytest.fixture
def poison(monkeypatch):
    """From an optimizer step and a micro-batch, both from 0: the network is NaN from there on."""
    forward = StepLoss.forward

    def poison_at(count, position=0):
        def poisoned(self, batch, step, row_offset=0):
            if (step, batch.position) == (count, position):
                torch.nn.init.constant_(self.encoder.norm.bias, math.nan)
            return forward(self, batch, step, row_offset)

        monkeypatch.setattr(StepLoss, "forward", poisoned)

    return poison_at


def test_a_nan_loss_names_the_step_and_the_last_good_checkpoint(tiny, folders, poison):
    poison(8)  # the ninth step: the third of the second epoch
    with pytest.raises(TrainingError) as error:
        tiny.run(**folders, checkpoint_steps=4)
    kept = folders["checkpoints"]
    assert "the loss is nan at step 9 (epoch 2)" in str(error.value)
    assert (
        f"the same call starts again from the last good checkpoint, {kept / 'last.ckpt'}; "
        f"the best model so far is {kept / 'best-1.safetensors'}; lower learning_rate"
    ) in str(error.value)
    assert "precision" not in str(error.value)  # a CPU trains in 32-true already
    assert error.value.on_every_rank
    assert not load(kept / "best-1.safetensors").training
    state = torch.load(folders["checkpoints"] / "last.ckpt", weights_only=True)
    assert state["state"]["step"] == 8
    assert all(torch.isfinite(value).all() for value in state["encoder"].values())


def test_a_nan_loss_in_16_bit_may_be_for_want_of_digits(tiny, folders, monkeypatch, poison):
    monkeypatch.setattr("rec_models.training.devices.autocast_dtype", lambda precision, device: torch.bfloat16)
    poison(0)
    with pytest.raises(TrainingError, match=r"; lower learning_rate, or take precision=32-true$"):
        tiny.run(**folders)


def test_a_nan_loss_before_any_validation_names_no_model(tiny, folders, poison):
    poison(3)
    with pytest.raises(TrainingError) as error:
        tiny.run(**folders, checkpoint_steps=2)
    assert "starts again from the last good checkpoint" in str(error.value)
    assert "best" not in str(error.value)


def test_a_nan_loss_names_no_checkpoint_of_another_run(tiny, folders, poison):
    tiny.run(**folders, max_epochs=1)
    poison(1)
    with pytest.raises(TrainingError, match=r"step 2 .epoch 1.: there was no checkpoint yet; lower learning_rate"):
        tiny.run(**folders, max_epochs=2, learning_rate=0.5)


def test_a_resumed_run_that_becomes_nan_names_the_checkpoint_that_it_came_from(tiny, folders, monkeypatch, poison):
    def crash(*arguments):
        raise KeyError("stop")

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "end_epoch", crash)
        with pytest.raises(KeyError):
            tiny.run(**folders, checkpoint_steps=2)
    (folders["checkpoints"] / "last.ckpt").write_bytes(b"damaged")
    poison(4)  # what was kept at step 4 is read, and nothing kept after it
    with pytest.raises(TrainingError, match=r"step 5 .*from the last good checkpoint, .*previous\.ckpt; lower"):
        tiny.run(**folders, checkpoint_steps=2)


def test_a_nan_before_a_short_last_window_is_told_at_its_own_step(tiny, folders, monkeypatch, poison):
    monkeypatch.setattr(bookkeeping, "_READ_SECONDS", 1e9)
    poison(0, position=3)  # windows of 4 and of 2 batches
    with pytest.raises(TrainingError, match=r"the loss is nan at step 1 \(epoch 1\)"):
        tiny.run(**folders, accumulate=4)


def test_out_of_memory_says_what_to_lower(tiny, folders, monkeypatch):
    def hungry(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StepLoss, "forward", hungry)
    with pytest.raises(
        TrainingError, match=r"out of memory with a batch of 8 x 10: .* lower batch_size or max_seq_len"
    ):
        tiny.run(**folders, loss="ce")


def test_memory_that_runs_out_while_a_step_is_recorded_is_told_too(tiny, folders, monkeypatch):
    def hungry(*arguments):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        finally:  # as torch.cuda.graph does at its end
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setattr(StepLoss, "forward", hungry)
    with pytest.raises(TrainingError, match=r"out of memory with a batch of 8 x 10: needed 20\.00 GiB more"):
        tiny.run(**folders)


def test_a_table_too_large_for_memory_is_told_in_one_line(tiny, folders):
    with pytest.raises(
        TrainingError, match=r"^out of memory: needed 238418579\.10 GiB more, .*; lower hidden"
    ) as error:
        fit(
            model=ModelSettings(hidden=64, max_seq_len=10),
            loss=LossSettings(loss="cce"),
            training=TrainingSettings(accelerator="cpu"),
            num_items=10**15,
            train_batches=tiny.TinyBatches(),
            validate=None,
            out=folders["out"],
            checkpoint_dir=folders["checkpoints"],
        )
    assert "\n" not in str(error.value)


def test_batches_without_any_target_are_refused(tiny, folders):
    class Targetless(tiny.TinyBatches):
        def batch(self, epoch, index):
            whole = super().batch(epoch, index)
            return whole._replace(targets=torch.full_like(whole.targets, -100))

    with pytest.raises(TrainingError, match="found no target in an epoch"):
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


@pytest.mark.parametrize(
    ("gpus", "devices", "message"),
    [
        (1, 8, "devices: found 8, allowed: up to 1, the GPUs of this machine"),
        (0, 1, "accelerator: found 'cuda', allowed: auto or cpu, because torch finds no GPU here"),
        (0, 8, "accelerator: found 'cuda'"),
    ],
)
def test_gpus_that_are_not_there_are_refused(tiny, folders, monkeypatch, gpus, devices, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=message):
        tiny.run(**folders, accelerator="cuda", devices=devices)


@pytest.fixture
def fit_changed(tiny, folders):
    """From a change of every batch to a run on them."""

    def run(change, *, model="sasrec"):
        class Changed(tiny.TinyBatches):
            def batch(self, epoch, index):
                return change(super().batch(epoch, index))

        return fit(
            model=ModelSettings(model=model, hidden=8, max_seq_len=10),
            loss=LossSettings(loss="cce"),
            training=TrainingSettings(max_epochs=1, accelerator="cpu"),
            num_items=tiny.ITEMS,
            train_batches=Changed(model=model, count=2),
            validate=None,
            out=folders["out"],
            checkpoint_dir=folders["checkpoints"],
        )

    return run


@pytest.mark.parametrize("field", ["items", "targets"])
@pytest.mark.parametrize("item", [30, -1])
def test_items_outside_the_catalogue_are_refused(fit_changed, field, item):
    def changed(batch):
        ids = getattr(batch, field).clone()
        ids[0] = item
        return batch._replace(**{field: ids})

    with pytest.raises(
        ValueError, match=f"train_batches: found item {item} in {field}, allowed: 0 to 29, as num_items"
    ):
        fit_changed(changed)


def test_batches_without_masks_are_refused_by_a_model_that_learns_from_them(fit_changed):
    with pytest.raises(
        ValueError, match="train_batches: found masked=None, allowed: masked places with model=bert4rec"
    ):
        fit_changed(lambda batch: batch._replace(masked=None), model="bert4rec")


def test_folders_may_be_strings(tiny, folders):
    fit(
        model=ModelSettings(hidden=8, max_seq_len=10),
        loss=LossSettings(loss="cce"),
        training=TrainingSettings(max_epochs=1, accelerator="cpu"),
        num_items=tiny.ITEMS,
        train_batches=tiny.TinyBatches(count=1),
        validate=None,
        out=str(folders["out"]),
        checkpoint_dir=str(folders["checkpoints"]),
    )
    assert (folders["out"] / "model.safetensors").is_file()
    assert (folders["checkpoints"] / "last.ckpt").is_file()
