"""Which rows of the item table a process has, and what the processes of a group send each other.

Item ids fall into 64 classes, `id = 64 b + s` with s the class, and a process owns a run of classes, as `torch.chunk`
cuts 64. Popular items, which often have neighboring ids, are then spread evenly, and neither files nor draws depend on
the number of processes. Ids outside the catalogue have no owner: the last block of 64 may be short.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor

from cce_kernels.checks import check_integer

CLASSES = 64
ELSEWHERE = -1  # the row of an item of another process, or of none


@dataclass(frozen=True)
class Rows:
    """The rows that one of `ranks` processes has of the table of `num_items` items, in ascending order of their ids."""

    num_items: int
    ranks: int
    rank: int

    @property
    def classes(self) -> tuple[int, int]:
        """The first class of this process and the number of its classes."""
        size = -(-CLASSES // self.ranks)
        first = min(CLASSES, self.rank * size)
        return first, min(CLASSES, first + size) - first

    @property
    def number(self) -> int:
        """How many rows it has; 0 is possible for a catalogue of fewer than 64 items."""
        first, width = self.classes
        blocks, rest = divmod(self.num_items, CLASSES)
        return blocks * width + min(max(rest - first, 0), width)

    def ids(self, device: torch.device | None = None) -> Tensor:
        """The ids of its rows, int64 [number], ascending."""
        first, width = self.classes
        rows = torch.arange(self.number, device=device)
        return rows if width == 0 else rows // width * CLASSES + rows % width + first

    def local(self, ids: Tensor) -> Tensor:
        """The rows of items, int64 in the shape of `ids`; -1 for an item of another process and outside [0, V)."""
        first, width = self.classes
        own_class = ids % CLASSES - first
        owned = (own_class >= 0) & (own_class < width) & (ids >= 0) & (ids < self.num_items)
        return torch.where(owned, ids // CLASSES * width + own_class, ELSEWHERE)

    def of(self, values: Tensor) -> Tensor:
        """The values [number, ...] that belong to its rows, of those of all items [V, ...]."""
        return values.index_select(0, self.ids(values.device))


@dataclass(frozen=True, eq=False)
class Shard:
    """An item table whose rows are spread over the processes of a group: process r has `table[shard.rows.ids()]`.

    Attributes:
        group: of `torch.distributed`; None is the default group. A group has at most 64 processes.
        num_items: V, the size of the whole catalogue.
    """

    group: dist.ProcessGroup | None
    num_items: int

    def __post_init__(self) -> None:
        check_integer("num_items", self.num_items, 1, 2**31)
        if not dist.is_initialized():
            raise ValueError("shard: found no process group, allowed: after torch.distributed.init_process_group")
        if dist.get_rank(self.group) < 0:
            raise ValueError("shard: found a group without this process, allowed: a group that it is part of")
        if (ranks := dist.get_world_size(self.group)) > CLASSES:
            raise ValueError(f"shard: found a group of {ranks} processes, allowed: up to {CLASSES}")

    @cached_property
    def rows(self) -> Rows:
        """The rows of this process."""
        return Rows(self.num_items, dist.get_world_size(self.group), dist.get_rank(self.group))

    def check_tokens(self, targets: Tensor) -> None:
        """Refuse other numbers of tokens in other processes; this waits for the device."""
        numbers = self.gather(targets.new_tensor([targets.numel()])).flatten().tolist()
        if len(set(numbers)) > 1:
            found = ", ".join(map(str, numbers))
            raise ValueError(f"targets: found {found} tokens in the processes, allowed: as many in each, filled up")

    def gather(self, mine: Tensor) -> Tensor:
        """[...], of the same shape in every process, to [P, ...] in the order of the processes."""
        flat = mine.new_empty(self.rows.ranks * mine.numel())
        dist.all_gather_into_tensor(flat, mine.contiguous().view(-1), group=self.group)
        return flat.view(self.rows.ranks, *mine.shape)

    def exchange(self, parts: Tensor) -> Tensor:
        """[P, ...]: part p goes to process p; returns [P, ...], what process p sent to this one."""
        received = torch.empty_like(parts, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, parts.contiguous(), group=self.group)
        return received
