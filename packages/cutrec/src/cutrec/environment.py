"""The versions, the revision and the time that a result belongs to."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata

WRITTEN = (":!params.yaml", ":!dvc.lock", ":!data", ":!results")
"""As git takes paths: not these, which a run may change with no edit of its code.

A result tells the values of params.yaml itself; DVC writes ``dvc.lock`` and ``data``, `pipelines.measure` and
`pipelines.paper.tables` write ``results``.
"""


def versions() -> dict[str, str | None]:
    """The versions, the revision and the time."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "triton", "lightning")},
        "revision": revision(),
        "measured_at": now(),
    }


def now() -> str:
    """The time in UTC as `Result.measured_at` holds it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def revision() -> str | None:
    """The short commit, with ``+`` where tracked files differ from it; or ``CUTREC_REVISION``, for copies without git.

    What is in `WRITTEN` does not count.
    """
    if given := os.environ.get("CUTREC_REVISION"):
        return given
    commit = printed("git", "rev-parse", "--short", "HEAD")
    changed = printed("git", "status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN)
    return f"{commit}+" if commit and changed else commit


def printed(*command: str) -> str | None:
    """The first line that a command prints; None if it fails or is not there."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return None
    lines = ran.stdout.strip().splitlines()
    return lines[0] if ran.returncode == 0 and lines else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
