"""How to get a run again: the revision of the code, the commands, the versions. Needs the standard library and git."""

from __future__ import annotations

import platform
import shlex
import subprocess
from importlib import metadata
from typing import NamedTuple

from cutrec import config
from cutrec.environment import WRITTEN
from cutrec.nested import as_yaml
from cutrec.reporting import tables

WIDTH = 100
"""Characters of a command before it is written on several lines."""
LIBRARIES = ("torch", "triton", "lightning", "numpy", "pyarrow", "polars", "dvc")


class Code(NamedTuple):
    """The state of the code that wrote the page."""

    revision: str
    """Full hash, empty outside a git checkout."""
    changed: list[str]
    """Tracked files that differ from it, but for what runs write themselves."""


def read_code() -> Code:
    """Ask git; a folder that is no checkout has no revision."""
    try:
        command = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN]
        revision = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True)  # noqa: S607
        status = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return Code("", [])
    return Code(revision.stdout.strip(), [line[3:] for line in status.stdout.splitlines()])


def commands(point: config.Config, code: Code) -> list[str]:
    """What somebody types in a clone to get this run again."""
    # The values of a preset are among the settings: naming these needs no preset.
    changed = [(key, value) for key, value, _ in tables.changed_settings(point) if key != "preset"]
    words = ["uv run dvc exp run", *(f"-S {shlex.quote(f'{key}={as_yaml(value)}')}" for key, value in changed)]
    run = " ".join(words) if changed else "uv run dvc repro"
    run = run if len(run) <= WIDTH else " \\\n    ".join(words)
    return [*([f"git checkout {code.revision}"] if code.revision else []), run]


def versions() -> str:
    """Python and the libraries that numbers depend on, as installed here."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:  # triton is for Linux alone
            continue
    return ", ".join([f"Python {platform.python_version()}", *found])
