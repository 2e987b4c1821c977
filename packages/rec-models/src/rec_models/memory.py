"""Peak memory, measured in the process, and advice for when there is too little."""

from __future__ import annotations

import os
import resource
import sys

import torch

from rec_models.settings import LossSettings

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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory ran out, on a GPU or on the host."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def segments_can_grow() -> bool:
    """Whether torch's allocator was asked for `GROWING_SEGMENTS`."""
    return any("expandable_segments:True" in os.environ.get(name, "") for name in _ALLOCATOR_VARIABLES)


def out_of_memory_advice(device: torch.device, loss: LossSettings, shape: tuple[int, int] | None) -> str:
    """What was needed and what to lower, in one sentence.

    Args:
        device: where memory ran out.
        loss: of the run.
        shape: rows and columns of the batch in work; None before the first.
    """
    what = "batch_size or max_seq_len"
    if loss.loss == "ce":
        what += ", or take loss=cce, which never holds the logits of the catalogue"
    elif loss.loss in ("ce_neg", "bce_neg", "gbce", "cce_neg"):
        what += ", or num_negatives" + ("; loss=cce_neg holds no scores" if loss.loss == "ce_neg" else "")
    elif loss.loss == "sce":
        what += ", or the sce bucket sizes"
    size = "" if shape is None else f" with a batch of {shape[0]} x {shape[1]}"
    total = ""
    if device.type == "cuda":
        total = f" of {torch.cuda.get_device_properties(device).total_memory / _GIB:.1f} GiB"
        if not segments_can_grow():
            what += f", or set {GROWING_SEGMENTS}, which keeps memory whole where batches differ in size"
    return f"out of memory{size}: the peak so far was {peak_gib(device):.1f} GiB{total}; lower {what}"
