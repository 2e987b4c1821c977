import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from lightning.fabric.plugins import Precision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rec_models.training import bookkeeping
from rec_models.training.checkpoint import ModelCheckpoint, save_atomically
from rec_models.training.run_state import Processes, RunFolder, RunState, Tensors


class StoppedError(Exception):
    """Stands for a crash of the process."""


def stopping_run(tiny, monkeypatch, at, out, kept, **options):
    """Run until batch (epoch, index) is asked for."""
    batch = tiny.TinyBatches.batch

    def deadly(self, epoch, index):
        if (epoch, index) == at:
            raise StoppedError
        return batch(self, epoch, index)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.TinyBatches, "batch", deadly)
        with pytest.raises(StoppedError):
            tiny.run(out, kept, **options)


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    """From options to a run that nothing stopped: its result and its folder. Checkpoints do not change it."""
    made = {}

    def run(**options):
        options.pop("checkpoint_steps", None)
        key = tuple(sorted(options.items()))
        if key not in made:
            out = tmp_path_factory.mktemp("whole")
            made[key] = tiny.run(out, out / "kept", **options), out
        return made[key]

    return run


def timeless(history):
    return [{name: value for name, value in row.items() if "second" not in name} for row in history]


def step_losses(out):
    curve = EventAccumulator(str(out / "tensorboard")).Reload().Scalars("train/step_loss")
    return [(point.step, point.value) for point in curve]


def assert_same_outcome(first, second, first_out, second_out):
    assert timeless(first.history) == timeless(second.history)
    assert (first.best_epoch, first.metrics) == (second.best_epoch, second.metrics)
    assert step_losses(first_out) == step_losses(second_out)
    ours, theirs = (ModelCheckpoint.read(out / "model.safetensors").weights for out in (first_out, second_out))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("loss", ["cce_neg", "sce", "ce_neg"])
def test_a_run_stopped_in_mid_epoch_ends_as_an_uninterrupted_one(
    tiny, uninterrupted, tmp_path, monkeypatch, model_name, loss
):
    options = {"model": model_name, "loss": loss, "checkpoint_steps": 2}
    whole, whole_out = uninterrupted(**options)
    stopping_run(tiny, monkeypatch, (1, 5), tmp_path / "b", tmp_path / "b-kept", **options)
    kept = torch.load(tmp_path / "b-kept" / "last.ckpt", weights_only=True)["state"]
    assert (kept["epoch"], kept["index"], kept["step"]) == (1, 4, 10)  # in mid-epoch, one batch was lost
    resumed = tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    assert_same_outcome(resumed, whole, tmp_path / "b", whole_out)


@pytest.mark.parametrize(
    ("optimizer", "averaging"), [("adam_bf16", 0.0), ("adam_rowwise", 0.5), ("adam_lazy", 0.0), ("adam_lazy", 0.5)]
)
def test_moments_and_averages_resume_where_they_were(tiny, uninterrupted, tmp_path, monkeypatch, optimizer, averaging):
    options = {"loss": "cce_neg", "optimizer": optimizer, "checkpoint_steps": 2, "max_epochs": 2}
    options["averaging"] = averaging
    whole, whole_out = uninterrupted(**options)
    stopping_run(tiny, monkeypatch, (1, 5), tmp_path / "b", tmp_path / "b-kept", **options)
    resumed = tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    assert_same_outcome(resumed, whole, tmp_path / "b", whole_out)


def test_a_run_goes_on_with_the_state_of_its_precision(tiny, tmp_path, monkeypatch):
    """What 16-mixed keeps of its scaler on a GPU; no precision of a CPU has a state."""
    taken = []
    monkeypatch.setattr(Precision, "state_dict", lambda self: {"scale": 256.0})
    monkeypatch.setattr(Precision, "load_state_dict", lambda self, state: taken.append(state))
    stopping_run(tiny, monkeypatch, (1, 5), tmp_path / "b", tmp_path / "b-kept", checkpoint_steps=2)
    assert taken == []
    tiny.run(tmp_path / "b", tmp_path / "b-kept", checkpoint_steps=2)
    assert taken == [{"scale": 256.0}]


def test_slow_checkpoints_are_written_less_often(tiny, uninterrupted, tmp_path, monkeypatch):
    whole, whole_out = uninterrupted()
    monkeypatch.setattr(bookkeeping, "_CHEAP_SECONDS", 0.0)
    monkeypatch.setattr(bookkeeping, "_SAVES_APART", 1e9)
    stopping_run(tiny, monkeypatch, (2, 3), tmp_path / "b", tmp_path / "b-kept")
    kept = torch.load(tmp_path / "b-kept" / "last.ckpt", weights_only=True)["state"]
    assert (kept["epoch"], kept["index"]) == (1, 0)  # not the end of the second epoch
    kept_names = ["best-1.safetensors", "last.ckpt", "step_losses.bin"]
    assert sorted(path.name for path in (tmp_path / "b-kept").glob("*.*")) == kept_names
    resumed = tiny.run(tmp_path / "b", tmp_path / "b-kept")
    assert_same_outcome(resumed, whole, tmp_path / "b", whole_out)
    never = tiny.run(tmp_path / "c", tmp_path / "c-kept")  # the best model waits in memory until the end
    assert_same_outcome(never, whole, tmp_path / "c", whole_out)


