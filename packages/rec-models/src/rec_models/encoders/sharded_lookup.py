"""Lookup of rows of an item table that is spread over processes: each row that a batch needs is sent once.

A process asks the others for the rows of its batch, `asked` [P, C]: C rows of each, the same C for all processes, which
fill up with rows that nobody reads. Bytes received per process: 4 C (P - 1) for the ids, 4 D C (P - 1) for the rows,
and as much again for their gradient in backward. A batch is planned on the host (`Asked`), ahead of the step.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from cce_kernels.shard import CLASSES, Rows, Shard

if TYPE_CHECKING:
    from rec_models.encoders.base import Encoder


class Asked(NamedTuple):
    """The different items of a batch, by the process that has them."""

    rows: list[npt.NDArray[np.int32]]  # by process: the rows there
    owner: npt.NDArray[np.int32]  # [U], the process of each item
    order: npt.NDArray[np.int32]  # [U], the item's place among those of its process
    place: npt.NDArray[np.int64]  # [T], which of the U items each place of the batch has

    @classmethod
    def of(cls, items: npt.NDArray[np.int64], rows: Rows) -> Asked:
        """Of the items [T] of a batch; in NumPy, because torch releases Python's lock at every operation."""
        ids, place = np.unique(items.astype(np.int32), return_inverse=True)
        owners, widths, starts = _of_classes(rows.ranks)
        of_class = ids % CLASSES
        owner = owners[of_class]
        row = ids // CLASSES * widths[of_class] + starts[of_class]
        order, by_process = np.empty_like(owner), []
        for process in range(rows.ranks):
            (own,) = np.nonzero(owner == process)
            order[own] = np.arange(len(own), dtype=np.int32)
            by_process.append(row[own])
        return cls(by_process, owner, order, place)

    @property
    def most(self) -> int:
        """The most rows of one process."""
        return max(map(len, self.rows))

    def filled(self, capacity: int, places: int | None = None) -> tuple[Tensor, Tensor]:
        """`asked` int32 [P, C], and where each place int32 [T] finds its row among the P C that arrive.

        `places` is T where filling repeats the first items of the batch; None: those of the batch.
        """
        asked = [np.resize(rows, capacity) if len(rows) else np.zeros(capacity, np.int32) for rows in self.rows]
        found = (self.owner * np.int32(capacity) + self.order)[self.place]
        found = found if places is None else np.resize(found, places)
        return torch.from_numpy(np.stack(asked)), torch.from_numpy(found)


def capacity_of(rows: int) -> int:
    """What the rows of a process are filled up to: one of four sizes between powers of two, so that few graphs do."""
    step = max(16, 1 << max(0, (rows - 1).bit_length() - 3))
    return -(-rows // step) * step


@cache
def _of_classes(ranks: int) -> tuple[npt.NDArray[np.int32], ...]:
    """For each of the 64 classes the process that has it, its number of classes, and this class's place in them."""
    parts = [Rows(CLASSES, ranks, rank).classes for rank in range(ranks)]
    found = [(rank, width, place) for rank, (_, width) in enumerate(parts) for place in range(width)]
    return tuple(np.array(column, np.int32) for column in zip(*found, strict=True))


class ShardedLookup:
    """A `rec_models.encoders.embedding.Lookup` for all processes at the same time.

    A training step sets `asked` before it, and its items are then places among the rows that arrive. Otherwise items
    are ids [T], in any number on each process, and this waits for the device.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self.asked: Tensor | None = None

    def __call__(self, items: Tensor, table: Tensor) -> Tensor:
        """Rows [T, D]; backward adds to ``table.grad`` as `rec_models.encoders.embedding.lookup_into_grad` does."""
        asked, self.asked = self.asked, None
        if asked is None:
            plan = Asked.of(items.cpu().numpy(), self._shard.rows)
            most = torch.tensor(max(1, plan.most), device=table.device)
            dist.all_reduce(most, dist.ReduceOp.MAX, group=self._shard.group)
            asked, items = (part.to(table.device) for part in plan.filled(int(most)))
        anchor = torch.empty(0, device=table.device, requires_grad=True)  # see `lookup_into_grad`
        rows: Tensor = _ShardedLookup.apply(anchor, items, asked, (table,), self._shard)  # type: ignore[no-untyped-call]
        return rows


class _ShardedLookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, places: Tensor, asked: Tensor, holder: tuple[Tensor], shard: Shard) -> Tensor:
        wanted = shard.exchange(asked)  # [P, C], the own rows that process p asks for
        (ctx.table,), ctx.shard = holder, shard
        ctx.save_for_backward(places, wanted)
        ctx.set_materialize_grads(False)
        rows = functional.embedding(wanted, ctx.table)  # [P, C, D]
        return shard.exchange(rows).flatten(0, 1).index_select(0, places)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> tuple[None, None, None, None, None]:
        if grad is not None:
            places, wanted = ctx.saved_tensors
            table: Tensor = ctx.table
            # Every row is sent once: what the places of a batch add to it is summed up before.
            sums = grad.new_zeros(wanted.numel(), grad.shape[1], dtype=table.dtype)
            sums.index_add_(0, places, grad.to(table.dtype))
            received = ctx.shard.exchange(sums.view(*wanted.shape, -1))
            if table.grad is None:
                table.grad = torch.zeros_like(table)
            for rows, values in zip(wanted, received, strict=True):  # in the order of the processes
                table.grad.index_add_(0, rows, values)
        return None, None, None, None, None


def encode_last(encoder: Encoder, items: Tensor, offsets: Tensor) -> Tensor:
    """`Encoder.encode_last` for histories that all processes of a sharded table have; each encodes a part of them.

    Returns [B, D], the same on all processes.
    """
    shard = encoder.shard
    if shard is None:
        return encoder.encode_last(items, offsets)
    total, ranks = len(offsets) - 1, shard.rows.ranks
    size = -(-total // ranks)
    starts = [min(rank * size, total - size) for rank in range(ranks)]  # the same size for all: some overlap
    own = offsets[starts[shard.rows.rank] :][: size + 1]
    mine = encoder.encode_last(items[int(own[0]) : int(own[-1])], own - own[0])
    vectors = mine.new_empty(total, mine.shape[1])
    for start, part in zip(starts, shard.gather(mine), strict=True):
        vectors[start : start + size] = part
    return vectors
