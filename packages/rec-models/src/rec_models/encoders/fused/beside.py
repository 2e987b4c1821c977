"""Work beside the path that a recorded step waits for: a second stream fills what the first leaves idle."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import torch

_Found = TypeVar("_Found")


@lru_cache
def _stream(index: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(index)


class Beside:
    """Calls on a second stream while a CUDA graph is recorded; anywhere else they run where they stand.

    One call is under way at a time. What it reads is kept until it has ended: the memory of a tensor that is freed on
    the first stream may be given out again there.
    """

    def __init__(self, device: torch.device) -> None:
        recorded = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        self._second = _stream(device.index or 0) if recorded else None
        self._kept: tuple[Any, ...] = ()

    def run(self, call: Callable[..., _Found], *arguments: Any) -> _Found:
        """What the call returns; it may be read after `join`, or after the next call."""
        if self._second is None:
            return call(*arguments)
        self.join()
        self._second.wait_stream(torch.cuda.current_stream())
        self._kept = arguments
        with torch.cuda.stream(self._second):
            return call(*arguments)

    def join(self) -> None:
        """Wait for the last call."""
        if self._second is not None:
            torch.cuda.current_stream().wait_stream(self._second)
        self._kept = ()
