"""Time tile sizes and alternatives of the sampled loss.

    python packages/cce-kernels/benchmarks/tune_sampled.py [--dims 64 128 256] [--only none tile]
        [--dtype bfloat16 | float16 | float32] [--out DIR]

Prints every candidate of forward and backward at the shapes of the table, best first, and writes tune_sampled.csv
(tune_sampled_float32.csv and the like for another dtype of hidden; the table is fp32 in all). Times are replays of CUDA
graphs; backward is the time of both less that of forward. Enter the winners in cce_kernels/sampled/tuning.py, in the
table of the GPU and dtype. Kernels are compiled in parallel processes first; those only fill Triton's cache on disk.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from points import SHAPES
from timing import copy_ceiling, graph_ms, need_gpu

from cce_kernels import sampled_linear_cross_entropy
from cce_kernels.sampled import tuning
from cce_kernels.sampled.tuning import PerTokenTiles, SharedTiles

PER_TOKEN_FORWARD = [(8, 1, 1), (4, 1, 1), (16, 1, 1)]
PER_TOKEN_BACKWARD = [(4, 1, 1), (2, 1, 1), (8, 1, 1)]
SHARED_FORWARD = [
    (64, 32, 1, 4, 3), (64, 32, 1, 4, 2), (64, 32, 1, 4, 4), (64, 16, 1, 4, 3), (64, 64, 1, 4, 2), (64, 32, 1, 8, 2),
    (64, 32, 1, 8, 3), (64, 64, 1, 8, 3), (64, 128, 1, 8, 2), (32, 32, 1, 4, 2), (32, 32, 1, 4, 3), (32, 64, 1, 4, 2),
]  # fmt: skip
SHARED_BACKWARD: list[tuple[int, ...]] = [
    (64, 32, 8, 8, 2, 128), (64, 32, 4, 8, 2, 128), (64, 32, 16, 8, 3, 128),
    (64, 32, 4, 8, 2), (64, 32, 16, 8, 2), (64, 64, 8, 8, 2), (64, 64, 4, 8, 2), (64, 64, 8, 8, 1), (64, 32, 16, 8, 3),
    (64, 32, 8, 4, 2), (64, 32, 8, 4, 1), (64, 16, 8, 4, 2), (64, 16, 32, 4, 2), (64, 64, 16, 8, 2), (64, 64, 8, 8, 3),
]  # fmt: skip

# Three products for one, and rows twice as wide: smaller tiles.
SHARED_FORWARD_FP32 = [
    (16, 16, 1, 4, 1), (16, 16, 1, 8, 1), (16, 32, 1, 4, 1), (32, 16, 1, 4, 1), (32, 32, 1, 4, 1), (32, 32, 1, 8, 1),
    (64, 32, 1, 8, 1), (16, 16, 1, 4, 2), (32, 16, 1, 4, 2),
]  # fmt: skip
SHARED_BACKWARD_FP32 = [
    (16, 16, 4, 4, 1), (16, 16, 1, 4, 1), (16, 16, 4, 8, 1), (16, 16, 1, 8, 1), (16, 16, 8, 4, 1), (32, 16, 4, 4, 1),
    (32, 16, 8, 4, 1), (32, 32, 4, 4, 1), (32, 32, 4, 8, 1),
]  # fmt: skip
SHARED_TABLES = ("SHARED", "SHARED_SAFE", "SHARED_FP32", "SHARED_FP32_SAFE")


def candidates(kind: str, dtype: str) -> list[tuple[Any, Any]]:
    """Pairs (forward, backward): each forward with the first backward, then each backward with the first forward."""
    if kind == "none":
        forward, backward = (
            [PerTokenTiles(*x) for x in PER_TOKEN_FORWARD],
            [PerTokenTiles(*x) for x in PER_TOKEN_BACKWARD],
        )
    else:
        wide = dtype == "float32"
        forward = [SharedTiles(*x) for x in (SHARED_FORWARD_FP32 if wide else SHARED_FORWARD)]
        backward = [SharedTiles(*x) for x in (SHARED_BACKWARD_FP32 if wide else SHARED_BACKWARD)]
    return [(f, backward[0]) for f in forward] + [(forward[0], b) for b in backward[1:]]


def use(kind: str, pair: tuple[Any, Any]) -> None:
    """Make every lookup return these tiles, on any GPU and in any dtype."""
    tables: list[dict[int, Any]] = [tuning.PER_TOKEN] if kind == "none" else [getattr(tuning, x) for x in SHARED_TABLES]
    for table in tables:
        for dim in table:
            table[dim] = pair
    tuning.shared_tiles.cache_clear()


def problem(
    tokens: int, items: int, negatives: int, dim: int, kind: str, dtype: str, **options: Any
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Calls of forward, and of forward and backward, at one shape."""
    weight = torch.randn(items, dim, device="cuda").mul_(0.05).requires_grad_()
    counter = torch.tensor(1, device="cuda")
    hidden = torch.randn(tokens, dim, device="cuda", dtype=getattr(torch, dtype), requires_grad=True)
    targets = torch.randint(0, items, (tokens,), device="cuda")

    def forward() -> torch.Tensor:
        return sampled_linear_cross_entropy(
            hidden, weight, targets, num_negatives=negatives, seed=counter, step=counter, sharing=kind, **options
        )

    return forward, lambda: torch.autograd.grad(forward(), (hidden, weight))


