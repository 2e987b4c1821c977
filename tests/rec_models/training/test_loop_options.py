"""Options that change how training runs, but not its outcome."""

import pytest
import torch

from rec_models.config import BatchSettings, LossSettings, ModelSettings, TrainingSettings
from rec_models.errors import SettingsError
from rec_models.training import loop, memory
from rec_models.training.checkpoint import ModelCheckpoint
from rec_models.training.devices import announce
from rec_models.training.memory import Run


def weights_of(folder):
    return ModelCheckpoint.read(folder / "model.safetensors").weights


def losses_of(result):
    return [row["train_loss"] for row in result.history]


def test_what_a_batch_held_is_kept_and_another_is_another_run(tiny, folders, capfd):
    batching = BatchSettings(batch_size=8)
    tiny.run(**folders, max_epochs=1, batching=batching)
    assert ModelCheckpoint.read(folders["out"] / "model.safetensors").batching == batching
    other = BatchSettings(batch_size=8, window=3)
    tiny.run(**folders, max_epochs=1, batching=other)
    assert ModelCheckpoint.read(folders["out"] / "model.safetensors").batching == other
    assert "of a run with other settings" in capfd.readouterr().err


@pytest.fixture(scope="module")
def learned(tiny, tmp_path_factory):
    """From an optimizer to the losses of its epochs."""

    def run(optimizer):
        folder = tmp_path_factory.mktemp(optimizer)
        options = {"loss": "cce_neg", "dropout": 0.0, "max_epochs": 8, "patience": 8, "learning_rate": 1e-2}
        return losses_of(tiny.run(folder, folder / "kept", optimizer=optimizer, **options))

    adam = run("adam")
    return lambda optimizer: (adam, run(optimizer))


@pytest.mark.parametrize("optimizer", ["adam_bf16", "adam_rowwise", "adam_lazy"])
def test_lean_optimizers_learn_as_adam_does(learned, optimizer):
    adam, lean = learned(optimizer)
    assert adam[-1] < 0.7 * adam[0]
    assert lean[-1] < adam[-1] + 0.1 * (adam[0] - adam[-1])
    assert lean != adam


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


class LaunchedSteps:
    """Replaces `GraphedSteps`: the same step of the same filled batches, without a GPU."""

    def __init__(self, step_loss, optimizer, ranks):
        self.step_loss, self.optimizer = step_loss, optimizer

    def run(self, batch, step):
        self.optimizer.zero_grad()
        mean = self.step_loss(batch, torch.tensor(step))
        mean.backward()
        self.optimizer.step()
        assert batch.items.numel() % 16 == 0
        return mean.detach()


@pytest.mark.parametrize("loss", ["cce", "cce_neg"])
def test_graphed_steps_on_filled_batches_train_as_launched_ones(tiny, tmp_path, monkeypatch, loss):
    options = {"loss": loss, "dropout": 0.0, "checkpoint_steps": 3}
    plain = tiny.run(tmp_path / "a", tmp_path / "a-kept", **options)
    monkeypatch.setattr(loop, "_uses_cuda_graphs", lambda settings, loss, device: True)
    monkeypatch.setattr(loop, "GraphedSteps", LaunchedSteps)
    recorded = tiny.run(tmp_path / "b", tmp_path / "b-kept", **options)
    assert losses_of(recorded) == pytest.approx(losses_of(plain), rel=1e-5)
    for name in ("step", "tokens"):
        assert [row[name] for row in recorded.history] == [row[name] for row in plain.history]
    theirs, ours = (tiny.without_keys_bias(weights_of(tmp_path / name)) for name in ("a", "b"))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)


def test_memory_of_validation_is_not_the_loops(tiny, folders, monkeypatch):
    peak = [1.0]
    monkeypatch.setattr(memory, "peak_gib", lambda device: peak[0])
    monkeypatch.setattr(tiny, "validate", lambda encoder: peak.__setitem__(0, peak[0] + 2.0) or {"ndcg@10": 0.5})
    result = tiny.run(**folders, max_epochs=2)
    assert (result.loop_peak_memory_gib, result.peak_memory_gib) == (1.0, 5.0)


def test_dropout_follows_seed_step_and_micro_batch(tiny, tmp_path, monkeypatch):
    """One seed per micro-batch of two steps of two micro-batches, all different, and others with another seed."""
    seeds = []
    monkeypatch.setattr(loop.devices, "seed_dropout", lambda device, seed: seeds.append(seed))
    for seed in (0, 1, 0):
        folder = tmp_path / str(len(seeds))
        tiny.run(folder, folder / "kept", seed=seed, max_epochs=1, micro=2, counts=(2,))
    assert len(set(seeds)) == 8
    assert seeds[:4] == seeds[8:]


def test_processes_that_share_cores_are_told_of(capfd):
    model, loss = ModelSettings(), LossSettings(loss="cce")
    for devices in (1, 2, 1024):
        announce(Run(model, loss, TrainingSettings(devices=devices), 5), torch.device("cpu"), "32-true")
    lines = capfd.readouterr().err.splitlines()
    told = [line.split(":")[0] for line in lines]
    assert told == [lines[0], lines[0], "devices=2 on a CPU", lines[0], "devices=1024 on a CPU"]
    assert lines[-1].endswith("cores, which is slower than devices=1")


def test_a_cpu_is_warned_of_many_buckets(capfd):
    for name in ("sce", "cce"):
        announce(Run(ModelSettings(), LossSettings(loss=name), TrainingSettings(), 5), torch.device("cpu"), "32-true")
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("sce on a CPU")]
    assert len(told) == 1
    assert "443 x 443 x 512 scores a step" in told[0]


def test_a_cpu_trains_without_cuda_graphs(tiny, tmp_path):
    recorded, plain = (
        tiny.run(tmp_path / str(on), tmp_path / f"{on}-kept", max_epochs=1, cuda_graphs=on) for on in (True, False)
    )
    assert losses_of(recorded) == losses_of(plain)
