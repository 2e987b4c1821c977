"""The folders that interrupted trainings resume from: used by one process at a time, and removed when they are old."""

import itertools
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from rec_data.locks import is_locked, lock_file, locked

KEPT = 10
"""Interrupted trainings that are kept; the oldest ones beyond that are removed."""
KEPT_DAYS = 30
"""How long an interrupted training is kept after its last checkpoint."""
_NAME = re.compile(r"[0-9a-f]{16}(-refit-\d+)?")
"""Names of the folders, as of `cutrec.workflow.run_hash`; nothing else in the folder is ever removed."""


@contextmanager
def run_folder(checkpoints: Path, name: str) -> Iterator[Path]:
    """Yield the folder of a run's checkpoints, which no other process uses during the block.

    When the block ends the run is complete and the folder is removed; if it fails, the next call resumes. A process
    that waits to train the same gets the folder as well: it finds a complete training there and takes its model.
    """
    folder, next_in_line = checkpoints / name, checkpoints / f"{name}.next-in-line"
    with ExitStack() as running:
        with locked(next_in_line):  # held by the process that gets the folder next, while it waits
            running.enter_context(locked(folder))
        expire(checkpoints, folder)
        yield folder
        if not is_locked(next_in_line):
            shutil.rmtree(folder, ignore_errors=True)


class _Interrupted(NamedTuple):
    """An interrupted training."""

    written: float
    """Unix seconds of its last checkpoint."""
    path: Path
    bytes: int


def expire(checkpoints: Path, own: Path) -> None:
    """Remove interrupted trainings by number and age, and print one line if there were any.

    The own training, and those that other processes work on, are neither removed nor counted.
    """
    with locked(checkpoints / "expiry"):
        for file in checkpoints.glob(".*.lock"):  # removes those of killed processes
            is_locked(checkpoints / file.name.removeprefix(".").removesuffix(".lock"))
        names = (path for path in checkpoints.iterdir() if path != own and _NAME.fullmatch(path.name))
        measured = map(_measured, itertools.filterfalse(is_locked, names))
        interrupted = sorted((each for each in measured if each is not None), reverse=True)
        oldest = time.time() - KEPT_DAYS * 86_400
        kept = [each for each in interrupted[:KEPT] if each.written >= oldest]
        for each in interrupted[len(kept) :]:
            lock = FileLock(lock_file(each.path))
            with suppress(Timeout), lock.acquire(blocking=False):  # unless it has just been started
                shutil.rmtree(each.path, ignore_errors=True)
                lock_file(each.path).unlink(missing_ok=True)
    if interrupted:
        gib = sum(each.bytes for each in kept) / 1024**3
        since = f", the oldest of {datetime.fromtimestamp(kept[-1].written, UTC):%Y-%m-%d}" if kept else ""
        text = f"{checkpoints} holds {len(kept)} interrupted trainings ({gib:.2f} GiB{since})"
        print(f"note: {text}; {len(interrupted) - len(kept)} expired ones were removed", file=sys.stderr)


def _measured(path: Path) -> _Interrupted | None:
    """What an interrupted training keeps; None if another process has just ended it."""
    try:
        states = [file.stat() for file in path.iterdir()]
    except FileNotFoundError:
        return None
    written = max((state.st_mtime for state in states), default=path.stat().st_mtime)
    return _Interrupted(written, path, sum(state.st_size for state in states))
