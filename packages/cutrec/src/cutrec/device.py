"""The machine that this process measures on."""

from __future__ import annotations

import torch

from cutrec.environment import printed, versions
from rec_models.training.devices import cpu_name


def environment() -> dict[str, str | None]:
    """The device (named as training names it), its driver and the versions, as fields of a result."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        **versions(),
        "device": gpu or cpu_name(),
        "driver": printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if gpu else None,
        "torch": torch.__version__,
    }
