"""Progress bars that only appear where there is something to wait for."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

SHOW_AFTER = 5.0
"""Seconds."""


@contextmanager
def progress(what: str, total: int, unit: str = "step") -> "Iterator[tqdm[None]]":
    """A bar on stderr that shows up once the work has taken ``SHOW_AFTER`` seconds.

    Args:
        what: Its label.
        total: Updates that will come.
        unit: Of the updates.
    """
    with tqdm(total=total, desc=what, unit=unit, unit_scale=unit != "step", delay=SHOW_AFTER, mininterval=0.5) as bar:
        yield bar
