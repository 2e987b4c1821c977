"""A safetensors file of tensors [V, ...] whose rows several processes write, each its own, and read again.

The file has its full size before anything is written: a header, and the rows in the order of the ids. No process holds
more than its own rows, and the number of processes that read may be another one than that which wrote.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from cce_kernels.shard import CLASSES, Rows, Shard
from rec_models.errors import CheckpointError

_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_COPIED_BYTES = 1 << 26  # at a time


def write_rows(path: Path, own: Mapping[str, Tensor], shard: Shard) -> dict[str, list[int]]:
    """Write tensors [V, ...], of which each process has its rows [n, ...]; all processes call this at the same time.

    Returns sums by which `read_rows` finds damage.
    """
    if shard.rows.rank == 0:
        _reserve(path, {name: (x.dtype, (shard.num_items, *x.shape[1:])) for name, x in own.items()})
    dist.barrier(group=shard.group)
    with mapped_rows(path, write=True) as tensors:
        for name, values in own.items():
            for part, place in _parts(tensors[name], shard.rows):
                part.copy_(values[place].view(part.shape))
    sums = {name: _sums(values, shard.rows) for name, values in own.items()}
    for each in sums.values():
        dist.all_reduce(each, group=shard.group)
    return {name: each.tolist() for name, each in sums.items()}


def read_rows(path: Path, rows: Rows, sums: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """The rows [n, ...] of all tensors of a file, on the CPU.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    found: dict[str, Tensor] = {}
    try:
        with mapped_rows(path) as tensors:
            for name, tensor in tensors.items():
                found[name] = tensor.new_empty(rows.number, *tensor.shape[1:])
                for part, place in _parts(tensor, rows):
                    found[name][place].view(part.shape).copy_(part)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged, or no file of rows: {error}") from error
    first, width = rows.classes
    for name, values in found.items():
        own = _sums(values, rows).tolist()[first : first + width]
        if own != sums[name][first : first + width]:
            raise CheckpointError(f"{path}: damaged: {name} fails its checksum")
    return found


@contextmanager
def mapped_rows(path: Path, *, write: bool = False) -> Iterator[dict[str, Tensor]]:
    """The tensors of a file, mapped into memory and not read; what is written is on the disk after the block."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_COPY)
        tensors = {}
        for name, entry in header.items():
            count, start = math.prod(entry["shape"]), 8 + length + entry["data_offsets"][0]
            flat = torch.frombuffer(memory, dtype=_DTYPES[entry["dtype"]], count=count, offset=start)
            tensors[name] = flat.view(entry["shape"])
        yield tensors
        if write:
            memory.flush()
            os.fsync(file.fileno())


def _reserve(path: Path, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
    """Write the header of a file and take its room on the disk, so that a full disk is noticed here."""
    header, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, 8 + len(text) + end)
            file.truncate(8 + len(text) + end)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _parts(tensor: Tensor, rows: Rows) -> Iterator[tuple[Tensor, slice]]:
    """Own rows of a tensor [V, ...] as views, and which of the own rows [n, ...] they are, some at a time."""
    first, width = rows.classes
    blocks, rest = divmod(rows.num_items, CLASSES)
    step = max(1, _COPIED_BYTES // max(1, width * math.prod(tensor.shape[1:]) * tensor.element_size()))
    whole = tensor[: blocks * CLASSES].view(blocks, CLASSES, *tensor.shape[1:])
    for start in range(0, blocks, step):
        end = min(start + step, blocks)
        yield whole[start:end, first : first + width], slice(start * width, end * width)
    if rest > first:
        start = blocks * CLASSES + first
        yield tensor[start : start + min(width, rest - first)], slice(blocks * width, rows.number)


def _sums(values: Tensor, rows: Rows) -> Tensor:
    """Int64 [64]: of each own class the sum of all 16-bit words of its rows, 0 for a class of another process."""
    first, width = rows.classes
    words = values.contiguous().view(torch.int16).flatten(1) if values.numel() else values.new_zeros(0, 1)
    blocks = rows.num_items // CLASSES
    sums = torch.zeros(CLASSES, dtype=torch.int64, device=values.device)
    own = sums[first : first + width]
    own += words[: blocks * width].view(blocks, width, words.shape[1]).sum((0, 2), dtype=torch.int64)
    tail = words[blocks * width :].sum(1, dtype=torch.int64)
    own[: len(tail)] += tail
    return sums
