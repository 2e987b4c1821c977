"""Time small calls of the full loss from Python, forward + backward, beside eager torch: results/h200_small_calls.csv.

    python packages/cce-kernels/benchmarks/small_calls.py [--out DIR]

A call waits for its result. All ways take turns, because a host's speed varies by a third from one second to the next;
rows hold the median of 50 turns. The geometric means over the sizes are printed. Eager torch rounds scores and loss to
16 bits, and a target out of range ends its process; `eager in fp32` puts both right, as this package does.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rows import environment
from timing import need_gpu
from torch import Tensor
from torch.nn import functional

from cce_kernels import linear_cross_entropy

TOKENS, ITEMS, DIMS = (1, 16, 128, 777, 4096), (1000, 3706, 14_000, 176_000), (64, 256)
TURNS = 50
COLUMNS = ("revision", "way", "tokens", "items", "dim", "metric", "value")
Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def eager(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The usual way."""
    return functional.cross_entropy(hidden @ weight.T, targets)


def eager_in_fp32(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same with a softmax in fp32, and NaN for a target out of range."""
    known = (targets >= 0) & (targets < len(weight))
    losses = functional.cross_entropy((hidden @ weight.T).float(), torch.where(known, targets, 0), reduction="none")
    return torch.where(known, losses, float("nan")).mean()


WAYS: dict[str, Way] = {
    "auto": linear_cross_entropy,
    "fused": partial(linear_cross_entropy, impl="triton"),
    "eager": eager,
    "eager in fp32, NaN for a target out of range": eager_in_fp32,
}


def medians(tokens: int, items: int, dim: int) -> dict[str, float]:
    """Milliseconds of each way at one size."""
    hidden, weight = (torch.randn(n, dim, device="cuda").bfloat16().requires_grad_() for n in (tokens, items))
    targets = torch.randint(0, items, (tokens,), device="cuda")
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(-5, TURNS):
        for name, way in WAYS.items():
            torch.cuda.synchronize()
            begun = time.perf_counter()
            torch.autograd.grad(way(hidden, weight, targets), (hidden, weight))
            torch.cuda.synchronize()
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    need_gpu()
    revision = environment()["revision"]
    found: dict[tuple[str, str], list[float]] = {}
    path = arguments.out / "h200_small_calls.csv"
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        for dim in DIMS:
            for items in ITEMS:
                for tokens in TOKENS:
                    size = "up to 2^24 pairs" if tokens * items <= 1 << 24 else "larger"
                    for name, ms in medians(tokens, items, dim).items():
                        writer.writerow((revision, name, tokens, items, dim, "python ms", f"{ms:.4f}"))
                        found.setdefault((size, name), []).append(ms)
    for (size, name), values in found.items():
        print(f"{size:18} {name:46} {statistics.geometric_mean(values):.3f} ms, {len(values)} sizes")


if __name__ == "__main__":
    main()