def test_a_run_asked_to_end_loses_nothing(tiny, uninterrupted, tmp_path, monkeypatch):
    whole, whole_out = uninterrupted()
    batch = tiny.TinyBatches.batch

    def ending(self, epoch, index):
        if (epoch, index) == (1, 4):
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, epoch, index)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.TinyBatches, "batch", ending)
        with pytest.raises(SystemExit) as ended:
            tiny.run(tmp_path / "b", tmp_path / "b-kept")
    assert ended.value.code == 128 + signal.SIGTERM  # a stage that was stopped has failed
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    kept = torch.load(tmp_path / "b-kept" / "last.ckpt", weights_only=True)["state"]
    assert (kept["epoch"], kept["index"]) == (1, 4)  # the fifth batch was read, and not trained on
    resumed = tiny.run(tmp_path / "b", tmp_path / "b-kept")
    assert_same_outcome(resumed, whole, tmp_path / "b", whole_out)


def test_a_run_that_accumulates_resumes_after_an_optimizer_step(tiny, uninterrupted, tmp_path, monkeypatch):
    options = {"micro": 2, "checkpoint_steps": 1}
    whole, whole_out = uninterrupted(**options)
    stopping_run(tiny, monkeypatch, (0, 7), tmp_path / "b", tmp_path / "b-kept", **options)
    assert torch.load(tmp_path / "b-kept" / "last.ckpt", weights_only=True)["state"]["index"] % 2 == 0
    resumed = tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    assert_same_outcome(resumed, whole, tmp_path / "b", whole_out)


def test_the_second_run_reads_only_the_rest_of_the_epoch(tiny, tmp_path, monkeypatch, capfd):
    stopping_run(tiny, monkeypatch, (1, 4), tmp_path / "out", tmp_path / "kept", checkpoint_steps=3)
    asked = []
    batch = tiny.TinyBatches.batch
    monkeypatch.setattr(tiny.TinyBatches, "batch", lambda self, *at: asked.append(at) or batch(self, *at))
    tiny.run(tmp_path / "out", tmp_path / "kept", checkpoint_steps=3)
    assert asked[0] == (1, 3)
    assert set(asked) == {(1, index) for index in range(3, 6)} | {(2, index) for index in range(6)}
    assert "resuming from last.ckpt: epoch 2, batch 3" in capfd.readouterr().err


