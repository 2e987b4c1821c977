"""The folders that trainings resume from: used by one process at a time, and removed when they are old or complete."""

import itertools
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from rec_data.locks import is_locked, lock_file, locked

KEPT = 10
"""Interrupted trainings that are kept; the oldest ones beyond that are removed."""
KEPT_DAYS = 30
"""How long an interrupted training is kept after its last checkpoint."""
COMPLETE = "complete"
"""The empty file in the folder of a complete training."""
_NAME = re.compile(r"[0-9a-f]{16}(-refit-\d+)?")
"""Names of the folders, as of `cutrec.workflow.run_hash`; nothing else in the folder is ever removed."""


@contextmanager
def run_folder(checkpoints: Path, name: str) -> Iterator[Path]:
    """Yield the folder of a run's checkpoints, which no other process uses during the block.

    If the block fails, the next call resumes. If it ends, the run is complete, and the same run finds its model there
    until another training starts: DVC deletes the outputs of a stage that it could not record, because it was killed,
    because the disk was full or because another command held DVC's lock.
    """
    folder = checkpoints / name
    with locked(folder):
        expire(checkpoints, folder)
        if (folder / COMPLETE).exists():
            print(
                f"note: this training is complete, its model is taken (rm -r {folder} to train again)", file=sys.stderr
            )
        yield folder
        if folder.is_dir():
            (folder / COMPLETE).touch()


class _Interrupted(NamedTuple):
    """An interrupted training."""

    written: float
    """Unix seconds of its last checkpoint."""
    path: Path
    bytes: int


def expire(checkpoints: Path, own: Path) -> None:
    """Remove complete trainings, and interrupted ones by number and age; print one line if there were any of these.

    The own training, and those that other processes work on, are neither removed nor counted.
    """
    with locked(checkpoints / "expiry"):
        for file in checkpoints.glob(".*.lock"):  # removes those of killed processes
            is_locked(checkpoints / file.name.removeprefix(".").removesuffix(".lock"))
        names = (path for path in checkpoints.iterdir() if path != own and _NAME.fullmatch(path.name))
        idle = list(itertools.filterfalse(is_locked, names))
        complete = [path for path in idle if (path / COMPLETE).exists()]
        measured = (_measured(path) for path in idle if path not in complete)
        interrupted = sorted((each for each in measured if each is not None), reverse=True)
        oldest = time.time() - KEPT_DAYS * 86_400
        kept = [each for each in interrupted[:KEPT] if each.written >= oldest]
        for path in [*complete, *(each.path for each in interrupted[len(kept) :])]:
            lock = FileLock(lock_file(path))
            with suppress(Timeout), lock.acquire(blocking=False):  # unless it has just been started
                shutil.rmtree(path, ignore_errors=True)
                lock_file(path).unlink(missing_ok=True)
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
