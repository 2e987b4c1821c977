"""Where a run happens: devices, precision, processes, and what to tell the user about them beforehand."""

from __future__ import annotations

import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cce_kernels.hardware import is_ampere_or_newer
from rec_models.config import Precision, TrainingSettings
from rec_models.errors import SettingsError
from rec_models.training.memory import Run

if TYPE_CHECKING:  # Lightning takes two seconds to import, and using a trained model does not need it
    from lightning.fabric import Fabric


def devices_here(training: TrainingSettings) -> int:
    """How many of a run's devices are on this machine: all, or as many as torchrun has started processes here.

    Raises:
        SettingsError: torchrun has started another number of processes than there are devices.
    """
    if not torch.distributed.is_torchelastic_launched():
        return training.devices
    processes, here = (int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if training.devices != processes or processes % here:
        allowed = f"{processes}, the processes that torchrun has started, and equally many on each machine"
        raise SettingsError("devices", training.devices, allowed)
    return here


def device_of(training: TrainingSettings) -> torch.device:
    """Where training runs: the CPU, or the GPU of this process's ``LOCAL_RANK``.

    Raises:
        SettingsError: GPUs are missing, or as `devices_here`.
    """
    here = devices_here(training)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if training.accelerator == "cpu" or (training.accelerator == "auto" and not gpus):
        return torch.device("cpu")
    if not gpus:
        raise SettingsError("accelerator", "cuda", "auto or cpu, because torch finds no GPU here")
    if gpus < here:
        allowed = f"up to {gpus}, the GPUs of this machine" if here == training.devices else f"{gpus} on each machine"
        raise SettingsError("devices", training.devices, allowed)
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def usable_device(device: str | torch.device) -> torch.device:
    """The device with this name; a `ValueError` if torch does not know it, or does not find it on this machine."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, ImportError, AssertionError) as error:  # each kind of device raises another
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: found {str(device)!r}, allowed: a device that torch finds here: {reason}") from error


def precision_on(device: torch.device, precision: Precision) -> Precision:
    """The precision that a device trains in: 32-true on a CPU, and for bf16-mixed on a GPU that has no bf16."""
    supported = device.type == "cuda" and (precision != "bf16-mixed" or is_ampere_or_newer(device))
    return precision if supported else "32-true"


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The autocast dtype of a precision; None where products have the dtype of the weights, as always on a CPU."""
    kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": None}
    return kinds[precision_on(device, precision)]


def build_fabric(training: TrainingSettings, device: torch.device, precision: Precision) -> Fabric:
    """Lightning Fabric for the devices of a run; no process is started yet."""
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    from rec_models.training.launcher import Processes

    here = devices_here(training)
    # Without this, Fabric takes the tasks of a job of Slurm for the processes of the run, however many there are.
    environment = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()
    return Fabric(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        strategy=Processes() if training.devices > 1 or training.table == "sharded" else "auto",
        devices=here,
        num_nodes=training.devices // here,
        precision=precision,
        plugins=environment,
    )


def free_earlier_memory(fabric: Fabric) -> None:
    """Free cached memory and cuBLAS's workspaces that earlier work in this process left: they are not this run's."""
    assert fabric.strategy.accelerator is not None
    fabric.strategy.accelerator.teardown()


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's notes on hardware and its uses of deprecated torch functions."""
    loggers = [logging.getLogger(name) for name in ("lightning.fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def deterministic_on_cpu(device: torch.device) -> Iterator[None]:
    """On a CPU, add up gathered rows in a fixed order: with several threads torch adds them as they come."""
    if device.type != "cpu":
        yield
        return
    options: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), options.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    options.fill_uninitialized_memory = False  # a debugging aid that costs a pass over every new tensor
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        options.fill_uninitialized_memory = before[1]


def seed_dropout(device: torch.device, seed: int) -> None:
    """Seed the generator that dropout on a device draws from."""
    # torch.manual_seed would visit every kind of accelerator, which takes milliseconds per step.
    on_gpu = device.type == "cuda"
    generator = torch.cuda.default_generators[device.index or 0] if on_gpu else torch.default_generator
    generator.manual_seed(seed)


def announce(run: Run, device: torch.device, precision: str, *, sharded: bool = False) -> None:
    """Write one line about the run to stderr, and one for each thing that may surprise.

    `precision` is the one that the device uses, which may differ from that of the settings; `sharded`: whether the rows
    of the item table are spread over the devices.
    """
    model, loss, training, num_items = run
    why = ""
    if precision != training.precision:
        slower = f"a CPU is slower in {training.precision}"
        why = f" ({slower if device.type == 'cpu' else 'this GPU has no bf16; train.precision=16-mixed works too'})"
    items = f"{num_items:,} items" + (f" sharded over {training.devices}" if sharded else "")
    lines = [f"training {model.model} with {loss.loss} on {device.type}, {items}, {precision}{why}"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cpu" and (here := devices_here(training)) > 1:
        slower = ", which is slower than devices=1" if here > cores else ""
        lines.append(f"devices={training.devices} on a CPU: {here} processes share {cores} cores{slower}")
    if device.type == "cpu" and loss.loss == "sce":
        scores = f"{loss.sce_buckets} x {loss.sce_bucket_size_x} x {loss.sce_bucket_size_y}"
        paper = "the paper takes 2 sqrt(batch_size x max_seq_len) for the first two"
        lines.append(f"sce on a CPU: up to {scores} scores a step (buckets x tokens x items); {paper}")
    if device.type == "cpu" and training.cuda_graphs is True:
        lines.append("cuda_graphs has no effect on a CPU")
    sys.stderr.write("".join(f"{line}\n" for line in lines))


def cpu_name() -> str:
    """The name of the processor, if the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"cpu: {names[0] if names else platform.processor() or platform.machine()}"
