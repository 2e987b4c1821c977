"""Progress bars that only appear when an operation takes long."""

import sys
from typing import Any

from tqdm import tqdm

SHOW_AFTER = 5.0
"""Seconds."""
_TERMINAL_SECONDS, _FILE_SECONDS = 0.5, 30.0
"""Between two states of a bar. In a file each state is text that stays, and a pipe that nobody reads is soon full."""


def progress(what: str, total: int | None, unit: str = "step", **options: Any) -> "tqdm[None]":
    """A bar on stderr, to be used in a ``with`` statement; it appears after ``SHOW_AFTER`` seconds of work.

    Args:
        what: Its title.
        total: The number of units; None if nobody knows.
        unit: Of what is counted.
        **options: Of `tqdm.tqdm`.
    """
    seconds = _TERMINAL_SECONDS if sys.stderr.isatty() else _FILE_SECONDS
    pace = {"delay": SHOW_AFTER, "mininterval": seconds, "maxinterval": max(10.0, seconds)}
    return tqdm(total=total, desc=what, unit=unit, unit_scale=unit != "step", **pace, **options)
