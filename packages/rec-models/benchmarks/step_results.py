"""Rows of measurements on disk, and what they depend on beside the code."""

from __future__ import annotations

import csv
import os
import subprocess
from pathlib import Path

import torch
import triton

COLUMNS = [
    "point", "loss", "variant", "V", "D", "batch", "N", "tokens", "steps", "step_ms", "low_ms", "high_ms", "mean_ms",
    "must_ms", "aim_ms", "floor_ms", "over_floor", "wait_share", "loop_peak_gib", "fit_peak_gib", "limit_gib",
    "loss_of_step", "note", "gpu", "driver", "torch", "triton", "revision",
]  # fmt: skip
SHOWN = [
    "point", "loss", "variant", "tokens", "step_ms", "must_ms", "aim_ms", "over_floor", "fit_peak_gib", "limit_gib",
    "note",
]  # fmt: skip


def environment() -> dict[str, str]:
    """What the figures depend on beside the code."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "revision": os.environ.get("REVISION") or _output("git", "rev-parse", "--short", "HEAD"),
    }


def _output(*command: str) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return "unknown"
    return (ran.stdout.splitlines() or ["unknown"])[0]


Rows = list[dict[str, object]]


def read_rows(path: Path, where: dict[str, str]) -> tuple[Rows, Rows]:
    """Rows measured before on the same GPU, with the same software and code; and all others."""
    here: Rows = []
    elsewhere: Rows = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                same = all(row[key] == value for key, value in where.items())
                (here if same else elsewhere).append(dict(row))
    return here, elsewhere


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """All rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def write_table(path: Path, rows: list[dict[str, object]]) -> None:
    """The columns that matter most, as markdown."""
    lines = [f"| {' | '.join(SHOWN)} |", "|---" * len(SHOWN) + "|"]
    lines += [f"| {' | '.join(str(row.get(key) or '') for key in SHOWN)} |" for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def misses(rows: list[dict[str, object]]) -> list[str]:
    """Rows above their goal, one line each."""
    goals = (("step_ms", "must_ms", "must"), ("step_ms", "aim_ms", "aim"), ("fit_peak_gib", "limit_gib", "limit"))
    lines = []
    for row in rows:
        for value, limit, name in goals:
            if row.get(value) and row.get(limit) and float(str(row[value])) > float(str(row[limit])):
                what = f"{row['point']} {row['loss']} {row['variant']}"
                lines.append(f"{what}: {value} {row[value]}, {name} {row[limit]}")
    return lines
