"""Measure the losses of this package and their peers on one GPU.

    python packages/cce-kernels/benchmarks/run.py [--operations full sampled] [--points beauty d64 ...]
        [--variants ours ...] [--seconds 500] [--out DIR]

Prints every row as it comes and puts it into results/losses.csv at once, in the place of an older row of the same loss
at the same point on the same kind of GPU; rows that are not measured again stay. At the end losses.md and losses.png
are rendered from the CSV (render.py). What matters most comes first, and no point is begun after --seconds.

A run in two parts: `--operations sampled`, then `--operations full`. The git revision is read from the environment
variable REVISION, or asked from git.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from losses import SAMPLED as SAMPLED_OPTIONS
from losses import available, ours_sampled, wanted
from points import FULL, SAMPLED, Inputs, Point, make_inputs, true_gradients
from render import render
from rows import Row, environment, merged, read, show, write
from timing import copy_ceiling, graph_ms, matmul_ceiling, median_ms, need_gpu, peak_extra_bytes
from torch import Tensor

Job = tuple[str, Point]
SMALL = {"tokens": 2048, "items": 5000, "negatives": 256}  # where the errors of the sampled losses are measured


def ceiling_of(point: Point, variant: str) -> tuple[str, float]:
    """The ceiling in words, measured now, and the least milliseconds that it allows.

    Full: 8 M V D FLOPs by matrix products. Sampled: the gathered rows in hidden's dtype, once forward and once
    backward; a tile of 64 tokens gathers once. Gradients of rows are left out: how many bytes they cost is the
    kernel's choice.
    """
    if point.op == "full":
        matmul = matmul_ceiling(getattr(torch, point.dtype))
        return f"{matmul:.0f} TFLOP/s", point.flops / matmul / 1e9
    copy = copy_ceiling()
    rows = point.tokens * point.negatives / (64 if "tile" in variant else 1)
    return f"{copy:.0f} GB/s", 2 * rows * point.dim * getattr(torch, point.dtype).itemsize / copy / 1e6


def sampled_errors(variant: str, point: Point) -> dict[str, float]:
    """Errors of dH and dW at a small shape, against float64 with the same negatives."""
    small = replace(point, **SMALL)
    inputs = make_inputs(small)
    narrow = inputs.weight.detach().to(inputs.hidden.dtype)
    wide = Inputs(inputs.hidden.detach().double().requires_grad_(), narrow.double().requires_grad_(), inputs.targets)
    loss = exact = available()["sampled"][variant]
    if variant in SAMPLED_OPTIONS:
        options = {name: value for name, value in SAMPLED_OPTIONS[variant].items() if name == "sharing"}
        exact = partial(ours_sampled, impl="reference", **options)
    gradients = []
    for mine, given in ((exact, wide), (loss, inputs)):
        torch.manual_seed(0)  # plain torch draws by it
        gradients.append(torch.autograd.grad(mine(given, small), (given.hidden, given.weight)))
    truth, got = gradients
    return errors(tuple(x.to_dense() if x.is_sparse else x for x in got), truth)


def errors(got: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> dict[str, float]:
    """Relative errors in the Euclidean norm."""
    names = ("dhidden_error", "dweight_error")
    return {
        name: ((mine.double() - true).norm() / true.norm()).item()
        for name, mine, true in zip(names, got, truth, strict=True)
    }


def measure(
    variant: str, point: Point, inputs: Inputs, truth: tuple[Tensor, Tensor] | None, who: dict[str, str]
) -> Row:
    """Time, memory and error of one loss at one point; what fails becomes a note."""
    loss, leaves = available()[point.op][variant], (inputs.hidden, inputs.weight)
    ceiling, least = ceiling_of(point, variant)
    numbers: dict[str, float] = {}
    notes: list[str] = []

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(inputs, point), leaves)

    try:
        both, forward = median_ms(gradients), median_ms(lambda: loss(inputs, point))
        numbers |= {"both_ms": both, "forward_ms": forward}
        if both > forward:  # where calls take a different time each, the difference of medians says nothing
            numbers["backward_ms"] = both - forward
        numbers |= {"share_of_ceiling": least / both, "peak_extra_mib": peak_extra_bytes(gradients) / 2**20}
        if truth is not None:
            numbers |= errors(gradients(), truth)
        elif point.op == "sampled":
            numbers |= sampled_errors(variant, point)
            notes.append(f"errors at M {SMALL['tokens']:,}, V {SMALL['items']:,}, N {SMALL['negatives']}")
        if variant.startswith("ours") and "sparse" not in variant:  # a sparse gradient asks the device for its size
            numbers["graph_ms"] = graph_ms(gradients)
    except Exception as error:
        notes.append(f"{type(error).__name__}: {str(error).splitlines()[0][:120]}")
        torch.cuda.empty_cache()
    return Row(
        **who, op=point.op, variant=variant, point=point.name, scores=point.scores, M=point.tokens, V=point.items,
        D=point.dim, N=point.negatives, dtype=point.dtype, weight_dtype=point.weight_dtype, ceiling=ceiling,
        note="; ".join(notes), **numbers,
    )  # fmt: skip


def truth_of(inputs: Inputs) -> tuple[Tensor, Tensor] | None:
    """What the gradients of the full loss should be, or None where float64 does not fit."""
    try:
        return true_gradients(inputs)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def smaller(point: Point) -> Point:
    """Shrink a big table to one that is compiled for alike: Triton looks at the remainder by 16."""
    return point if point.items < 500_000 else replace(point, items=131_072 + point.items % 16)


def compile_one(job: Job) -> None:
    """Fill Triton's cache on disk for one loss at one point, in a process of its own."""
    variant, point = job
    try:
        inputs = make_inputs(point)
        torch.autograd.grad(available()[point.op][variant](inputs, point), (inputs.hidden, inputs.weight))
        torch.cuda.synchronize()
    except Exception as error:
        print(f"compiling {variant} {point.op} {point.name}: {type(error).__name__} {str(error)[:200]}")


def main() -> None:
    """Compile side by side, measure one after the other, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", nargs="+", choices=["full", "sampled"], default=["sampled", "full"])
    parser.add_argument("--points", nargs="+", help="names of points; all by default")
    parser.add_argument("--variants", nargs="+", help="names of variants; all by default")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no point after this many seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    need_gpu()
    who = environment()
    started = time.perf_counter()
    points = [point for name in arguments.operations for point in (SAMPLED if name == "sampled" else FULL)]
    jobs = [
        (variant, point)
        for point in points
        for variant in available()[point.op]
        if wanted(variant, point)
        and (not arguments.points or point.name in arguments.points)
        and (not arguments.variants or variant in arguments.variants)
    ]
    context = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(12, os.cpu_count() or 1), mp_context=context) as pool:
        list(pool.map(compile_one, [(variant, smaller(point)) for variant, point in jobs if variant != "eager torch"]))
    print(f"compiled in {time.perf_counter() - started:.0f} s", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "losses.csv"
    rows = read(path)
    for point in dict.fromkeys(point for _, point in jobs):
        if time.perf_counter() - started > arguments.seconds:
            print(f"out of time before {point.op} {point.name}")
            break
        inputs = make_inputs(point)
        truth = truth_of(inputs) if point.op == "full" else None
        for variant, _ in (job for job in jobs if job[1] == point):
            row = measure(variant, point, inputs, truth, who)
            rows = merged(rows, row)
            write(path, rows)
            print(show(row), flush=True)
        del inputs, truth
        torch.cuda.empty_cache()
    render(path)


if __name__ == "__main__":
    main()
