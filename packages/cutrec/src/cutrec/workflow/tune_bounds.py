"""What a search does not try on this device, by the planner's predictions."""

import os
from functools import cached_property

import torch

from cutrec.config_point import Config
from cutrec.workflow.plan import setup_of, sizes_from
from cutrec.workflow.tune_space import Settings, Space
from rec_models import planning
from rec_models.errors import SettingsError

SLOWEST = 5.0
"""The longest epoch that is tried, in those of the defaults: the time is better spent on several trials."""
_GIB = 2**30


def device_gib(device: torch.device) -> float:
    """All memory of a GPU, or of the host for a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / _GIB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB


class Bounds:
    """What is not tried on a device, by the planner's predictions: too large, or much slower than the defaults."""

    def __init__(self, space: Space, device: torch.device, gib: float) -> None:
        self._space, self._device, self._gib = space, device, gib

    @cached_property
    def _usual_seconds(self) -> float:
        return self._predict(self._space.point)[1]

    def __call__(self, settings: Settings) -> str | None:
        """Why settings are not tried; None where they are."""
        try:
            memory, seconds = self._predict(self._space.at(settings))
            times = seconds / self._usual_seconds
        except SettingsError:  # a loss whose memory cannot be predicted
            return None
        if not memory.fits(self._gib):
            return f"needs {memory.peak + memory.pool:.1f} GiB of {self._gib:.1f}, as predicted"
        if times > SLOWEST:
            return f"an epoch takes {times:.1f} times as long as with the defaults, as predicted"
        return None

    def _predict(self, point: Config) -> tuple[planning.Memory, float]:
        """Memory, and seconds of an epoch; a CPU, which is not predicted, is as slow as the GPU has work."""
        setup, sizes, constants = setup_of(point), sizes_from(point, self._space.facts), planning.load()
        seconds = planning.seconds_of(setup, sizes, constants)
        step = seconds.device if self._device.type == "cpu" else seconds.step
        return planning.memory_of(setup, sizes, constants), step * sizes.steps