def test_a_finished_run_is_not_trained_again_but_written_out_again(tiny, tmp_path):
    first = tiny.run(tmp_path / "first", tmp_path / "kept")
    again = tiny.run(tmp_path / "again", tmp_path / "kept")
    assert again.history == first.history
    assert_same_outcome(again, first, tmp_path / "again", tmp_path / "first")
    assert (tmp_path / "again" / "history.csv").read_text() == (tmp_path / "first" / "history.csv").read_text()


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tiny, uninterrupted, tmp_path, monkeypatch, capfd, damage):
    options = {"checkpoint_steps": 2}
    whole, whole_out = uninterrupted(**options)
    stopping_run(tiny, monkeypatch, (1, 5), tmp_path / "b", tmp_path / "b-kept", **options)
    last = tmp_path / "b-kept" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged = {"truncated": content[: len(content) // 2], "garbage": b"no archive", "empty": b"", "flipped": content}
    last.write_bytes(bytes(damaged[damage]))
    (tmp_path / "b-kept" / "last.ckpt.123.part").write_bytes(b"of a process killed in writing")
    resumed = tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    assert_same_outcome(resumed, whole, tmp_path / "b", whole_out)
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert str(last) in warnings[0]
    assert not list((tmp_path / "b-kept").glob("*.part"))


def test_only_damaged_checkpoints_mean_a_new_start(tiny, uninterrupted, tmp_path, capfd):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "last.ckpt").write_bytes(b"x")
    whole, whole_out = uninterrupted()
    assert_same_outcome(tiny.run(tmp_path / "b", kept), whole, tmp_path / "b", whole_out)
    assert "warning: not resuming from this checkpoint" in capfd.readouterr().err


def test_a_run_with_other_settings_does_not_resume(tiny, tmp_path, capfd):
    tiny.run(tmp_path / "a", tmp_path / "kept", max_epochs=1)
    result = tiny.run(tmp_path / "b", tmp_path / "kept", max_epochs=1, learning_rate=0.01)
    assert result.history[0]["step"] == 6
    assert "of a run with other settings" in capfd.readouterr().err
    fresh = tiny.run(tmp_path / "c", tmp_path / "c-kept", max_epochs=1, learning_rate=0.01)
    assert_same_outcome(result, fresh, tmp_path / "b", tmp_path / "c")


def test_the_folder_keeps_two_states_and_the_models_that_they_refer_to(tmp_path):
    folder = RunFolder(tmp_path, {"seed": 1})
    for epoch in range(1, 6):
        folder.best(epoch).write_bytes(b"model")
        folder.save(RunState(epoch=epoch, best_epoch=epoch), Tensors({}, {}, {}, {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best-4.safetensors",
        "best-5.safetensors",
        "last.ckpt",
        "previous.ckpt",
    ]
    resumed = RunFolder(tmp_path, {"seed": 1}).resume()
    assert asdict(resumed.state) == asdict(RunState(epoch=5, best_epoch=5))


def test_a_checkpoint_of_a_long_run_is_no_larger(tmp_path):
    folder, state, sizes = RunFolder(tmp_path, {}), RunState(), []
    for steps in (10, 100_000):
        state.step_losses.extend([0.5] * steps)
        folder.save(state, Tensors({}, {}, {}, {}))
        sizes.append(folder.last.stat().st_size)
    assert sizes[1] - sizes[0] < 1000  # of 800,000 bytes; the parts of the file begin at multiples of 64
    assert RunFolder(tmp_path, {}).resume().state.step_losses == state.step_losses
    folder.last.write_bytes(b"damaged")
    again = RunFolder(tmp_path, {})
    state = again.resume().state
    assert len(state.step_losses) == 10
    state.step_losses.append(0.25)  # the losses after the tenth were those of steps that are trained again
    again.save(state, Tensors({}, {}, {}, {}))
    assert list(RunFolder(tmp_path, {}).resume().state.step_losses) == [0.5] * 10 + [0.25]


def test_losses_of_steps_in_a_state_of_an_earlier_version_are_kept(tmp_path):
    state = {**asdict(RunState()), "step_losses": [2.0, 1.0]}
    payload = {
        "format": "rec_models.run/1",
        "identity": {},
        "state": state,
        "encoder": {},
        "optimizer": {},
        "scaler": {},
    }
    save_atomically(payload, tmp_path / "last.ckpt")
    folder = RunFolder(tmp_path, {})
    resumed = folder.resume().state
    folder.save(resumed, Tensors({}, {}, {}, {}))
    assert list(resumed.step_losses) == list(RunFolder(tmp_path, {}).resume().state.step_losses) == [2.0, 1.0]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"format": "rec_models.run/3"},
            "found format 'rec_models.run/3', allowed: rec_models.run/1 | rec_models.run/2",
        ),
        ({"rows": {"file": "rows-4.safetensors", "sums": {}}}, "rows-4.safetensors is missing beside it"),
        ({"processes": (2, 8)}, "of a run with other settings"),
    ],
)
def test_what_cannot_be_resumed_is_said_in_one_line(tmp_path, capfd, changed, line):
    folder = RunFolder(tmp_path, {}, Processes(1, 32))
    folder.save(RunState(epoch=1), Tensors({}, {}, {}, {}))
    save_atomically(torch.load(folder.last, weights_only=True) | changed, folder.last)
    assert RunFolder(tmp_path, {}, Processes(1, 32)).resume() is None
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("warning: not resuming from this checkpoint: ")
    assert said.endswith(line)


def test_a_state_without_its_best_model_is_passed_over(tmp_path, capfd):
    folder = RunFolder(tmp_path, {})
    folder.save(RunState(epoch=1), Tensors({}, {}, {}, {}))
    folder.save(RunState(epoch=2, best_epoch=2), Tensors({}, {}, {}, {}))
    assert RunFolder(tmp_path, {}).resume().state.epoch == 1
    assert "best-2.safetensors is missing beside it" in capfd.readouterr().err


@pytest.mark.slow
def test_a_killed_process_goes_on_where_it_was(tiny, uninterrupted, tiny_script, tmp_path):
    options = {"model": "bert4rec", "loss": "cce_neg", "checkpoint_steps": 2}
    run = options | {"out": str(tmp_path / "b"), "checkpoints": str(tmp_path / "b-kept"), "kill_at": [1, 5]}
    command = [sys.executable, str(tiny_script), json.dumps([run])]
    killed = subprocess.run(command, check=False, capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    kept = torch.load(tmp_path / "b-kept" / "last.ckpt", weights_only=True)["state"]
    assert (kept["epoch"], kept["index"]) == (1, 4)
    assert not (tmp_path / "b" / "model.safetensors").exists()
    resumed = tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    whole, whole_out = uninterrupted(**options)
    assert_same_outcome(resumed, whole, tmp_path / "b", whole_out)


def test_a_run_on_other_ids_is_not_resumed_and_the_model_knows_its_own(tiny, folders, capsys):
    tiny.run(**folders, max_epochs=1, catalogue="5f3a")
    assert ModelCheckpoint.read(folders["out"] / "model.safetensors").catalogue == "5f3a"
    capsys.readouterr()
    tiny.run(**folders, max_epochs=1, catalogue="77aa")
    assert "not resuming from this checkpoint" in capsys.readouterr().err
    assert ModelCheckpoint.read(folders["out"] / "model.safetensors").catalogue == "77aa"
