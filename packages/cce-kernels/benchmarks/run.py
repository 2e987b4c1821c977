"""Measure the losses of this package and their peers on one GPU.

    python packages/cce-kernels/benchmarks/run.py [--operations full sampled] [--points beauty d64 ...] [--out DIR]

Prints a table, writes results/losses.csv, and renders results/losses.md and results/losses.png from it (render.py).
The git revision is read from the environment variable REVISION, or asked from git.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import triton
from losses import available, wanted
from points import FULL, SAMPLED, Inputs, Point, make_inputs, true_gradients
from render import render
from timing import copy_ceiling, matmul_ceiling, median_ms, peak_extra_bytes


@dataclass(frozen=True)
class Row:
    """One measurement; the schema of losses.csv."""

    gpu: str
    driver: str
    torch: str
    triton: str
    revision: str
    op: str
    variant: str
    point: str
    scores: str
    M: int
    V: int
    D: int
    N: int
    dtype: str
    weight_dtype: str
    forward_ms: float | None
    backward_ms: float | None
    both_ms: float | None
    ceiling: str  # matmul TFLOP/s or copy GB/s, measured just before
    share_of_ceiling: float | None  # least time that the ceiling allows over the time of both
    peak_extra_mib: float | None  # beyond the inputs; dW and dH count
    dhidden_error: float | None  # relative, against float64
    dweight_error: float | None
    note: str = ""


def environment() -> dict[str, str]:
    """Who measured: the columns that all rows share."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpu, driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].split(", ")  # noqa: S603
    revision = os.environ.get("REVISION") or subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    return {
        "gpu": gpu, "driver": driver, "torch": torch.__version__, "triton": triton.__version__, "revision": revision,
    }  # fmt: skip


def least_ms(operation: str, variant: str, point: Point, matmul: float, copy: float) -> tuple[float, str]:
    """Least time that the ceiling allows, and the ceiling in words.

    Full: 8 M V D FLOPs. Sampled: every gathered row read once in forward, and its fp32 gradient read and written once
    in backward; a tile of 64 tokens gathers once.
    """
    if operation == "full":
        return point.flops / matmul / 1e9, f"{matmul:.0f} TFLOP/s"
    rows = point.tokens * point.negatives / (64 if "tile" in variant else 1)
    return rows * point.dim * (2 + 8) / copy / 1e6, f"{copy:.0f} GB/s"


def measure(
    operation: str, variant: str, point: Point, inputs: Inputs, truth: object, matmul: float, who: dict[str, str]
) -> Row:
    """Time, memory and error of one loss at one point; what fails becomes a note."""
    loss = available()[operation][variant]
    leaves = (inputs.hidden, inputs.weight)
    numbers: dict[str, float | None] = dict.fromkeys(
        ("forward_ms", "backward_ms", "both_ms", "share_of_ceiling", "peak_extra_mib", "dhidden_error", "dweight_error")
    )
    least, ceiling = least_ms(operation, variant, point, matmul, copy_ceiling())
    note = ""
    try:
        both = median_ms(lambda: torch.autograd.grad(loss(inputs, point), leaves))
        forward = median_ms(lambda: loss(inputs, point))
        numbers |= {"both_ms": both, "forward_ms": forward, "backward_ms": both - forward}
        numbers["share_of_ceiling"] = least / both
        numbers["peak_extra_mib"] = peak_extra_bytes(lambda: torch.autograd.grad(loss(inputs, point), leaves)) / 2**20
        if truth is not None:
            gradients = torch.autograd.grad(loss(inputs, point), leaves)
            for name, got, true in zip(("dhidden_error", "dweight_error"), gradients, truth, strict=True):
                numbers[name] = ((got.double() - true).norm() / true.norm()).item()
    except Exception as error:
        note = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        torch.cuda.empty_cache()
    fields = asdict(point)
    return Row(
        **who, op=operation, variant=variant, point=point.name, scores=point.scores, M=point.tokens, V=point.items,
        D=point.dim, N=point.negatives, dtype=point.dtype, weight_dtype=fields["weight_dtype"], ceiling=ceiling,
        note=note, **numbers,
    )  # fmt: skip


def cells(row: Row) -> dict[str, object]:
    """Return a row of the CSV."""
    return {name: f"{x:.6g}" if isinstance(x, float) else x for name, x in asdict(row).items()}


def show(row: Row) -> str:
    """Return a line of the log: everything but the columns that all rows share."""
    return "  ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in list(asdict(row).values())[5:])


def smaller(point: Point) -> Point:
    """Shrink a big table to one that is compiled for alike: Triton looks at the remainder by 16."""
    return point if point.items < 500_000 else replace(point, items=131_072 + point.items % 16)


def compile_one(job: tuple[str, str, Point]) -> None:
    """Fill Triton's cache on disk for one loss at one point, in a process of its own."""
    operation, variant, point = job
    try:
        inputs = make_inputs(point)
        torch.autograd.grad(available()[operation][variant](inputs, point), (inputs.hidden, inputs.weight))
        torch.cuda.synchronize()
    except Exception as error:
        print(f"compiling {operation} {variant} {point.name}: {type(error).__name__} {str(error)[:200]}")


def main() -> None:
    """Compile side by side, measure one after the other, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", nargs="+", choices=["full", "sampled"], default=["full", "sampled"])
    parser.add_argument("--points", nargs="+", help="names of points; all by default")
    parser.add_argument("--variants", nargs="+", help="names of variants; all by default")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no point after this many seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    started = time.perf_counter()
    jobs = [
        (operation, variant, point)
        for operation in arguments.operations
        for point in {"full": FULL, "sampled": SAMPLED}[operation]
        for variant in available()[operation]
        if wanted(operation, variant, point)
        and (not arguments.points or point.name in arguments.points)
        and (not arguments.variants or variant in arguments.variants)
    ]
    context = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(12, os.cpu_count() or 1), mp_context=context) as pool:
        list(pool.map(compile_one, [(*job[:2], smaller(job[2])) for job in jobs if job[1] != "eager torch"]))
    print(f"compiled in {time.perf_counter() - started:.0f} s", flush=True)
    who = environment()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    path = arguments.out / "losses.csv"
    for point in dict.fromkeys(job[2] for job in jobs):
        if time.perf_counter() - started > arguments.seconds:
            print(f"out of time before {point.name}")
            break
        matmul = matmul_ceiling(getattr(torch, point.dtype))
        inputs = make_inputs(point)
        small = point.negatives == 0 and point.tokens * point.items < 6e9
        truth = true_gradients(inputs) if small else None
        for operation, variant, _ in (job for job in jobs if job[2] == point):
            rows.append(measure(operation, variant, point, inputs, truth, matmul, who))
            print(show(rows[-1]), flush=True)
        del inputs, truth
        torch.cuda.empty_cache()
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])))
            writer.writeheader()
            writer.writerows(map(cells, rows))
    render(path)


if __name__ == "__main__":
    main()
