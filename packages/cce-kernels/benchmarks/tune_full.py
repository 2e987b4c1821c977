"""Time tile sizes of the full loss.

    python packages/cce-kernels/benchmarks/tune_full.py [--dims 64 128 256] [--out DIR]

Prints, for each vector dimension, every candidate of forward and backward with its TFLOP/s and its share of the matmul
ceiling measured in the same process, best first, and writes tune_full.csv. Enter the winners in cce_kernels/tuning.py.
Kernels are compiled in parallel processes first; those only fill Triton's cache on disk.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from timing import matmul_ceiling, median_ms, need_gpu

from cce_kernels.kernels.full_backward import launch_backward
from cce_kernels.kernels.full_forward import launch_forward
from cce_kernels.kernels.full_state import BackwardState, ForwardState
from cce_kernels.tuning import FullTiles

# Candidates: (block_m, block_v, warps, stages, cap of registers a thread or None, by tensor descriptor).
FORWARD = {
    64: [
        (64, 128, 4, 3, None, True), (64, 128, 4, 4, None, True), (64, 128, 4, 2, None, True),
        (64, 64, 4, 4, 128, True), (64, 64, 4, 5, 128, True), (128, 64, 4, 3, None, False), (128, 64, 8, 4, 128, True),
        (64, 256, 4, 2, None, True),
    ],
    128: [
        (64, 64, 4, 5, None, True), (64, 64, 4, 4, None, True), (64, 64, 4, 3, None, True), (64, 128, 4, 3, None, True),
        (128, 64, 8, 3, 128, True), (64, 64, 4, 5, None, False),
    ],
    256: [
        (128, 64, 8, 3, None, True), (64, 64, 4, 2, None, True), (128, 64, 8, 3, None, False),
        (64, 32, 4, 3, None, True),
        (64, 32, 4, 4, None, True),
    ],
    320: [
        (128, 32, 8, 3, None, True), (128, 32, 8, 4, None, True), (64, 32, 4, 3, None, True),
        (64, 32, 4, 4, None, True),
        (64, 64, 4, 2, None, True), (128, 64, 8, 2, None, True), (128, 32, 8, 3, None, False),
    ],
    512: [(64, 64, 8, 2, None, True), (64, 32, 8, 3, None, True), (64, 32, 8, 4, None, True)],
}  # fmt: skip
BACKWARD = {
    64: [
        (128, 64, 4, 3, None, True), (128, 64, 4, 2, None, True), (128, 64, 4, 4, None, True),
        (64, 64, 4, 4, 128, True), (64, 64, 4, 5, 128, True), (128, 64, 4, 3, None, False), (256, 64, 4, 2, None, True),
        (128, 64, 4, 3, 152, True),
    ],
    128: [
        (128, 64, 4, 3, None, True), (128, 64, 4, 4, None, True), (64, 64, 4, 3, 168, True), (64, 64, 4, 4, 168, True),
        (32, 64, 4, 3, 128, True), (64, 64, 4, 3, 168, False),
    ],
    256: [
        (64, 128, 8, 3, None, True), (64, 64, 4, 2, None, True), (64, 128, 8, 4, None, True),
        (64, 128, 8, 4, None, False), (32, 64, 4, 4, None, True),
    ],
    320: [
        (32, 64, 4, 3, None, True), (32, 64, 4, 4, None, True), (32, 128, 8, 3, None, True),
        (32, 128, 8, 4, None, True),
        (64, 64, 4, 2, None, True), (64, 128, 8, 2, None, True), (32, 128, 8, 3, None, False),
    ],
    512: [(64, 64, 8, 2, None, True), (32, 64, 8, 3, None, True), (32, 64, 8, 4, None, True)],
}  # fmt: skip


def states(tokens: int, items: int, dim: int) -> tuple[ForwardState, BackwardState]:
    """Inputs with scores as at initialisation, on the GPU, in bf16."""
    hidden = (torch.randn(tokens, dim, device="cuda") * 0.5).bfloat16()
    weight = (torch.randn(items, dim, device="cuda") / dim**0.5).bfloat16()
    targets = torch.randint(0, items, (tokens,), device="cuda")
    one = torch.ones(1, device="cuda")
    vectors = [torch.empty(tokens, device="cuda") for _ in range(4)]
    forward = ForwardState(hidden, weight, None, targets, 1.0, *vectors, torch.empty_like(hidden), -100, None)
    backward = BackwardState(hidden, weight, None, targets, vectors[2], vectors[3], one, one, False, 0, None)
    return forward, backward


def compile_one(job: tuple[str, int, tuple[int, int, int, int, int | None, bool]]) -> str:
    """Fill the cache on disk for one candidate; the answer is an error message or nothing."""
    direction, dim, tiles = job
    forward, backward = states(16, 8192, dim)
    try:
        if direction == "forward":
            launch_forward(forward, FullTiles(*tiles), 1, None)
        else:
            launch_backward(backward, FullTiles(*tiles), 1, None)
        torch.cuda.synchronize()
    except Exception as error:
        return f"{direction} {dim} {tiles}: {type(error).__name__} {str(error)[:200]}"
    return ""


def main() -> None:
    """Compile, time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=sorted(FORWARD))
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--items", type=int, default=131072)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    need_gpu()
    jobs = [
        (direction, dim, tiles)
        for direction, table in (("forward", FORWARD), ("backward", BACKWARD))
        for dim in arguments.dims
        for tiles in table[dim]
    ]
    with ProcessPoolExecutor(
        min(12, os.cpu_count() or 1), mp_context=torch.multiprocessing.get_context("spawn")
    ) as pool:
        failed = {
            job for job, error in zip(jobs, pool.map(compile_one, jobs), strict=True) if error and print(error) is None
        }
    rows = []
    for dim, direction in itertools.product(arguments.dims, ("forward", "backward")):
        ceiling = matmul_ceiling()
        forward, backward = states(arguments.tokens, arguments.items, dim)
        launch_forward(forward, FullTiles(*FORWARD[dim][0]), 1, None)
        truth = None
        for tiles in (FORWARD if direction == "forward" else BACKWARD)[dim]:
            if (direction, dim, tiles) in failed:
                continue
            if direction == "forward":
                forward.dhidden.fill_(torch.nan)
                ms = median_ms(lambda t=tiles, s=forward: launch_forward(s, FullTiles(*t), 1, None))
            else:
                ms = median_ms(lambda t=tiles, s=backward: launch_backward(s, FullTiles(*t), 1, None))
            output = (
                forward.dhidden if direction == "forward" else launch_backward(backward, FullTiles(*tiles), 1, None)[0]
            )
            truth = output.float() if truth is None else truth
            difference = ((output.float() - truth).norm() / truth.norm()).item()
            tflops = 4 * arguments.tokens * arguments.items * dim / ms / 1e9
            rows.append([direction, dim, *tiles, round(ms, 3), round(tflops, 1), round(tflops / ceiling, 4)])
            rows[-1].append(f"{difference:.1e}")
    rows.sort(key=lambda row: (row[1], row[0], row[8]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    header = [
        "direction",
        "D",
        "block_m",
        "block_v",
        "warps",
        "stages",
        "registers",
        "tma",
        "ms",
        "tflops",
        "share_of_matmul",
    ]
    header.append("off_first")
    with (arguments.out / "tune_full.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    for row in [header, *rows]:
        print("  ".join(f"{cell!s:>9}" for cell in row))


if __name__ == "__main__":
    main()
