"""The machine that this process measures on: fields of `cutrec.reporting.results_file.Result`."""

from __future__ import annotations

from cutrec.environment import printed, versions


def environment() -> dict[str, str | None]:
    """The device, named as training names it, its driver and the versions; imports torch."""
    import torch

    from rec_models.training.devices import cpu_name

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        **versions(),
        "device": gpu or cpu_name(),
        "driver": printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if gpu else None,
        "torch": torch.__version__,
    }
