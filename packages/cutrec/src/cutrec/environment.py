"""The machine, the versions, the revision of the code and the time that a result belongs to."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from typing import NamedTuple

WRITTEN = (":!params.yaml", ":!dvc.lock", ":!data", ":!results")
"""Pathspecs for git that exclude what a run changes without an edit of the code.

A result contains the values of params.yaml; DVC writes ``dvc.lock`` and ``data``, `pipelines.measure` and
`pipelines.tables` write ``results``.
"""


class Code(NamedTuple):
    """The state of the code of a run."""

    revision: str
    """Full hash of the commit; empty if it is unknown."""
    changed: list[str]
    """Tracked files that differ from it, without those that runs write."""
    unknown: str = ""
    """Why the revision is unknown."""


def read_code() -> Code:
    """Ask git for the revision; without git or outside a checkout it is unknown."""
    if shutil.which("git") is None:
        return Code("", [], "git is not installed here")
    revision = _printed("git", "rev-parse", "HEAD")
    status = _printed("git", "status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN)
    if revision is None or status is None:
        return Code("", [], "the page was not written in a git checkout")
    return Code(revision, [line[3:] for line in status.splitlines()])


def checkout_prefix() -> str:
    """The current folder as a path from the root of its git repository: ``""``, or ``team/project/``."""
    return _printed("git", "rev-parse", "--show-prefix") or ""


def environment() -> dict[str, str | None]:
    """The device (named as training names it), its driver and the `versions`, as fields of a result."""
    import torch

    from rec_models.training.devices import cpu_name

    where = {**versions(), "device": cpu_name(), "driver": None, "torch": torch.__version__}
    if torch.cuda.is_available():
        drivers = _printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        where |= {"device": torch.cuda.get_device_name(), "driver": drivers.split()[0] if drivers else None}
    return where


def versions() -> dict[str, str | None]:
    """The versions, the revision and the time, as fields of a result."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "triton", "lightning")},
        "revision": revision(),
        "measured_at": now(),
    }


def now() -> str:
    """The time in UTC as `Result.measured_at` holds it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def revision() -> str | None:
    """The short commit, with ``+`` if tracked files differ from it; or ``CUTREC_REVISION``, for copies without git.

    What is in `WRITTEN` does not count.
    """
    if given := os.environ.get("CUTREC_REVISION"):
        return given
    commit = _printed("git", "rev-parse", "--short", "HEAD")
    return f"{commit}+" if commit and read_code().changed else commit


def version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _printed(*command: str) -> str | None:
    """What a command prints; None if it fails or is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip()  # noqa: S603
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
