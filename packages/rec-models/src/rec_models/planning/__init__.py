"""Memory and time of a training run, predicted from its settings and the sizes of its log before anything runs."""

from rec_models.planning.calibration import PATH, Calibration, load, save
from rec_models.planning.fit import Measured, refit
from rec_models.planning.memory import Memory, memory_of
from rec_models.planning.seconds import Seconds, seconds_of
from rec_models.planning.sizes import Setup, Sizes

# fmt: off
__all__ = [
    "PATH", "Calibration", "Measured", "Memory", "Seconds", "Setup", "Sizes", "load", "memory_of",
    "refit", "save", "seconds_of",
]
