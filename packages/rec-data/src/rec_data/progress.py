"""Progress bars that only appear when an operation takes long."""

from tqdm import tqdm

SHOW_AFTER = 5.0
"""Seconds."""


def progress(what: str, total: int, unit: str = "step") -> "tqdm[None]":
    """A bar on stderr, to be used in a ``with`` statement; it appears after ``SHOW_AFTER`` seconds of work."""
    scaled = unit != "step"
    return tqdm(total=total, desc=what, unit=unit, unit_scale=scaled, delay=SHOW_AFTER, mininterval=0.5)
