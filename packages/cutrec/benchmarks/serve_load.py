"""Time `cutrec serve`: one client in a closed loop, then requests at growing rates until their p99 doubles.

    python packages/cutrec/benchmarks/serve_load.py --folder FOLDER --out FILE.csv --items 10000 100000 1000000

Every row has a model of random vectors in clusters (`synthetic_model.py`), D 64, histories of 50 items and k 10, ranked
exactly or with an index. Models and indexes are kept in the folder, and rows that the file has are not measured again.
The client runs on the same cores as the server, so the times are those of both. Recall is the share of the items of
exact float32 lists that answers have; the exact mode is compared to them as well. `cpu_ms` is the processor time of the
server per request of the one client, all threads together.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from http_client import Connection, Served, serve
from synthetic_model import read_histories, write_model

K = 10
MODES = ("exact", "index")
COLUMNS = [
    "items", "mode", "p50_ms", "p99_ms", "requests_s", "cpu_ms", "doubled_at_s", "doubled_p99_ms", "mean_batch",
    "recall", "start_s", "memory_mib", "index_s", "index_mib", "seconds", "threads", "cpu", "torch", "usearch",
    "revision",
]  # fmt: skip
_GROWTH = 1.25
_MOST_CONNECTIONS = 200


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
        status, _ = await connection.post("/recommend", bodies[number % len(bodies)])
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


def growing(port: int, bodies: list[bytes], first: float, limit: float, seconds: float) -> tuple[float, float]:
    """The highest rate whose p99 stays below a limit, and that p99: the rate grows by a quarter until it does not."""
    rate, kept = first, (0.0, 0.0)
    while True:
        p99 = float(np.quantile(asyncio.run(open_loop(port, bodies, rate, seconds)), 0.99, method="higher"))
        print(f"  {rate:8.1f} requests/s: p99 {1000 * p99:7.2f} ms", flush=True)
        if p99 > limit:
            return kept
        kept, rate = (rate, p99), rate * _GROWTH


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


def recall(port: int, histories: list[list[int]], exact: list[list[int]]) -> float:
    """The share of the items of exact lists that the answers have."""

    async def answers() -> list[list[int]]:
        connection = Connection(port)
        found = [await connection.post("/recommend", body_of(history)) for history in histories]
        connection.close()
        return [json.loads(answer)["items"] for _, answer in found]

    hits = sum(len({*found} & {*right}) for found, right in zip(asyncio.run(answers()), exact, strict=True))
    return hits / sum(map(len, exact))


def body_of(history: list[int]) -> bytes:
    """A request for the list after a history."""
    return json.dumps({"history": history, "k": K}).encode()


def measure(folder: Path, items: int, mode: str, seconds: float) -> dict[str, Any]:
    """A row."""
    model, index = folder / f"model-{items}", folder / f"index-{items}"
    write_model(model, items)
    histories = read_histories(model)
    facts: dict[str, Any] = {}
    if mode == "index":
        if not (index / "index.json").is_file():
            command = [sys.executable, "-m", "cutrec.cli", "index", "--model", str(model), "--out", str(index)]
            subprocess.run(command, check=True)  # noqa: S603
        facts = json.loads((index / "index.json").read_text())
    options = ["--model", str(model.resolve()), "--device", "cpu"]
    options += ["--index", str(index.resolve())] if mode == "index" else []
    exact, start = exact_lists(model, histories[:200]), time.perf_counter()
    with serve(*options, log=folder / "serve.log") as served:
        started = time.perf_counter() - start
        bodies = [body_of(history) for history in histories]
        asyncio.run(closed_loop(served.port, bodies, min(2.0, seconds)))  # warm
        work = served.metric("process_cpu_seconds_total")
        times = asyncio.run(closed_loop(served.port, bodies, seconds))
        work = served.metric("process_cpu_seconds_total") - work
        p50, p99 = (float(value) for value in np.quantile(times, (0.5, 0.99)))
        print(f"{items} {mode}: p50 {1000 * p50:.2f} ms, p99 {1000 * p99:.2f} ms", flush=True)
        found = recall(served.port, histories[:200], exact)
        before = calls(served)
        doubled = growing(served.port, bodies, 0.05 / p50, 2 * p99, seconds / 2)
        batches = [now - then for now, then in zip(calls(served), before, strict=True)]
        return {
            "items": items,
            "mode": mode,
            "p50_ms": round(1000 * p50, 2),
            "p99_ms": round(1000 * p99, 2),
            "requests_s": round(len(times) / sum(times), 1),
            "cpu_ms": round(1000 * work / len(times), 2),
            "doubled_at_s": round(doubled[0], 1),
            "doubled_p99_ms": round(1000 * doubled[1], 2),
            "mean_batch": round(batches[0] / max(batches[1], 1), 2),
            "recall": round(found, 4),
            "start_s": round(started, 1),
            "memory_mib": round(served.metric("process_resident_memory_bytes") / 2**20),
            "index_s": facts.get("build_seconds", ""),
            "index_mib": round((index / "index.usearch").stat().st_size / 2**20) if facts else "",
            "seconds": seconds,
            **environment(),
        }


def calls(served: Served) -> tuple[float, float]:
    """Lists that were ranked, and calls that ranked them."""
    return served.metric("cutrec_batch_lists_sum"), served.metric("cutrec_batch_lists_count")


def environment() -> dict[str, Any]:
    """What the figures depend on beside the code."""
    import usearch

    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    revision = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return {
        "threads": torch.get_num_threads(),
        "cpu": names[0] if names else platform.processor(),
        "torch": torch.__version__,
        "usearch": usearch.__version__,
        "revision": revision.stdout.strip() or "unknown",
    }


def main() -> None:
    """Measure the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    if options.out.is_file():
        with options.out.open(newline="") as file:
            rows = list(csv.DictReader(file))
    for items in options.items:
        for mode in options.modes:
            if any((row["items"], row["mode"]) == (str(items), mode) for row in rows):
                continue
            rows.append(measure(options.folder, items, mode, options.seconds))
            with options.out.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
