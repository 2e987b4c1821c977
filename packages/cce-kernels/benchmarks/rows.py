"""The table of measurements: one schema for every loss, kept in results/losses.csv."""

from __future__ import annotations

import csv
import os
import subprocess
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
import triton


@dataclass(frozen=True)
class Row:
    """One measurement. Empty where it was not measured."""

    gpu: str
    driver: str
    torch: str
    triton: str
    revision: str
    op: str  # full | sampled
    variant: str
    point: str
    scores: str
    M: int
    V: int
    D: int
    N: int
    dtype: str
    weight_dtype: str
    forward_ms: float | None = None
    backward_ms: float | None = None  # both less forward
    both_ms: float | None = None  # from Python, launches included
    graph_ms: float | None = None  # both, replayed from a CUDA graph: the GPU alone
    ceiling: str = ""  # matmul TFLOP/s (full) or copy GB/s (sampled), measured in the same run
    share_of_ceiling: float | None = None  # least time that the ceiling allows, over both_ms
    peak_extra_mib: float | None = None  # beyond the inputs; dW and dH count
    dhidden_error: float | None = None  # relative, against float64
    dweight_error: float | None = None
    note: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """What a new measurement replaces: the same loss at the same point on the same kind of GPU."""
        return (self.gpu, self.op, self.variant, self.point, self.dtype, self.weight_dtype)


@dataclass(frozen=True)
class PeerRow:
    """Forward + backward of one full loss at one point, measured in a process of its own by peers.py."""

    gpu: str
    driver: str
    torch: str
    triton: str
    revision: str
    packages: str  # of the peer
    peer: str
    point: str
    scores: str
    popularity: str
    M: int
    V: int
    D: int
    dtype: str
    median_ms: float | None = None
    fastest_ms: float | None = None
    slowest_ms: float | None = None
    repeats: int = 0
    peak_extra_mib: float | None = None  # beyond the inputs; dW and dH count
    loss_error: float | None = None  # relative, against float64
    dhidden_error: float | None = None  # of 1,024 tokens
    dweight_error: float | None = None  # of about 1,024 items, half of them targets
    note: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """What a new measurement replaces."""
        return (self.gpu, self.peer, self.point, self.dtype)


AnyRow = TypeVar("AnyRow", Row, PeerRow)


def environment() -> dict[str, str]:
    """Who measured: the columns that all rows of a run share; ends the script where nvidia-smi does not tell."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"nvidia-smi, which tells the GPU and its driver, cannot be asked: {error}") from None
    gpu, driver = told.splitlines()[0].split(", ")
    revision = os.environ.get("REVISION") or subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    return {
        "gpu": gpu, "driver": driver, "torch": torch.__version__, "triton": triton.__version__, "revision": revision,
    }  # fmt: skip


def read(path: Path) -> list[Row]:
    """Read the rows of a CSV; none if there is no such file."""
    return read_as(Row, path)


def read_as(form: type[AnyRow], path: Path) -> list[AnyRow]:
    """Read a CSV with rows of this form; none if there is no such file."""
    if not path.exists():
        return []
    kinds = {field.name: field.type for field in fields(form)}
    with path.open(newline="") as file:
        return [
            form(**{name: _parse(text, str(kinds[name])) for name, text in row.items()}) for row in csv.DictReader(file)
        ]


def _parse(text: str, kind: str) -> Any:
    if kind == "int":
        return int(text)
    if kind.startswith("float"):
        return float(text) if text else None
    return text


def write(path: Path, rows: list[AnyRow]) -> None:
    """Write a CSV whole, and at once: a run that is stopped leaves the old file or the new one."""
    draft = path.with_suffix(".tmp")
    with draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{x:.6g}" if isinstance(x, float) else x for name, x in asdict(row).items()})
    draft.replace(path)


def merged(rows: list[AnyRow], new: AnyRow) -> list[AnyRow]:
    """The rows with a new one in the place of the one that it measures again, else at the end."""
    places = [place for place, row in enumerate(rows) if row.key == new.key]
    return [new if place == places[0] else row for place, row in enumerate(rows)] if places else [*rows, new]


def show(row: AnyRow) -> str:
    """A line of the log: what differs from row to row."""
    shown = [(name, value) for name, value in list(asdict(row).items())[5:] if value not in (None, "")]
    return "  ".join(f"{name} {x:.4g}" if isinstance(x, float) else str(x) for name, x in shown)
