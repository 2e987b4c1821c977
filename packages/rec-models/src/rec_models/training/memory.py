"""Peak memory, measured in the process, and advice for when there is too little."""

from __future__ import annotations

import math
import os
import re
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from rec_models.config import LossSettings, ModelSettings, TrainingSettings, can_be_sharded
from rec_models.errors import TrainingError
from rec_models.losses import LOSSES
from rec_models.optim.build import KEPT, table_bytes

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
    """Whether memory ran out, on a GPU or on the host, by an error of torch or one that led to it."""
    return _memory_error(error) is not None


def _memory_error(error: BaseException | None) -> BaseException | None:
    """The first error that says so: one that ends the recording of a CUDA graph hides its causes and contexts."""
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


class Run(NamedTuple):
    """The settings that the memory of a run depends on."""

    model: ModelSettings
    loss: LossSettings
    training: TrainingSettings
    num_items: int  # V


@contextmanager
def out_of_memory_errors(device: torch.device, run: Run, shape: Sequence[int]) -> Iterator[None]:
    """Turn running out of memory into a `TrainingError` that says what to lower.

    `shape` has the rows and columns of the batch in work; it is read when memory runs out, and empty before the first.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(out_of_memory_advice(error, device, run, shape)) from error


def out_of_memory_advice(error: BaseException, device: torch.device, run: Run, shape: Sequence[int]) -> str:
    """What was needed and what to lower, in one sentence; arguments as of `out_of_memory_errors`."""
    peak, total, limit = peak_gib(device), math.inf, ""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / _GIB
        limit = f" of {total:.1f} GiB"
    asked, words = _asked_for(error)
    what = _of_table(run, min(peak + asked, total)) + "batch_size or max_seq_len"
    if less := LOSSES[run.loss.loss].less_memory:
        what += f", or {less}"
    if device.type == "cuda" and not segments_can_grow():
        what += f", or set {GROWING_SEGMENTS}, which keeps memory whole where batches differ in size"
    size = f" with a batch of {shape[0]} x {shape[1]}" if shape else ""
    needed = f"needed {words} more, " if words else ""
    return f"out of memory{size}: {needed}the peak so far was {peak:.1f} GiB{limit}; lower {what}"


def _of_table(run: Run, all_gib: float) -> str:
    """What makes the item table smaller, where that is most of all memory; empty where it is not."""
    training = run.training
    shards = training.devices if training.table == "sharded" else 1
    gib = {name: table_bytes(name, run.num_items, run.model.hidden) / shards / _GIB for name in KEPT}
    taken = gib[run.training.optimizer]
    if taken <= all_gib / 2:
        return ""
    leaner = [name for name, kept in KEPT.items() if not kept.lazy and gib[name] < taken]  # with any loss
    names = " or ".join(f"{name} ({gib[name]:.1f} GiB)" for name in leaner)
    other = f"or take optimizer={names}, " if names else ""
    if training.devices > shards and can_be_sharded(run.loss):
        other += "or table=sharded, "
    return f"hidden, because the item table with its gradient and moments takes {taken:.1f} GiB, {other}or lower "
