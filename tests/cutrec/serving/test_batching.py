"""Requests that wait are answered together; a full queue, a late answer and a stop are said."""

import asyncio
import threading

import pytest

from cutrec.serving.batching import Batcher, OverloadedError
from cutrec.serving.limits import Limits
from cutrec.serving.schema import Similar

ONE = [Similar(items=[1])]


def asked(number: int, lists: int = 1) -> list[Similar]:
    return [Similar(items=[number * 100 + place]) for place in range(lists)]


class Held:
    """Answers with the items asked for, each call only after `released`."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.released = threading.Event()

    def answer(self, requests):
        self.calls.append(len(requests))
        assert self.released.wait(10)
        return [request.items[0] for request in requests]


def run(scenario, **limits: int) -> Held:
    held = Held()

    async def main() -> None:
        await scenario(Batcher(held.answer, Limits(**limits), lambda lists: None), held)

    asyncio.run(main())
    return held


async def started(batcher: Batcher, held: Held, *sizes: int) -> list[asyncio.Task]:
    """Requests of these numbers of lists, the first of which is being answered while the others wait."""
    tasks = []
    for number, lists in enumerate(sizes):
        tasks.append(asyncio.create_task(batcher.submit(asked(number, lists))))
        while not held.calls:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    return tasks


def test_what_gathers_during_a_call_is_answered_by_the_next_one_up_to_its_size():
    async def scenario(batcher: Batcher, held: Held) -> None:
        tasks = await started(batcher, held, 1, 2, 1, 1, 3, 9, 1)
        held.released.set()
        answers = await asyncio.gather(*tasks)
        assert answers == [
            [request.items[0] for request in asked(n, size)] for n, size in enumerate((1, 2, 1, 1, 3, 9, 1))
        ]
        assert batcher.waiting == 0

    assert run(scenario, max_lists=4).calls == [1, 4, 3, 9, 1]


def test_a_full_queue_refuses_and_takes_again_later():
    async def scenario(batcher: Batcher, held: Held) -> None:
        tasks = await started(batcher, held, 1, 2)
        with pytest.raises(OverloadedError, match="too many requests are waiting, at most 2 may"):
            await batcher.submit(ONE)
        held.released.set()
        await asyncio.gather(*tasks)
        assert await batcher.submit(ONE) == [1]

    run(scenario, max_waiting=2)


def test_an_answer_that_takes_too_long_is_given_up_and_the_others_are_answered():
    async def scenario(batcher: Batcher, held: Held) -> None:
        tasks = await started(batcher, held, 1, 2)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(one) for one in found] == ["no answer within 1 seconds"] * 2
        held.released.set()
        assert await batcher.submit(ONE) == [1]

    assert run(scenario, timeout=1).calls == [1, 1]  # nobody waited for the two lists


def test_a_stop_answers_what_waits_and_refuses_the_rest():
    async def scenario(batcher: Batcher, held: Held) -> None:
        tasks = await started(batcher, held, 1, 2, 1)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadedError, match="the server is stopping"):
            await batcher.submit(ONE)
        held.released.set()
        await closing
        assert [len(task.result()) for task in tasks] == [1, 2, 1]

    run(scenario)
    asyncio.run(Batcher(lambda requests: [], Limits(), lambda lists: None).close())
