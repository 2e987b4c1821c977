"""Load with everything that goes wrong: reloads, clients that hang up, and bodies that are no requests.

    python packages/cutrec/benchmarks/serve_soak.py --folder FOLDER --minutes 10

Two models take turns in the served folder, at half of the time and whenever a tenth of it is over. Every answer is
compared with the list that `Recommender.recommend` gives for the model that the answer names. The summary is one JSON
object; the exit status is 1 if an answer was wrong or lost, if a body that is no request got another status than 4xx,
if a traceback was logged, if the memory grew by a tenth between a quarter of the time and its end (of five minutes or
more), or if the server did not stop with status 0 after it had answered what waited.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from http_client import Connection, Served, serve
from synthetic_model import read_histories, write_model

ASKS = 30
"""Different requests of each kind."""
_HANG_UP, _FUZZ = 0.05, 0.25
_MOST_GROWTH = 1.10

Expected = dict[tuple[int, str], tuple[list[Any], list[float]]]


def asks_of(histories: list[list[int]], num_items: int) -> list[dict[str, Any]]:
    """Requests of all kinds."""
    draw = random.Random(0)
    asks: list[dict[str, Any]] = []
    for history in histories[:ASKS]:
        others = draw.sample(range(num_items), 20)
        asks.append({"history": history, "k": draw.choice([1, 10, 50])})
        asks.append({"history": [str(item) for item in history[:5]] + ["none"], "filter_seen": False})
        asks.append({"history": history[:9], "exclude": others})
        asks.append({"history": history[:9], "candidates": others, "k": 15})
        asks.append({"history": [], "fallback": "popularity", "exclude": others})
    return asks


def offline(folder: Path, asks: list[dict[str, Any]]) -> tuple[str, list[tuple[list[Any], list[float]]]]:
    """The name of a model, and its lists for the requests: items and scores."""
    import warnings

    from cutrec import Recommender

    warnings.simplefilter("ignore")
    model, lists = Recommender.load(folder, device="cpu"), []
    for ask in asks:
        options = {name: value for name, value in ask.items() if name not in ("history", "exclude")}
        exclude = {0: ask["exclude"]} if "exclude" in ask else None
        found = model.recommend(histories=[ask["history"]], exclude=exclude, frame="pyarrow", **options)
        lists.append((found["item_id"].to_pylist(), found["score"].to_pylist()))
    return model.ranker.hash[:12], lists


def is_right(answer: dict[str, Any], expected: tuple[list[Any], list[float]], rounding: float) -> bool:
    """Whether an answer is the offline list. Items may have changed places whose scores differ by a rounding error."""
    items, scores = expected
    if answer["items"] == items:
        return True
    alike = zip(answer["scores"], scores, strict=False)
    return len(answer["items"]) == len(items) and all(abs(one - other) <= rounding for one, other in alike)


def broken_body(draw: random.Random, ask: dict[str, Any]) -> bytes:
    """A body that is no request, made of one that is."""
    bad: list[Any] = [None, -1, 1.5, True, {}, [[]], "\ud800", 10**30, float("nan"), "x" * 100, [None], {"a": [1]}]
    kind = draw.randrange(4)
    if kind == 0:
        whole = json.dumps(ask).encode()
        return whole[: draw.randrange(len(whole))]
    if kind == 1:
        return bytes(draw.randrange(256) for _ in range(draw.randrange(200)))
    if kind == 2:
        return json.dumps([ask, draw.choice(bad)]).encode()
    key = draw.choice(["history", "k", "filter_seen", "unknown"])
    ids = (-1, "x" * 100) if key == "history" else ()  # unknown items are no error
    value = draw.choice([item for item in bad if item is not None and item not in ids])
    return json.dumps(ask | {key: [value, value]}).encode()


class Soak:
    """Clients of a server for some time."""

    def __init__(self, served: Served, asks: list[dict[str, Any]], expected: Expected, minutes: float) -> None:
        self._served, self._asks, self._expected = served, asks, expected
        self._end = time.monotonic() + 60 * minutes
        scores = [score for _, scores in expected.values() for score in scores]
        self._rounding = 1e-5 * max(map(abs, scores))  # of sums whose terms are as large as the largest score
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def client(self, seed: int) -> None:
        """Ask, hang up now and then, and send nonsense now and then."""
        draw, connection = random.Random(seed), Connection(self._served.port)
        while time.monotonic() < self._end:
            number, chance = draw.randrange(len(self._asks)), draw.random()
            if chance < _HANG_UP:
                await connection.send("/recommend", json.dumps(self._asks[number]).encode())
                await asyncio.sleep(draw.random() * 0.01)
                connection.close()
                self.counts["hung up"] += 1
            elif chance < _FUZZ:
                path = draw.choice(["/recommend", "/similar"])
                status, answer = await connection.post(path, broken_body(draw, self._asks[number]))
                self._note(
                    "refused", 400 <= status < 500 and list(json.loads(answer)) == ["error"], f"{status} {answer!r}"
                )
            else:
                more = [draw.randrange(len(self._asks)) for _ in range(draw.choice([0, 0, 3]))]
                await self.ask(connection, [number, *more])
        connection.close()

    async def ask(self, connection: Connection, numbers: list[int]) -> None:
        """Some of the requests in one body."""
        asks = [self._asks[one] for one in numbers]
        try:
            status, text = await connection.post("/recommend", json.dumps(asks if len(asks) > 1 else asks[0]).encode())
        except (OSError, asyncio.IncompleteReadError) as error:
            connection.close()
            self._note("answered", False, f"lost: {error}")
            return
        if status != 200:
            self._note("answered", False, f"{status} {text.decode()}")
            return
        answers = json.loads(text)
        for one, answer in zip(numbers, answers if len(asks) > 1 else [answers], strict=True):
            right = is_right(answer, self._expected[one, answer["model"]], self._rounding)
            self._note("answered", right, f"{answer} for {self._asks[one]}")
            self.counts[f"by {answer['model']}"] += 1

    def _note(self, what: str, right: bool, text: str) -> None:
        self.counts[what] += 1
        if not right:
            self.wrong.append(text[:500])


async def stop(served: Served, soak: Soak, lists: int = 256) -> None:
    """Send SIGTERM while one large request is answered and two wait; all three must be answered."""
    for _ in range(50):
        connections = [Connection(served.port) for _ in range(3)]
        answers = [asyncio.create_task(soak.ask(connection, [0] * lists)) for connection in connections]
        while not any(answer.done() for answer in answers):
            waiting = await asyncio.to_thread(served.metric, "cutrec_waiting_lists")
            if waiting >= 2 * lists:
                served.process.send_signal(signal.SIGTERM)
                soak.counts["answered while stopping"] += 3
                break
        await asyncio.gather(*answers)
        if soak.counts["answered while stopping"]:
            return
    raise RuntimeError("SIGTERM: found no moment at which requests waited, allowed: a larger model (--items)")


async def run(served: Served, soak: Soak, folder: Path, minutes: float, clients: int) -> list[float]:
    """All clients, and reloads; returns the memory in MiB at a quarter of the time and at its end."""
    memory: list[float] = []

    async def reload() -> None:
        for turn in range(1, 10):
            await asyncio.sleep(6 * minutes)
            link = folder / "next"
            link.symlink_to(f"model-{turn % 2}")
            link.replace(folder / "served")
            served.process.send_signal(signal.SIGHUP)
            if turn in (3, 9):
                found = await asyncio.to_thread(served.metric, "process_resident_memory_bytes")
                memory.append(found / 2**20)

    await asyncio.gather(reload(), *(soak.client(seed) for seed in range(clients)))
    await stop(served, soak)
    return memory


def main() -> None:
    """Make two models, serve, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--items", type=int, default=70_000)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    folder = options.folder.resolve()
    for number in (0, 1):
        write_model(folder / f"model-{number}", options.items, users=500, seed=number)
    asks = asks_of(read_histories(folder / "model-0"), options.items)
    expected: Expected = {}
    for number in (0, 1):
        name, lists = offline(folder / f"model-{number}", asks)
        expected |= {(place, name): one for place, one in enumerate(lists)}
    (folder / "served").unlink(missing_ok=True)
    (folder / "served").symlink_to("model-0")
    log = folder / "serve.log"
    with serve("--model", str(folder / "served"), "--device", "cpu", log=log) as served:
        soak = Soak(served, asks, expected, options.minutes)
        memory = asyncio.run(run(served, soak, folder, options.minutes, options.clients))
    events = [json.loads(line) for line in log.read_text().splitlines()]
    reloads = Counter(event["event"] for event in events if "reload" in event["event"])
    tracebacks = sum("exception" in event for event in events)
    grown = memory[1] / memory[0]
    summary = {**soak.counts, **reloads, "wrong or lost": len(soak.wrong), "tracebacks": tracebacks}
    print(json.dumps(summary | {"memory_mib": [round(one) for one in memory], "minutes": options.minutes}))
    for line in soak.wrong[:5]:
        print(line, file=sys.stderr)
    long = options.minutes >= 5
    if soak.wrong or tracebacks or reloads["reload failed"] or (long and grown > _MOST_GROWTH):
        sys.exit(1)


if __name__ == "__main__":
    main()
