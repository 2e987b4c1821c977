"""Ending a run that was asked to end: SIGTERM is answered between steps, and no child process is left behind."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

EXIT_STATUS = 128 + signal.SIGTERM  # of a process that SIGTERM ended


@contextmanager
def stop_on_sigterm(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Collect SIGTERM instead of dying; outside the main thread Python allows no handlers, and nothing changes.

    The children, processes that this one started, receive the signal too, and are killed if this process fails: they
    would wait for it forever.
    """
    received: list[int] = []  # an Event has a lock, which a second signal during the first would wait for

    def on_signal(signum: int, _: Any) -> None:
        received.append(signum)
        for child in children:
            child.send_signal(signum)

    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, on_signal) if in_main_thread else None
    try:
        yield received
    except BaseException:
        for child in children:
            child.kill()
        raise
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, previous)
