"""Ending a run that was asked to end: SIGTERM is answered between steps, and no child process is left behind."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class StopRequest:
    """Whether SIGTERM arrived; the training loop looks at it between optimizer steps."""

    def __init__(self) -> None:
        self.received = False

    def exit(self) -> NoReturn:
        """End the process as the signal would have ended it.

        Raises:
            SystemExit: always, with the exit status of a process that SIGTERM ended.
        """
        raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def stop_on_sigterm(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[StopRequest]:
    """Turn SIGTERM into a request; outside the main thread, where Python allows no handlers, it keeps its meaning.

    Args:
        children: processes that this one started. They receive the signal too, and are killed if this process fails:
            they would wait for it forever.
    """
    request = StopRequest()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        request.received = True
        for child in children:
            child.send_signal(signum)

    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, on_signal) if in_main_thread else None
    try:
        yield request
    except BaseException:
        for child in children:
            child.kill()
        raise
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, previous)
