"""Requests that wait at the same moment are answered in one call, in a thread of its own.

A call takes all that has gathered while the last one ran, up to a number of lists. An idle server therefore answers
at once, and a busy one works on larger and larger batches; nobody waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from cutrec.serving.limits import Limits
from cutrec.serving.schema import Recommend, Similar

Request = Recommend | Similar


class OverloadedError(Exception):
    """The server has too much to do, or is stopping; its text is one sentence."""


class _Waiting(NamedTuple):
    requests: Sequence[Request]
    answers: asyncio.Future[list[Any]]


class Batcher:
    """A queue and the thread that answers.

    Args:
        answer: answers some requests, with as many results; an exception takes the place of a result.
        limits: `max_lists` at a time, at most `max_waiting` in the queue, `timeout` seconds.
        observe: is told the number of requests of each call.
    """

    def __init__(
        self, answer: Callable[[Sequence[Request]], list[Any]], limits: Limits, observe: Callable[[int], object]
    ) -> None:
        self._answer, self._limits, self._observe = answer, limits, observe
        self._queue: deque[_Waiting] = deque()
        self._filled = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "ranking")
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.waiting = 0
        """Requests in the queue."""

    async def submit(self, requests: Sequence[Request]) -> list[Any]:
        """Wait for the answers to some requests, which are answered in one call.

        Raises:
            OverloadedError: the queue is full, the time is over, or the server is stopping.
        """
        if self._closing:
            raise OverloadedError("the server is stopping")
        if self.waiting + len(requests) > self._limits.max_waiting:
            raise OverloadedError(f"too many requests are waiting, at most {self._limits.max_waiting} may")
        self._task = self._task or asyncio.create_task(self._run())
        mine = _Waiting(requests, asyncio.get_running_loop().create_future())
        self._queue.append(mine)
        self.waiting += len(requests)
        self._filled.set()
        try:
            async with asyncio.timeout(self._limits.timeout):
                return await mine.answers
        except TimeoutError:
            raise OverloadedError(f"no answer within {self._limits.timeout} seconds") from None

    async def close(self) -> None:
        """Answer what is in the queue, then stop."""
        self._closing = True
        self._filled.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue or not self._closing:
            self._filled.clear()
            batch = self._take()
            if not batch:
                if not self._closing:
                    await self._filled.wait()
                continue
            requests = [request for one in batch for request in one.requests]
            self._observe(len(requests))
            try:
                found = await loop.run_in_executor(self._thread, self._answer, requests)
            except Exception as error:
                found = [error] * len(requests)
            for one in batch:
                answers, found = found[: len(one.requests)], found[len(one.requests) :]
                with suppress(asyncio.InvalidStateError):  # the client's time was over meanwhile
                    one.answers.set_result(answers)

    def _take(self) -> list[_Waiting]:
        """The oldest requests of the queue that are still waited for: one, or more up to the limit."""
        batch: list[_Waiting] = []
        size = 0
        while self._queue and (not batch or size + len(self._queue[0].requests) <= self._limits.max_lists):
            one = self._queue.popleft()
            self.waiting -= len(one.requests)
            if not one.answers.done():
                batch.append(one)
                size += len(one.requests)
        return batch
