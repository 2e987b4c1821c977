"""Progress bars that only appear when an operation takes long."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

SHOW_AFTER = 5.0
"""Seconds."""


@contextmanager
def progress(what: str, total: int, unit: str = "step") -> "Iterator[tqdm[None]]":
    """Show a bar on stderr once the work has taken ``SHOW_AFTER`` seconds.

    Args:
        what: Label of the bar.
        total: Number of updates to expect.
        unit: Unit of the updates.
    """
    with tqdm(total=total, desc=what, unit=unit, unit_scale=unit != "step", delay=SHOW_AFTER, mininterval=0.5) as bar:
        yield bar
