"""Time tile sizes of the full loss.

    python packages/cce-kernels/benchmarks/tune_full.py [--dims 64 128 256] [--dtype float32] [--out DIR]

Prints, for each vector dimension, every candidate of forward and backward with its TFLOP/s and its share of the matmul
ceiling measured in the same process, best first, and writes tune_full.csv. Enter the winners in
cce_kernels/full/tuning.py.
Kernels are compiled in parallel processes first; those only fill Triton's cache on disk.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import matmul_ceiling, median_ms, need_gpu

from cce_kernels.full.call import FullCall
from cce_kernels.full.kernels.backward import launch_backward
from cce_kernels.full.kernels.forward import launch_forward
from cce_kernels.full.kernels.state import FullOutputs
from cce_kernels.full.tuning import FullTiles

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
        (128, 64, 4, 3, 168, True), (128, 64, 4, 3, 152, True),
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
# fp32: products of parts; no cap of registers, never by tensor descriptor.
FORWARD_FP32 = {
    64: [(128, 64, 8, 2), (64, 64, 4, 2), (64, 64, 4, 1), (128, 64, 8, 1), (64, 128, 4, 1), (64, 32, 4, 2)],
    128: [(128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 4, 2), (64, 64, 4, 1), (64, 32, 4, 2), (128, 64, 8, 1)],
    256: [(64, 64, 4, 1), (64, 32, 4, 2), (64, 32, 4, 1), (128, 16, 8, 1), (64, 16, 4, 2), (64, 64, 8, 1)],
}
BACKWARD_FP32 = {
    dim: [(streamed, held, *rest) for held, streamed, *rest in tiles] for dim, tiles in FORWARD_FP32.items()
}


def candidates(dtype: str) -> dict[str, dict[int, list[tuple[Any, ...]]]]:
    """Tiles to try, by direction and vector dimension."""
    if dtype == "float32":
        return {
            direction: {dim: [(*tiles, None, False) for tiles in table[dim]] for dim in table}
            for direction, table in (("forward", FORWARD_FP32), ("backward", BACKWARD_FP32))
        }
    return {"forward": FORWARD, "backward": BACKWARD}


def inputs(tokens: int, items: int, dim: int, dtype: str) -> tuple[FullCall, FullOutputs]:
    """A call with scores as at initialisation, and room for its outputs, on the GPU."""
    hidden = (torch.randn(tokens, dim, device="cuda") * 0.5).to(getattr(torch, dtype))
    weight = (torch.randn(items, dim, device="cuda") / dim**0.5).to(hidden.dtype)
    targets = torch.randint(0, items, (tokens,), device="cuda")
    loss, lse, lse2, others = (torch.empty(tokens, device="cuda") for _ in range(4))
    call = FullCall(hidden, weight, None, targets, -100, None, 1.0, None, True)
    return call, FullOutputs(loss, lse, None, lse2, others, torch.empty_like(hidden))


def forward(call: FullCall, outputs: FullOutputs, tiles: tuple[Any, ...]) -> Any:
    """Launch a candidate of the forward."""
    launch_forward(call, outputs, FullTiles(*tiles), 1)
    return outputs.dhidden


def backward(call: FullCall, outputs: FullOutputs, tiles: tuple[Any, ...]) -> Any:
    """Launch a candidate of the backward, whose upstream gradient is 1 for all tokens."""
    one = torch.ones((), device="cuda")
    return launch_backward(call, outputs.lse2, outputs.others, one, FullTiles(*tiles), 1)[0]


LAUNCH = {"forward": forward, "backward": backward}


def compile_one(job: tuple[str, str, int, tuple[Any, ...]]) -> str:
    """Fill the cache on disk for one candidate; the answer is an error message or nothing."""
    dtype, direction, dim, tiles = job
    call, outputs = inputs(16, 8192, dim, dtype)
    try:
        LAUNCH[direction](call, outputs, tiles)
        torch.cuda.synchronize()
    except Exception as error:
        return f"{direction} {dim} {tiles}: {type(error).__name__} {str(error)[:200]}"
    return ""


def main() -> None:
    """Compile, time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", help="all that there are candidates for")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--items", type=int, default=131072)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    need_gpu()
    dtype, tried = arguments.dtype, candidates(arguments.dtype)
    dims = arguments.dims or sorted(tried["forward"])
    if unknown := set(dims) - set(tried["forward"]):
        parser.error(f"--dims: found {sorted(unknown)}, allowed with {dtype}: {sorted(tried['forward'])}")
    jobs = [(dtype, direction, dim, tiles) for direction in tried for dim in dims for tiles in tried[direction][dim]]
    with ProcessPoolExecutor(
        min(12, os.cpu_count() or 1), mp_context=torch.multiprocessing.get_context("spawn")
    ) as pool:
        failed = {
            job for job, error in zip(jobs, pool.map(compile_one, jobs), strict=True) if error and print(error) is None
        }
    rows = []
    for dim, direction in itertools.product(dims, tried):
        ceiling = matmul_ceiling(getattr(torch, dtype))
        call, outputs = inputs(arguments.tokens, arguments.items, dim, dtype)
        forward(call, outputs, tried["forward"][dim][0])
        truth = None
        for tiles in tried[direction][dim]:
            if (dtype, direction, dim, tiles) in failed:
                continue
            if direction == "forward":
                outputs.dhidden.fill_(torch.nan)
            run = partial(LAUNCH[direction], call, outputs, tiles)
            ms, output = median_ms(run), run()
            truth = output.float() if truth is None else truth
            difference = ((output.float() - truth).norm() / truth.norm()).item()
            tflops = 4 * arguments.tokens * arguments.items * dim / ms / 1e9
            rows.append([dtype, direction, dim, *tiles, round(ms, 3), round(tflops, 1), round(tflops / ceiling, 4)])
            rows[-1].append(f"{difference:.1e}")
    rows.sort(key=lambda row: (row[2], row[1], row[9]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    header = [
        "dtype",
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
