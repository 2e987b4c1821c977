"""Where the time of a step goes: kernels grouped by what they are for, as CSV and markdown."""

from __future__ import annotations

import csv
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

import cce_kernels
from rec_models.training.result import BatchDone

PROFILED = 5
GROUPS = (  # the first that fits
    ("loss", ("cunn_softmax",)),
    ("optimiser", ("adam", "multi_tensor_apply")),
    ("attention", ("flash", "fmha", "attention")),
    ("matrix products", ("gemm", "cutlass", "nvjet", "cublas", "wgmma", "splitk")),
    ("lookup and its gradient", ("indexing_backward", "index", "embedding", "gather", "sort", "radix", "scatter")),
    ("copies from the host", ("memcpy htod",)),
    ("fills and copies", ("memset", "memcpy", "fill", "copy")),
    ("norms", ("layer_norm", "layernorm", "gammabeta")),
    ("compiled network", ("triton_",)),
)


class Row(NamedTuple):
    """A kernel's share of a step."""

    group: str
    kernel: str
    calls: float
    ms: float
    share: float


class Profiler:
    """Profiles some steps after a warm-up; one is an ``on_batch`` of `rec_models.training.benchmark.measure_steps`.

    Args:
        warmup: steps left out.
    """

    def __init__(self, warmup: int) -> None:
        self._warmup = warmup
        self._done = 0
        self._profiler: Any = None
        self.rows: list[Row] = []

    def __call__(self, done: BatchDone) -> None:
        """Start and stop around the steps."""
        self._done += 1
        if self._done == self._warmup:
            torch.cuda.synchronize()
            activities = [torch.profiler.ProfilerActivity.CUDA]
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.start()
        elif self._done == self._warmup + PROFILED and self._profiler is not None:
            torch.cuda.synchronize()
            self._profiler.stop()
            self.rows = summarise(
                (event.key, event.count, event.self_device_time_total) for event in self._profiler.key_averages()
            )
            self._profiler = None


@cache
def loss_kernels() -> frozenset[str]:
    """The names of all functions of cce_kernels that Triton compiles; those that are launched are among them."""
    names = set()
    for found in pkgutil.walk_packages(cce_kernels.__path__, f"{cce_kernels.__name__}."):
        module = importlib.import_module(found.name)
        compiled = (x for x in vars(module).values() if type(x).__module__.startswith("triton.runtime"))
        # The interpreter leaves a builder of its own in modules that it has run: no function.
        names |= {x.fn.__name__ for x in compiled if hasattr(x, "fn")}
    return frozenset(names)


def group_of(kernel: str) -> str:
    """What a kernel is for, by its name."""
    if kernel in loss_kernels():
        return "loss"
    name = kernel.lower()
    return next((group for group, words in GROUPS if any(word in name for word in words)), "elementwise and sums")


def summarise(events: Iterable[tuple[str, int, float]]) -> list[Row]:
    """From (kernel, calls, microseconds) of all profiled steps to rows of one step, the longest first."""
    kernels = [(name, calls, total) for name, calls, total in events if total > 0]
    whole = sum(total for _, _, total in kernels)
    rows = [
        Row(group_of(name), name, calls / PROFILED, total / PROFILED / 1e3, total / whole)
        for name, calls, total in kernels
    ]
    return sorted(rows, key=lambda row: -row.ms)


def write(folder: Path, name: str, rows: list[Row], where: Mapping[str, str], top: int = 15) -> None:
    """All kernels to a CSV; sums of groups and the longest kernels to a page beside it.

    Args:
        folder: made if missing.
        name: of what was profiled; in the names of the files ``/`` and ``+`` become ``-``.
        rows: of one step.
        where: `step_results.environment`, for the title of the page.
        top: kernels on the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = name.replace("/", "-").replace("+", "-")
    with (folder / f"{stem}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    groups = {row.group for row in rows}
    sums = sorted(
        ((group, [row for row in rows if row.group == group]) for group in groups),
        key=lambda entry: -sum(row.ms for row in entry[1]),
    )
    versions = {key: ".".join(where[key].split(".")[:2]) for key in ("torch", "triton")}
    place = f"{where['gpu']}, torch {versions['torch']}, triton {versions['triton']}, revision {where['revision']}"
    title = f"# {name.replace('/', '-')}: GPU time of a step, {PROFILED} steps profiled ({place})"
    lines = [title, "", "| group | ms | share | kernels |"]
    lines += ["|---|---|---|---|"]
    lines += [
        f"| {group} | {sum(row.ms for row in part):.3f} | {sum(row.share for row in part):.1%} "
        f"| {sum(row.calls for row in part):.0f} |"
        for group, part in sums
    ]
    total, launches = sum(row.ms for row in rows), sum(row.calls for row in rows)
    lines += [f"| **all** | {total:.3f} | 100 % | {launches:.0f} |", "", "| kernel | group | ms | calls |"]
    lines += ["|---|---|---|---|"]
    lines += [f"| `{row.kernel[:70]}` | {row.group} | {row.ms:.3f} | {row.calls:.0f} |" for row in rows[:top]]
    (folder / f"{stem}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
