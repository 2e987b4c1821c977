"""Tensors [V, ...] whose rows are spread over processes, written to one file in the order of the ids, and read again.

No process holds more than its own rows and those of a part of the file. The number of processes that read may be
another one than that which wrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from cce_kernels.shard import CLASSES, Rows, Shard
from rec_models.errors import CheckpointError
from rec_models.training import tensor_file

_PART_BYTES = 1 << 26  # of a tensor at a time, of all processes together


def whole(own: Tensor, shard: Shard) -> Tensor:
    """The shape and dtype [V, ...] of a tensor of which this process has some rows, on the device ``meta``."""
    return own.new_empty(shard.num_items, *own.shape[1:], device="meta")


def rows_in_order(own: Tensor, shard: Shard) -> Iterator[Tensor]:
    """All rows from first to last, some at a time, of a tensor of which each process has its own rows [n, ...].

    All processes must iterate to the end at the same time.
    """
    rows = shard.rows
    widths = [Rows(rows.num_items, rows.ranks, rank).classes[1] for rank in range(rows.ranks)]
    width, most = widths[rows.rank], max(widths)
    step = max(1, _PART_BYTES // (CLASSES * math.prod(own.shape[1:]) * own.element_size()))
    for start in range(0, -(-rows.num_items // CLASSES), step):
        end = min(start + step, -(-rows.num_items // CLASSES))
        here = own[start * width : end * width]  # the last block may be short
        filled = own.new_zeros((end - start) * width, *own.shape[1:])
        filled[: len(here)] = here
        sent = own.new_zeros(end - start, most, *own.shape[1:])
        sent[:, :width] = filled.view(end - start, width, *own.shape[1:])
        everyone = shard.gather(sent)  # [P, blocks, most, ...]
        parts = [part[:, :number] for part, number in zip(everyone, widths, strict=True)]
        yield torch.cat(parts, 1).flatten(0, 1)[: rows.num_items - start * CLASSES]


def read_rows(path: Path, rows: Rows, sums: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Own rows [n, ...] of all tensors of a file, on the CPU; `sums` are those of `sums_of`.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    found = {name: _own_of(tensor, rows) for name, tensor in tensor_file.read(path)[1].items()}
    first, width = rows.classes
    for name, expected in sums.items():
        if name not in found or _sums(found[name], rows).tolist()[first:][:width] != expected[first:][:width]:
            raise CheckpointError(f"{path}: damaged: {name} fails its checksum")
    return found


def _own_of(tensor: Tensor, rows: Rows) -> Tensor:
    """Own rows of a tensor [V, ...] of a mapped file, of which little more is read."""
    (first, width), shape = rows.classes, tensor.shape[1:]
    blocks, rest = divmod(rows.num_items, CLASSES)
    own = tensor.new_empty(rows.number, *shape)
    in_blocks = tensor[: blocks * CLASSES].view(blocks, CLASSES, *shape)[:, first : first + width]
    own[: blocks * width].view(in_blocks.shape).copy_(in_blocks)
    own[blocks * width :] = tensor[blocks * CLASSES + min(first, rest) :][: len(own) - blocks * width]
    return own


def sums_of(own: Mapping[str, Tensor], shard: Shard) -> dict[str, list[int]]:
    """By tensor, for each of the 64 classes the sum of all 16-bit words of its rows, of all processes.

    A class is never divided between processes, so that any number of them can check its own rows.
    """
    found = {}
    for name, values in own.items():
        sums = _sums(values, shard.rows)
        dist.all_reduce(sums, group=shard.group)
        found[name] = sums.tolist()
    return found


def _sums(values: Tensor, rows: Rows) -> Tensor:
    """Int64 [64], 0 for a class of another process."""
    first, width = rows.classes
    words = values.contiguous().view(torch.int16).flatten(1)
    blocks = rows.num_items // CLASSES
    sums = torch.zeros(CLASSES, dtype=torch.int64, device=values.device)
    own = sums[first : first + width]
    own += words[: blocks * width].view(blocks, width, words.shape[1]).sum((0, 2), dtype=torch.int64)
    tail = words[blocks * width :].sum(1, dtype=torch.int64)
    own[: len(tail)] += tail
    return sums
