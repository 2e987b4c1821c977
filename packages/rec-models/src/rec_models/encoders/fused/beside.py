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
    """Calls on a second stream while a CUDA graph is recorded, if that `pays`; anywhere else they run at once.

    What a call reads is kept until it has ended: the memory of a tensor that is freed on the first stream may be given
    out again there.
    """

    def __init__(self, device: torch.device, *, pays: bool) -> None:
        recorded = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        self._second = _stream(device.index or 0) if pays and recorded else None
        self._kept: list[tuple[Any, ...]] = []
        self._before: tuple[torch.cuda.Event, list[tuple[Any, ...]]] | None = None

    def run(self, call: Callable[..., _Found], *arguments: Any) -> _Found:
        """What the call returns; it may be read after `join`."""
        if self._second is None:
            return call(*arguments)
        self._second.wait_stream(torch.cuda.current_stream())
        self._kept.append(arguments)
        with torch.cuda.stream(self._second):
            return call(*arguments)

    def end_block(self) -> None:
        """Wait for the calls of the block before this one: the inputs of two blocks at most are kept."""
        if self._second is not None and self._kept:
            before, self._before = self._before, (self._second.record_event(), self._kept)
            self._kept = []
            if before is not None:
                torch.cuda.current_stream().wait_event(before[0])

    def join(self) -> None:
        """Wait for all calls; there was one."""
        if self._second is not None:
            torch.cuda.current_stream().wait_stream(self._second)
        self._kept, self._before = [], None
