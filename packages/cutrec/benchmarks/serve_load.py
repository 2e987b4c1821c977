"""Time `cutrec serve`: one client in a closed loop, then requests at growing rates until their p99 doubles.

    python packages/cutrec/benchmarks/serve_load.py --folder FOLDER --out FILE.csv --items 10000 100000 1000000
    python packages/cutrec/benchmarks/serve_load.py --folder FOLDER --out FILE.csv --items 1000000 --modes exact \
        --device cuda --users 1 256 --closed

Every row has a model of random vectors in clusters (`synthetic_model.py`), D 64, histories of 50 items and k 10, ranked
exactly or with an index. Models and indexes are kept in the folder, and rows that the file has are not measured again.
The client runs on the same cores as the server, so the times are those of both. Recall is the share of the items of
exact float32 lists that answers have; the exact mode is compared to them as well. `cpu_ms` is the processor time of the
server per request of the one client, all threads together. A request asks for `users` lists. `gpu_mib` is what is taken
of the GPU's memory, by CUDA itself as well.

`lone_p99_ms` is the p99 of requests that arrive at random at a tenth of the closed loop's rate, and `doubled_at_s` the
highest rate at which it is at most twice that (`growing`; for `users` 1). A server that is mostly idle answers more
slowly than one that is always asked, so the p99 of the closed loop is no measure for it.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from http_client import Connection, Served, serve
from synthetic_model import read_histories, write_model

K = 10
MODES = ("exact", "index")
KEY = ("items", "mode", "device", "users")
"""The columns that say what a row measures."""
COLUMNS = [
    *KEY, "p50_ms", "p99_ms", "requests_s", "cpu_ms", "lone_p99_ms", "doubled_at_s", "doubled_p99_ms", "mean_batch",
    "recall", "start_s", "memory_mib", "gpu_mib", "index_s", "index_mib", "seconds", "threads", "cpu", "gpu", "torch",
    "usearch", "revision",
]  # fmt: skip
_GROWTH = 1.25
_MOST_CONNECTIONS = 200
_LEAST_REQUESTS = 200
"""At each rate: p99 is then at least the second largest time."""


async def closed_loop(port: int, bodies: list[bytes], seconds: float) -> list[float]:
    """The times in seconds of one client that asks again as soon as it has its answer."""
    connection, times = Connection(port), []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        status, answer = await connection.post("/recommend", bodies[len(times) % len(bodies)])
        times.append(time.perf_counter() - start)
        if status != 200:
            raise RuntimeError(f"status: found {status} ({answer.decode()}), allowed: 200")
    connection.close()
    return times


async def open_loop(port: int, bodies: list[bytes], rate: float, seconds: float) -> list[float]:
    """The times of requests that arrive at random, so many per second, whether or not others wait."""
    free: list[Connection] = []
    times: list[float] = []
    arrivals = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds)).cumsum()
    start = time.perf_counter()

    async def ask(number: int, arrival: float) -> None:
        connection = free.pop() if free else Connection(port)
        try:
            status, _ = await connection.post("/recommend", bodies[number % len(bodies)])
        except (OSError, asyncio.IncompleteReadError):
            status = 0
            connection.close()
        times.append(time.perf_counter() - start - arrival if status == 200 else np.inf)
        free.append(connection)

    tasks: set[asyncio.Task[None]] = set()
    for number, arrival in enumerate(arrivals):
        await asyncio.sleep(max(0.0, arrival - (time.perf_counter() - start)))
        if len(tasks) >= _MOST_CONNECTIONS:
            times.append(np.inf)  # it is far behind
            break
        task = asyncio.create_task(ask(number, arrival))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()
    return times


def growing(port: int, bodies: list[bytes], first: float, seconds: float) -> tuple[float, float, float]:
    """The p99 at a rate, the highest rate at which it is at most twice that, and the p99 there.

    The rate grows by a quarter. Of each p99 the lower one of two measurements counts, since one may be disturbed.
    """

    def p99_at(rate: float, limit: float) -> float:
        lowest = np.inf
        for _ in range(2):
            times = asyncio.run(open_loop(port, bodies, rate, max(seconds, _LEAST_REQUESTS / rate)))
            lowest = min(lowest, float(np.quantile(times, 0.99, method="higher")))
            print(f"  {rate:8.1f} requests/s: p99 {1000 * lowest:7.2f} ms", flush=True)
            if lowest <= limit:
                break
        return lowest

    lone = p99 = p99_at(first, 0.0)
    if not np.isfinite(lone):
        raise RuntimeError(f"status: found requests without an answer at {first:.1f} requests/s, allowed: 200")
    rate = first
    while p99 <= 2 * lone:
        kept, rate = (rate, p99), rate * _GROWTH
        p99 = p99_at(rate, 2 * lone)
    return lone, *kept


def exact_lists(folder: Path, histories: list[list[int]]) -> list[list[int]]:
    """The lists by float32 products of the whole item table."""
    from cutrec import Recommender
    from rec_eval import Catalogue, top_k
    from rec_models.inference import encode

    encoder = Recommender.load(folder, device="cpu").encoder
    queries = encode(encoder, histories)
    seen = torch.tensor([item for history in histories for item in history])
    offsets = torch.tensor([0, *(len(history) for history in histories)]).cumsum(0)
    found = top_k(queries, Catalogue(encoder.item_table), K, seen_offsets=offsets, seen_items=seen, impl="reference")
    lists: list[list[int]] = found.ids.tolist()
    return lists


def recall(port: int, histories: list[list[int]], users: int, exact: list[list[int]]) -> float:
    """The share of the items of exact lists that the answers have."""

    async def answers() -> list[list[int]]:
        connection = Connection(port)
        found = [await connection.post("/recommend", body) for body in bodies_of(histories, users)]
        connection.close()
        answers = [json.loads(answer) for _, answer in found]
        return [each["items"] for answer in answers for each in (answer if users > 1 else [answer])]

    hits = sum(len({*found} & {*right}) for found, right in zip(asyncio.run(answers()), exact, strict=True))
    return hits / sum(map(len, exact))


def bodies_of(histories: list[list[int]], users: int) -> list[bytes]:
    """Requests for the lists after histories, of so many users each."""
    asks = [{"history": history, "k": K} for history in histories]
    several = (asks[start : start + users] for start in range(0, len(asks), users))
    return [json.dumps(each if users > 1 else each[0]).encode() for each in several]


def measure(
    folder: Path, items: int, mode: str, device: str, numbers: Sequence[int], *, seconds: float, closed: bool
) -> Iterator[dict[str, Any]]:
    """A row for each number of lists per request, as soon as there is one; that of one list again with its rate."""
    model, index = folder / f"model-{items}", folder / f"index-{items}"
    write_model(model, items)
    histories = read_histories(model)
    facts: dict[str, Any] = {}
    if mode == "index":
        if not (index / "index.json").is_file():
            command = [sys.executable, "-m", "cutrec.cli", "index", "--model", str(model), "--out", str(index)]
            subprocess.run(command, check=True)  # noqa: S603
        facts = json.loads((index / "index.json").read_text())
    options = ["--model", str(model.resolve()), "--device", device]
    options += ["--index", str(index.resolve())] if mode == "index" else []
    compared = histories[: max(200, *numbers)]
    exact, start = exact_lists(model, compared), time.perf_counter()
    with serve(*options, log=folder / "serve.log") as served:
        started = time.perf_counter() - start
        for users in numbers:
            bodies = bodies_of(histories[: len(histories) // users * users], users)
            asyncio.run(closed_loop(served.port, bodies, min(2.0, seconds / 4)))  # warm
            work = served.metric("process_cpu_seconds_total")
            times = asyncio.run(closed_loop(served.port, bodies, seconds))
            work = served.metric("process_cpu_seconds_total") - work
            p50, p99 = (float(value) for value in np.quantile(times, (0.5, 0.99)))
            print(f"{items} {mode}, {users} users: p50 {1000 * p50:.2f} ms, p99 {1000 * p99:.2f} ms", flush=True)
            row: dict[str, Any] = {
                **dict(zip(KEY, (items, mode, device, users), strict=True)),
                "p50_ms": round(1000 * p50, 2),
                "p99_ms": round(1000 * p99, 2),
                "requests_s": round(len(times) / sum(times), 1),
                "cpu_ms": round(1000 * work / len(times), 2),
                "recall": round(recall(served.port, compared, users, exact), 4),
                "start_s": round(started, 1),
                "memory_mib": round(served.metric("process_resident_memory_bytes") / 2**20),
                "gpu_mib": gpu("memory.used", device).partition(" ")[0],
                "index_s": facts.get("build_seconds", ""),
                "index_mib": round((index / "index.usearch").stat().st_size / 2**20) if facts else "",
                "seconds": seconds,
                **environment(mode, device),
            }
            yield row
            if users > 1 or closed:
                continue
            before = calls(served)
            lone, rate, doubled = growing(served.port, bodies, 0.1 * row["requests_s"], seconds / 2)
            batches = [now - then for now, then in zip(calls(served), before, strict=True)]
            yield row | {
                "lone_p99_ms": round(1000 * lone, 2),
                "doubled_at_s": round(rate, 1),
                "doubled_p99_ms": round(1000 * doubled, 2),
                "mean_batch": round(batches[0] / batches[1], 2),
                "memory_mib": round(served.metric("process_resident_memory_bytes") / 2**20),
            }


def calls(served: Served) -> tuple[float, float]:
    """Lists that were ranked, and calls that ranked them."""
    return served.metric("cutrec_batch_lists_sum"), served.metric("cutrec_batch_lists_count")


def gpu(name: str, device: str) -> str:
    """What nvidia-smi says of the GPU; empty on a CPU."""
    if device == "cpu":
        return ""
    command = ["nvidia-smi", f"--query-gpu={name}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]  # noqa: S603


def environment(mode: str, device: str) -> dict[str, Any]:
    """What the figures depend on beside the code."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    revision = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return {
        "threads": torch.get_num_threads(),
        "cpu": names[0] if names else platform.processor(),
        "gpu": gpu("name", device),
        "torch": torch.__version__,
        "usearch": version("usearch") if mode == "index" else "",
        "revision": os.environ.get("REVISION") or revision.stdout.strip() or "unknown",
    }


def main() -> None:
    """Measure the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--users", type=int, nargs="+", default=[1], help="lists per request")
    parser.add_argument("--closed", action="store_true", help="only the closed loop")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    if options.out.is_file():
        with options.out.open(newline="") as file:
            rows = {key_of(row): row for row in csv.DictReader(file)}
    for items, mode in itertools.product(options.items, options.modes):
        missing = [users for users in options.users if (str(items), mode, options.device, str(users)) not in rows]
        measured = measure(
            options.folder, items, mode, options.device, missing, seconds=options.seconds, closed=options.closed
        )
        for row in measured if missing else ():
            rows[key_of(row)] = row
            with options.out.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows.values())
            print(row, flush=True)


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    """What a row measures."""
    return tuple(str(row[name]) for name in KEY)


if __name__ == "__main__":
    main()
