"""What a GPU without bf16 does instead: it is simulated, only its properties are asked for."""

from types import SimpleNamespace

import pytest
import torch

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import transformer
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