def compile_only(work: tuple[str, int, int, tuple[Any, Any], str]) -> str | None:
    """Compile the kernels of a candidate; what failed, else None."""
    kind, dim, negatives, pair, dtype = work
    use(kind, pair)
    try:
        _, both = problem(256, 4096, negatives, dim, kind, dtype)
        both()
        torch.cuda.synchronize()
    except Exception as error:  # a candidate that needs too much shared memory is no candidate
        return f"{kind} D {dim} {pair}: {type(error).__name__}"
    return None


def main() -> None:
    """Compile, time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="+", default=[256])
    parser.add_argument("--only", nargs="+", default=["none", "tile"])
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16", help="of hidden")
    parser.add_argument("--shapes", nargs="+", default=["beauty", "ml20m"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    need_gpu()
    dtype = arguments.dtype
    work = [
        (kind, dim, negatives, pair, dtype)
        for kind in arguments.only
        for dim in arguments.dims
        for negatives in sorted({SHAPES[name][2] for name in arguments.shapes})
        for pair in candidates(kind, dtype)
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(14, os.cpu_count() or 1), mp_context=context) as pool:
        failed = {(*item[0:2], item[3]) for item, why in zip(work, pool.map(compile_only, work), strict=True) if why}
    ceiling = copy_ceiling()
    rows = []
    for name in arguments.shapes:
        tokens, items, negatives = SHAPES[name]
        for kind in arguments.only:
            for dim in arguments.dims:
                for pair in candidates(kind, dtype):
                    if (kind, dim, pair) in failed:
                        continue
                    use(kind, pair)
                    forward, both = problem(tokens, items, negatives, dim, kind, dtype)
                    forward_ms = graph_ms(forward)
                    rows.append(
                        {
                            "shape": name, "sharing": kind, "dim": dim, "forward": pair[0], "backward": pair[1],
                            "forward_ms": round(forward_ms, 3), "backward_ms": round(graph_ms(both) - forward_ms, 3),
                            "device": torch.cuda.get_device_name(), "copy_gb_s": round(ceiling),
                        }
                    )  # fmt: skip
                    del forward, both
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = "tune_sampled.csv" if dtype == "bfloat16" else f"tune_sampled_{dtype}.csv"
    with (arguments.out / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    for name in arguments.shapes:
        for kind in arguments.only:
            for side in ("forward", "backward"):
                print(f"{name} {kind} {side}, {dtype}, copy {ceiling:.0f} GB/s")
                mine = [row for row in rows if (row["shape"], row["sharing"]) == (name, kind)]
                best: dict[Any, float] = {}
                for row in mine:
                    key = (row["dim"], row[side])
                    best[key] = min(best.get(key, float("inf")), row[f"{side}_ms"])
                for (dim, tiles), time in sorted(best.items(), key=lambda entry: (entry[0][0], entry[1])):
                    print(f"  D {dim} {time:9.3f} ms  {str(tiles).split('Tiles')[1]}")


if __name__ == "__main__":
    main()
