"""Locks between processes: one at a time works on a file or a folder, and the others wait."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from rec_data.errors import writing


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder during the block; a process that has to wait says in one line for whom.

    The lock is the file ``.<name>.lock`` beside it, which is removed at the end. If the process is killed, the
    operating system releases the lock, and the next process removes the file.

    Raises:
        DataError: The lock file cannot be created, for example on a read-only file system.
    """
    file = lock_file(path)
    lock = FileLock(file)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            holder = ""
            with suppress(FileNotFoundError):  # released since
                holder = file.read_text(errors="replace")
            sys.stderr.write(f"note: waiting for {holder or 'another process'}, which works on {path}\n")
            sys.stderr.flush()
            lock.acquire()
    native = isinstance(lock, FileLock)  # where there is no flock, filelock makes it a lock that owns its file
    try:
        if native:
            with suppress(OSError):  # the disk may be full; the name only informs those who wait
                file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        if native:
            file.unlink(missing_ok=True)  # while it is held: whoever opened it meanwhile sees that and opens a new one
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file or folder; the lock file of a killed one is removed."""
    file = lock_file(path)
    if not file.exists():
        return False
    try:
        with FileLock(file).acquire(blocking=False):
            file.unlink(missing_ok=True)
    except Timeout:
        return True
    return False


def lock_file(path: Path) -> Path:
    """The file that is locked while a process works on a file or folder."""
    return path.parent / f".{path.name}.lock"
