"""The constants of the predictions: a JSON file that states what they were measured on, refitted from measured runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("h100.json")


@dataclass(frozen=True)
class Calibration:
    """Factors of the memory model and rates of the time model."""

    measured_on: str | None = None  # the runs that the factors were fitted to; None: they are 1, memory is counted only
    activations: float = 1.0  # of the bytes kept for backward
    loss: dict[str, float] = field(default_factory=dict)  # of each loss's bytes, by its name; 1 where it is missing
    constant_gib: float = 0.0  # of every run, in addition to cuBLAS's workspaces
    seconds: dict[str, float] = field(default_factory=dict)  # rates that replace those of `planning.seconds.RATES`
    fused_seconds: dict[str, float] = field(default_factory=dict)  # and those of `planning.seconds.FUSED_RATES`
    time_measured_on: str | None = None  # the runs that ``seconds`` was fitted to


def load(path: Path = PATH) -> Calibration:
    """Read the constants in a file; an unknown key is a `ValueError`."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    known = asdict(Calibration())
    unknown = set(values) - set(known)
    if unknown:
        raise ValueError(f"{path}: unknown {', '.join(sorted(unknown))}; allowed: {', '.join(known)}")
    return Calibration(**values)


def save(calibration: Calibration, path: Path = PATH) -> None:
    """Write the constants."""
    path.write_text(json.dumps(asdict(calibration), indent=2) + "\n", encoding="utf-8")
