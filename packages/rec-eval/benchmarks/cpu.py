"""Time ranking and metrics on a CPU.

    OMP_WAIT_POLICY=passive nice python packages/rec-eval/benchmarks/cpu.py --threads 2 --out FILE.csv

Goals: 20,000 users x 54,000 items x 64 dimensions with k = 100 in 60 s; the metrics of a million lists of 100 in 10 s.
Wall time and processor time are both given: on a shared machine only the second says what the work costs, and only if
threads that wait do not spin (the policy above).
"""

import argparse
import csv
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rec_eval import LogCounts, evaluate, intervals, popularity_top_k, target_ranks, top_k


def matmul_topk(queries: torch.Tensor, items: torch.Tensor, k: int) -> None:
    """The usual way, 512 users at a time, without seen items."""
    for part in torch.split(queries, 512):
        (part @ items.T).topk(k, dim=1)


def jobs() -> dict[str, Callable[[], object]]:
    """What to time, by name."""
    generator = torch.Generator().manual_seed(0)
    users, items, dim, k = 20_000, 54_000, 64, 100
    queries, table = torch.randn(users, dim, generator=generator), torch.randn(items, dim, generator=generator)
    log = {
        "seen_offsets": torch.arange(0, users * 20 + 1, 20),
        "seen_items": torch.randint(0, items, (users * 20,), generator=generator, dtype=torch.int32),
    }
    targets = torch.randint(0, items, (users,), generator=generator)
    counts = torch.randint(0, 1000, (items,), generator=generator)
    numbers = np.random.default_rng(0)
    many, catalogue = 1_000_000, 200_003  # a prime number of items: any step gives lists without repeats
    first, step = numbers.integers(0, catalogue, (many, 1)), numbers.integers(1, catalogue, (many, 1))
    lists = ((first + step * np.arange(k)) % catalogue).astype(np.int64)
    one = lists[np.arange(many), numbers.integers(0, k, many)]
    five = (np.arange(0, many * 5 + 1, 5), numbers.integers(0, catalogue, many * 5))
    log_items = numbers.integers(0, catalogue, many * 20, dtype=np.int32)
    reference = LogCounts(numbers.integers(1, 5000, catalogue), many)
    ks = [1, 5, 10, 20, 100]
    result = evaluate(lists[:100_000], one[:100_000], ks, reference)
    return {
        "top_k 20k x 54k x 64, k 100, 20 seen": partial(top_k, queries, table, k, **log),
        "matmul + torch.topk, the same, none seen": partial(matmul_topk, queries, table, k),
        "target_ranks 20k x 54k x 64": partial(target_ranks, queries, table, targets, **log),
        "popularity_top_k 20k x 54k, k 100": partial(popularity_top_k, counts, k, **log),
        "reference of 1M users x 20 events": partial(
            LogCounts.from_logs, [(np.arange(0, many * 20 + 1, 20), log_items)], catalogue
        ),
        "evaluate 1M x 100, one relevant": partial(evaluate, lists, one, ks, reference),
        "evaluate 1M x 100, five relevant": partial(evaluate, lists, five, ks, reference),
        "intervals of 35 metrics, 100k users": partial(intervals, result),
    }


def main() -> None:
    """Run every job twice and keep the best."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name, run in jobs().items():
        best = (float("inf"), float("inf"))
        for _ in range(2):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            best = min(best, (time.perf_counter() - wall, time.process_time() - cpu))
        load = round(os.getloadavg()[0], 1)
        rows.append((name, options.threads, round(best[0], 2), round(best[1], 2), load, torch.__version__))
        print(f"{name:45s} {best[0]:7.2f} s wall {best[1]:7.2f} s of processors, machine's load {load}", flush=True)
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("job", "threads", "wall_s", "cpu_s", "load", "torch"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
