"""Peak memory, measured in the process, and advice for when there is too little."""

from __future__ import annotations

import math
import os
import re
import resource
import sys
from dataclasses import dataclass

import torch

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.losses import LOSSES
from rec_models.optim.build import leaner_optimizers, table_bytes

GROWING_SEGMENTS = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
"""What makes torch's allocator grow its segments instead of adding others: plain softmax over the catalogue needs it.

Its logits change their size from batch to batch, and freed blocks of one size do not serve the next.
"""
_ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
_GIB = 2**30


def reset_peak(device: torch.device) -> None:
    """Start counting on a GPU; a process's peak cannot be reset."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # the allocator knows no device before
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float:
    """Peak memory in GiB: of torch's allocator on a GPU, resident memory of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB


def peak_kind(device: torch.device) -> str:
    """What `peak_gib` measures."""
    return "cuda max_memory_allocated" if device.type == "cuda" else "peak resident memory of the process"


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out, on a GPU or on the host, by an error of torch or one that led to it.

    An error that ends the recording of a CUDA graph hides the one before: causes and contexts are looked at too.
    """
    return _memory_error(error) is not None


def _memory_error(error: BaseException | None) -> BaseException | None:
    """The first error of the chain that says so."""
    ahead, seen = [error], set[int]()
    while ahead:
        link = ahead.pop()
        if link is None or id(link) in seen:
            continue
        if isinstance(link, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(link):
            return link
        seen.add(id(link))
        ahead += [link.__context__, link.__cause__]
    return None


def _asked_for(error: BaseException) -> tuple[float, str]:
    """The GiB that torch could not get, and in words, its own but for bytes; 0 and none where the error names none."""
    found = re.search(r"tried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)", str(_memory_error(error)), re.IGNORECASE)
    if found is None:
        return 0.0, ""
    amount, unit = found.groups()
    gib = float(amount) * {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}[unit.lower()] / _GIB
    return gib, f"{gib:.2f} GiB" if unit == "bytes" else f"{amount} {unit}"


def segments_can_grow() -> bool:
    """Whether torch's allocator was asked for `GROWING_SEGMENTS`."""
    return any("expandable_segments:True" in os.environ.get(name, "") for name in _ALLOCATOR_VARIABLES)


@dataclass(frozen=True)
class Run:
    """What a run's memory depends on."""

    model: ModelSettings
    loss: LossSettings
    training: TrainingSettings
    num_items: int
    """V."""


def out_of_memory_advice(error: BaseException, device: torch.device, run: Run, shape: tuple[int, int] | None) -> str:
    """What was needed and what to lower, in one sentence.

    Args:
        error: one that `is_out_of_memory`.
        device: where memory ran out.
        run: which run.
        shape: rows and columns of the batch in work; None before the first.
    """
    peak, total, limit = peak_gib(device), math.inf, ""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / _GIB
        limit = f" of {total:.1f} GiB"
    asked, words = _asked_for(error)
    what = _of_table(run, min(peak + asked, total)) + "batch_size or max_seq_len"
    less = LOSSES[run.loss.loss].less_memory
    if less:
        what += f", or {less}"
    if device.type == "cuda" and not segments_can_grow():
        what += f", or set {GROWING_SEGMENTS}, which keeps memory whole where batches differ in size"
    size = "" if shape is None else f" with a batch of {shape[0]} x {shape[1]}"
    needed = f"needed {words} more, " if words else ""
    return f"out of memory{size}: {needed}the peak so far was {peak:.1f} GiB{limit}; lower {what}"


def _of_table(run: Run, all_gib: float) -> str:
    """What makes the item table smaller, where that is most of all memory; empty where it is not."""
    sizes = (run.num_items, run.model.hidden)
    taken = table_bytes(run.training.optimizer, *sizes) / _GIB
    if taken <= all_gib / 2:
        return ""
    leaner = leaner_optimizers(run.training.optimizer, *sizes)
    names = " or ".join(f"{name} ({count / _GIB:.1f} GiB)" for name, count in leaner.items())
    other = f"or take optimizer={names}, " if names else ""
    return f"hidden, because the item table with its gradient and moments takes {taken:.1f} GiB, {other}or lower "
