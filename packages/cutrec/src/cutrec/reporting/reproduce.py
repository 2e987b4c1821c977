"""How to repeat a run: the commands and the versions."""

from __future__ import annotations

import platform
import shlex
from typing import TYPE_CHECKING

from cutrec.environment import Code, version
from cutrec.nested import as_yaml
from cutrec.reporting.tables import changed_settings

if TYPE_CHECKING:
    from cutrec.config import Config

WIDTH = 100
"""Characters of a command before it is split over several lines."""
LIBRARIES = ("torch", "triton", "lightning", "numpy", "pyarrow", "polars", "dvc")


def commands(config: Config, code: Code) -> list[str]:
    """The commands that repeat a run in a clone of the repository."""
    # The values of a preset are among the settings, so the preset itself is not named.
    changed = [(key, value) for key, value, _ in changed_settings(config) if key != "preset"]
    words = ["uv run dvc exp run", *(f"-S {shlex.quote(f'{key}={as_yaml(value)}')}" for key, value in changed)]
    run = " ".join(words) if changed else "uv run dvc repro"
    run = run if len(run) <= WIDTH else " \\\n    ".join(words)
    return [*([f"git checkout {code.revision}"] if code.revision else []), run]


def versions() -> str:
    """The installed versions of Python and of the libraries that results depend on."""
    found = [f"{name} {installed}" for name in LIBRARIES if (installed := version(name))]
    return ", ".join([f"Python {platform.python_version()}", *found])
