"""Where the time of a step goes: kernels grouped by what they are for, as CSV and markdown."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch

PROFILED = 5
LOSS_KERNELS = (  # how the names of those of cce_kernels begin
    "full_", "_forward", "_backward", "_keys", "_mark", "_sum_rows", "_add_targets", "_tokens_step", "_items_step",
)  # fmt: skip
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


class Profiler(lightning.Callback):
    """Profiles some steps after a warm-up.

    Args:
        warmup: steps left out.
    """

    def __init__(self, warmup: int) -> None:
        self._warmup = warmup
        self._profiler: Any = None
        self.rows: list[Row] = []

    def on_train_batch_end(self, trainer: object, module: object, out: object, batch: object, batch_idx: int) -> None:
        """Start and stop around the steps."""
        if batch_idx + 1 == self._warmup:
            torch.cuda.synchronize()
            activities = [torch.profiler.ProfilerActivity.CUDA]
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.start()
        elif batch_idx + 1 == self._warmup + PROFILED and self._profiler is not None:
            torch.cuda.synchronize()
            self._profiler.stop()
            self.rows = summarise(
                (event.key, event.count, event.self_device_time_total) for event in self._profiler.key_averages()
            )
            self._profiler = None


def group_of(kernel: str) -> str:
    """What a kernel is for, by its name."""
    if kernel.startswith(LOSS_KERNELS):
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


def write(folder: Path, name: str, rows: list[Row], top: int = 15) -> None:
    """All kernels to ``name.csv``; sums of groups and the longest kernels to ``name.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    groups = {row.group for row in rows}
    sums = sorted(
        ((group, [row for row in rows if row.group == group]) for group in groups),
        key=lambda entry: -sum(row.ms for row in entry[1]),
    )
    lines = [f"# {name}: GPU time of a step, {PROFILED} steps profiled", "", "| group | ms | share | kernels |"]
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
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
