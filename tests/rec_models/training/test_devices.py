"""What a GPU without bf16 does instead: it is simulated, only its properties are asked for."""

from types import SimpleNamespace

import pytest
import torch

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import transformer
from rec_models.errors import SettingsError
from rec_models.training import devices, loop
from rec_models.training.memory import Run

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(params=[7, 8, 9])
def has_bf16(request, monkeypatch):
    """A GPU of each generation."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=request.param, minor=5))
    return request.param >= 8


def test_bf16_becomes_fp32_where_there_is_none_and_other_precisions_stay(has_bf16):
    assert devices.precision_on(CUDA, "bf16-mixed") == ("bf16-mixed" if has_bf16 else "32-true")
    assert devices.autocast_dtype("bf16-mixed", CUDA) == (torch.bfloat16 if has_bf16 else None)
    for precision, dtype in (("16-mixed", torch.float16), ("32-true", None)):
        assert devices.precision_on(CUDA, precision) == precision
        assert devices.autocast_dtype(precision, CUDA) == dtype
    for precision in ("bf16-mixed", "16-mixed", "32-true"):
        assert devices.precision_on(CPU, precision) == "32-true"
        assert devices.autocast_dtype(precision, CPU) is None


def test_steps_are_recorded_in_bf16_alone(has_bf16):
    training, loss = TrainingSettings(), LossSettings.pick("cce_neg", num_negatives=4)
    assert training.records_steps(loss)
    precision = devices.precision_on(CUDA, training.precision)
    assert loop._uses_cuda_graphs(training, loss, precision) == has_bf16
    assert not loop._uses_cuda_graphs(training, loss, devices.precision_on(CPU, training.precision))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_flash_attention_wants_a_gpu_that_has_it(has_bf16, dtype, monkeypatch):
    for way in ("packed", "padded"):
        monkeypatch.setattr(transformer, f"_attend_{way}", lambda *_, way=way, **__: way)
    qkv = SimpleNamespace(device=CUDA, dtype=dtype)
    packed = has_bf16 and dtype != torch.float32
    assert transformer.attend(qkv, None, causal=True) == ("packed" if packed else "padded")
    assert transformer.attend(qkv, None, causal=True, dropout=0.1) == "padded"


def test_the_user_is_told_of_another_precision(has_bf16, capsys):
    training = TrainingSettings()
    run = Run(ModelSettings(), LossSettings.pick("cce"), training, 100)
    devices.announce(run, CUDA, devices.precision_on(CUDA, training.precision))
    assert ("no bf16" in capsys.readouterr().err) == (not has_bf16)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "tests", "RANK": "5", "LOCAL_RANK": "1", "GROUP_RANK": "1"}


@pytest.mark.parametrize(
    ("devices_", "processes", "here", "message"),
    [
        (8, 8, 4, None),
        (1, 2, 2, "devices: found 1, allowed: 2, the processes that torchrun has started"),
        (12, 12, 8, "devices: found 12, allowed: 12, .*, and equally many on each machine"),
    ],
)
def test_torchrun_starts_as_many_processes_as_there_are_devices(monkeypatch, devices_, processes, here, message):
    for name, value in (TORCHRUN | {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(here)}).items():
        monkeypatch.setenv(name, value)
    training = TrainingSettings(devices=devices_, accelerator="cpu")
    if message is not None:
        with pytest.raises(SettingsError, match=message):
            devices.build_fabric(training, CPU, "32-true")
        return
    strategy = devices.build_fabric(training, CPU, "32-true").strategy
    found = strategy.num_nodes, strategy.num_processes, strategy.world_size, strategy.global_rank, strategy.local_rank
    assert found == (2, 4, 8, 5, 1)


def test_gpus_are_counted_on_each_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name, value in (TORCHRUN | {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}).items():
        monkeypatch.setenv(name, value)
    assert devices.device_of(TrainingSettings(devices=8)) == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SettingsError, match="devices: found 8, allowed: 2 on each machine"):
        devices.device_of(TrainingSettings(devices=8))


def test_a_job_of_slurm_does_not_decide_how_many_processes_train(monkeypatch):
    """A batch script has the number of its tasks, and its first process would wait for nobody."""
    for name, value in (("NTASKS", "1"), ("PROCID", "0"), ("LOCALID", "0"), ("NODEID", "0"), ("JOB_ID", "1234")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    fabric = devices.build_fabric(TrainingSettings(devices=2, accelerator="cpu"), CPU, "32-true")
    assert not fabric.strategy.cluster_environment.creates_processes_externally
