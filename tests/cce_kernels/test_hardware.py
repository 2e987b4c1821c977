"""Which GPUs the kernels are for. The GPUs here are simulated: only their properties are asked for."""

from types import SimpleNamespace

import pytest
import torch

from cce_kernels import hardware, inputs, validation


@pytest.fixture(params=[("Tesla V100", 7), ("Tesla T4", 7), ("NVIDIA A10", 8), ("NVIDIA H100", 9)], ids=lambda x: x[0])
def gpu(request, monkeypatch):
    name, major = request.param
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name=name, major=major, minor=0))
    return name, major >= 8


def fake(width=64):
    """What these checks read of a tensor on a GPU."""
    return SimpleNamespace(device=torch.device("cuda", 0), shape=(3, width), dtype=torch.float32)


def test_auto_takes_the_kernels_from_ampere_on_and_triton_says_what_it_needs(gpu, monkeypatch):
    name, runs = gpu
    monkeypatch.setattr(validation, "_NO_NUMPY", False)
    assert hardware.is_ampere_or_newer(torch.device("cuda")) == runs
    assert inputs.uses_triton("auto", fake(), fake(), None, 512) == runs
    assert not inputs.uses_triton("reference", fake(), fake(), None, 512)
    if runs:
        assert inputs.uses_triton("triton", fake(), fake(), None, 512)
    else:
        with pytest.raises(ValueError, match=f"impl: found 'triton' on {name}, allowed: on compute capability 8.0"):
            inputs.uses_triton("triton", fake(), fake(), None, 512)


def test_a_cpu_has_no_kernels():
    assert not hardware.is_ampere_or_newer(torch.device("cpu"))
