"""Time the ideas of variants.py against the package as it is.

    python packages/cce-kernels/benchmarks/try_variants.py [--names "halves of D" ...] [--seconds 400] [--out DIR]
    python packages/cce-kernels/benchmarks/try_variants.py --check     # no GPU: numbers by the interpreter
    python packages/cce-kernels/benchmarks/try_variants.py --compile   # no GPU: registers and spills for sm_90

Every idea is a copy of the package with its text edited, in a process of its own. All processes compile side by side
and wait; then they are timed one after the other, and a row goes to results/variants.csv as soon as it is there. Errors
are those of dH and dW against float64 at M 2,048, V 8,192 (sampled: as in run.py).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from variants import VARIANTS, Variant, apply

COLUMNS = (
    "op",
    "variant",
    "point",
    "D",
    "forward_ms",
    "both_ms",
    "share_of_ceiling",
    "dhidden_error",
    "dweight_error",
    "note",
)


def work(op: str, names: list[str]) -> None:
    """What a process does: compile, say so, wait for its turn, time, and answer with a line of JSON for each point."""
    import torch
    from losses import available
    from points import FULL, SAMPLED, make_inputs, true_gradients
    from run import ceiling_of, errors, sampled_errors, smaller
    from timing import graph_ms, median_ms

    variant = "ours" if op == "full" else "ours, sharing tile"
    loss = available()[op][variant]
    points = [point for point in (FULL if op == "full" else SAMPLED) if point.name in names]
    failed: dict[str, str] = {}
    found: dict[str, dict[str, float]] = {}
    for point in points:
        try:
            # The sampled loss decides by its size whether the table is copied: compiled at the size that is timed.
            small = replace(point, tokens=2048, items=8192 + point.items % 16) if op == "full" else smaller(point)
            inputs = make_inputs(small)
            got = torch.autograd.grad(loss(inputs, small), (inputs.hidden, inputs.weight))
            found[point.name] = errors(got, true_gradients(inputs)) if op == "full" else sampled_errors(variant, point)
        except Exception as error:
            failed[point.name] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    print("ready", flush=True)
    input()
    for point in points:
        row: dict[str, Any] = {"point": point.name, "D": point.dim, "note": failed.get(point.name, "")}
        if not row["note"]:
            inputs = make_inputs(point)
            leaves = inputs.hidden, inputs.weight
            _, least = ceiling_of(point, variant)
            timed = median_ms if op == "full" else graph_ms  # launches hide the kernels of the sampled loss
            both = timed(lambda i=inputs, p=point, x=leaves: torch.autograd.grad(loss(i, p), x))
            row |= {"both_ms": both, "forward_ms": timed(lambda i=inputs, p=point: loss(i, p))}
            row |= {"share_of_ceiling": least / both, **found[point.name]}
            del inputs, leaves
            torch.cuda.empty_cache()
        print(json.dumps(row), flush=True)


def check(op: str, names: list[str]) -> None:
    """What a process does without a GPU: losses and gradients by the interpreter against the reference."""
    import torch

    from cce_kernels import linear_cross_entropy, sampled_linear_cross_entropy, validation

    validation.INTERPRETER = True
    for dim in (512,) if names == ["d512"] else (16, 512):
        hidden = (torch.randn(20, dim) / dim**0.5).requires_grad_()
        weight, targets = torch.randn(36, dim, requires_grad=True), torch.randint(0, 36, (20,))
        results = []
        for impl in ("triton", "reference"):
            if op == "full":
                loss = linear_cross_entropy(hidden, weight, targets, impl=impl)  # type: ignore[arg-type]
            else:
                loss = sampled_linear_cross_entropy(
                    hidden, weight, targets, num_negatives=9, seed=1, sharing="tile", impl=impl,  # type: ignore[arg-type]
                )  # fmt: skip
            results.append([loss, *torch.autograd.grad(loss, (hidden, weight))])
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    print("agrees with the reference")


def start(variant: Variant, folder: Path, mode: str) -> subprocess.Popen[str]:
    """Start the process of an idea; the edited copy of the package comes first on its path."""
    environment = {**os.environ, "PYTHONPATH": f"{apply(variant, folder)}:{os.environ.get('PYTHONPATH', '')}"}
    if mode == "check":
        environment["TRITON_INTERPRET"] = "1"
    script = Path(__file__).with_name("registers.py") if mode == "compile" else Path(__file__)
    command = [sys.executable, str(script), "--as", mode, variant.op, *variant.points]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603


def answer(stream: IO[str] | None) -> str:
    """The next line of a process, without its end; empty when the process is gone."""
    return stream.readline().strip() if stream is not None else ""


def time_all(chosen: list[Variant], seconds: float, path: Path) -> None:
    """Start every process, then time one after the other."""
    from rows import environment

    began = time.perf_counter()
    who = environment()
    with tempfile.TemporaryDirectory() as root, path.open("w", newline="") as file:
        table = csv.DictWriter(file, [*who, *COLUMNS])
        table.writeheader()
        running = [(variant, start(variant, Path(root) / str(i), "work")) for i, variant in enumerate(chosen)]
        ready = [(variant, process) for variant, process in running if answer(process.stdout) == "ready"]
        print(f"compiled {len(ready)} of {len(running)} in {time.perf_counter() - began:.0f} s", flush=True)
        for variant, process in ready:
            if time.perf_counter() - began > seconds:
                print(f"out of time before {variant.name}")
                process.kill()
                continue
            print("go", file=process.stdin, flush=True)
            while line := answer(process.stdout):
                row = {"op": variant.op, "variant": variant.name, **json.loads(line)}
                table.writerow({**who, **{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}})
                file.flush()
                print("  ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", help="names of variants; all by default, and always the baseline")
    parser.add_argument("--seconds", type=float, default=400, help="begin no variant after this many seconds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--check", action="store_const", const="check", dest="mode")
    parser.add_argument("--compile", action="store_const", const="compile", dest="mode")
    parser.add_argument("--as", nargs="+", dest="role", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        mode, op, *names = arguments.role
        check(op, names) if mode == "check" else work(op, names)
        return
    chosen = [v for v in VARIANTS if not arguments.names or v.name in (*arguments.names, "as it is")]
    if arguments.mode is None:
        from timing import need_gpu

        need_gpu()
        arguments.out.mkdir(parents=True, exist_ok=True)
        time_all(chosen, arguments.seconds, arguments.out / "variants.csv")
        return
    for variant in chosen:
        with tempfile.TemporaryDirectory() as folder:
            output, _ = start(variant, Path(folder), arguments.mode).communicate()
            print(f"{variant.op} {variant.name}:\n{output}", flush=True)


if __name__ == "__main__":
    main()
