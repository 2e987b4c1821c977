"""The versions, the revision of the code and the time that a result belongs to."""

from __future__ import annotations

import os
import platform
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
    try:
        revision = _git("rev-parse", "HEAD")
        status = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN)
    except FileNotFoundError:
        return Code("", [], "git is not installed here")
    if revision is None or status is None:
        return Code("", [], "the page was not written in a git checkout")
    return Code(revision.strip(), [line[3:] for line in status.splitlines()])


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
    commit = printed("git", "rev-parse", "--short", "HEAD")
    return f"{commit}+" if commit and read_code().changed else commit


def printed(*command: str) -> str | None:
    """The first line that a command prints; None if it fails or is not installed."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return None
    lines = ran.stdout.strip().splitlines()
    return lines[0] if ran.returncode == 0 and lines else None


def version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git prints; None if it fails."""
    ran = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return ran.stdout if ran.returncode == 0 else None
