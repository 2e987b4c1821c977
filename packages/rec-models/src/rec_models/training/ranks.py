"""Several processes that train together: sizes agreed on the host, tokens and gradients exchanged on the devices.

Each process has a part of the batch and all weights. Gradients are added up in two collective operations per step, one
for the item table's and one for those of all other weights. What a step needs to know of the other ranks' batches is
agreed ahead of time, on the host: a training step never waits for the device.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rec_models.encoders import Encoder
from rec_models.errors import TrainingError
from rec_models.training.batch import IGNORED


@contextmanager
def lost_rank_errors() -> Iterator[None]:
    """Turn the error of a connection to a process that has ended into a `TrainingError`."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo/transport" not in str(error):
            raise
        text = "devices: found that another process of this run has ended; its own message says why"
        raise TrainingError(text) from error


def end_with_parent() -> None:
    """End this process within seconds of the one that started it: on a GPU it would wait for its tokens forever."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2.0)
        sys.stderr.write("devices: found that the first process of this run has ended; its own message says why\n")
        os._exit(1)

    threading.Thread(target=watch, name="rec_models.training.ranks", daemon=True).start()


class Ranks:
    """The processes of a run; made after their launch, by all of them at the same time."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        # Of its own: threads that prefetch use it while the training loop uses the devices' group.
        self._host = dist.new_group(backend="gloo")

    def agree(self, numbers: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """What all ranks say, by rank; each says as many numbers. On the host."""
        mine = torch.tensor(numbers, dtype=torch.int64)
        of_all = mine.new_empty(self.world_size * len(numbers))
        dist.all_gather_into_tensor(of_all, mine, group=self._host)
        return tuple(map(tuple, of_all.view(self.world_size, -1).tolist()))

    def share_weights(self, encoder: Encoder) -> None:
        """Give all ranks the weights of the first; a sharded table is left alone."""
        for parameter in encoder.parameters():
            if encoder.shard is None or parameter is not encoder.item_table:
                dist.broadcast(parameter.data, 0)

    def sum_gradients(self, encoder: Encoder) -> None:
        """Add up the gradients of all ranks in place; a parameter without one has a gradient of 0.

        That of a sharded table is complete already.
        """
        table = encoder.item_table
        others = [parameter for parameter in encoder.parameters() if parameter is not table]
        for parameter in (table, *others):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        assert table.grad is not None
        if encoder.shard is None:
            dist.all_reduce(table.grad)
        gradients: list[Any] = [parameter.grad for parameter in others]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(x) for part, x in zip(parts, gradients, strict=True)])


@dataclass(frozen=True)
class RankTokens:
    """The tokens of a micro-batch on all ranks: `counts` of them, in the order in which one process would have them."""

    counts: tuple[int, ...]
    rank: int

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """On all ranks."""
        return sum(self.counts)

    @property
    def first(self) -> int:
        """The place of this rank's first token among them."""
        return sum(self.counts[: self.rank])

    def pool(self, targets: Tensor) -> Tensor:
        """The targets of all ranks, in their order, with -100 between them: from [M] int64 to [K].

        With filled batches K is the same for all batches of a size.
        """
        return self.each(self.filled(targets, IGNORED)).flatten()

    def filled(self, mine: Tensor, value: int) -> Tensor:
        """[M, ...] of this rank, filled up to as many tokens as the others have: [largest of `counts`, ...]."""
        return _filled(mine, max(mine.shape[0], *self.counts), value)

    def gather(self, mine: Tensor) -> Tensor:
        """[M, ...] of this rank to [total, ...] of all; the gradient of this rank's part comes back from all."""
        of_all: Tensor = _Gather.apply(mine, self)  # type: ignore[no-untyped-call]
        return of_all

    def each(self, values: Tensor) -> Tensor:
        """The values of all ranks, [P, ...], by rank; their shape is the same on all."""
        of_all = values.new_empty(self.size * values.numel())
        dist.all_gather_into_tensor(of_all, values.contiguous().view(-1))
        return of_all.view(self.size, *values.shape)


def _filled(part: Tensor, size: int, value: int) -> Tensor:
    """[M, ...] filled up to [size, ...]."""
    if part.shape[0] == size:
        return part
    out = part.new_full((size, *part.shape[1:]), value)
    out[: part.shape[0]] = part
    return out


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor, tokens: RankTokens) -> Tensor:
        ctx.tokens = tokens
        rows = tokens.each(_filled(mine, max(tokens.counts), 0))
        return torch.cat([part[:count] for part, count in zip(rows, tokens.counts, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        tokens: RankTokens = ctx.tokens
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[tokens.first : tokens.first + tokens.counts[tokens.rank]], None
