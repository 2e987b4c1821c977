"""Which examples are in which batch on which rank, where the examples are in one part or in several."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from rec_data.arrays import Int64s
from rec_data.sequences.examples import epoch_order, even_share, num_batches


class Schedule:
    """The batches of a rank, by the sizes of all parts.

    All ranks together take consecutive blocks of ``batch_size * world_size`` examples of an epoch (`num_batches`). In a
    block each part has its share: of the first x places, part p has ``floor(x S(p) / E) - floor(x S(p - 1) / E)``. S(p)
    are the examples of the first p parts and E those of all. That is less than one from its exact share, so no part is
    exhausted before another. Each part has an order of its own, which changes from epoch to epoch.

    So a block is a function of (seed, epoch, index), of the sizes of the parts and of the block, but not of the number
    of ranks. If that divides the number of parts, each rank has the examples of its own parts in each block, about
    ``batch_size`` of them. Otherwise the ranks share each block evenly, as they do the examples of one store.

    A block has less than two examples more or fewer of a part than its exact share. If that share is below two for some
    part, which could then be missing, all examples are shuffled together, as those of one store.
    """

    def __init__(self, sizes: Sequence[int], *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        """Plans the batches.

        Args:
            sizes: The number of examples of each part.
            batch_size: Examples per batch and rank.
            seed: Of the orders.
            rank: Index of this process.
            world_size: Number of processes, at most as many as there are examples.
        """
        self.size, self._seed, self._rank, self._world_size = sum(sizes), seed, rank, world_size
        self._block = batch_size * world_size
        self._by_part = len(sizes) > 1 and min(sizes) * self._block >= 2 * self.size
        self._ends = list(accumulate(sizes if self._by_part else [self.size], initial=0))
        self._owns_parts = self._by_part and len(sizes) % world_size == 0
        each = len(sizes) // world_size if self._owns_parts else len(sizes)
        first = rank * each if self._owns_parts else 0
        self.parts = range(first, first + each)
        """The parts, from 0, that this rank reads."""
        self.first_example = sum(sizes[:first])
        """How many examples the parts before them have."""
        self._count = num_batches(self.size, batch_size=batch_size, world_size=world_size)
        if self._count > 1 and not all(self._share(self._count - 1, of=self._count)):
            self._count -= 1  # the remaining examples join the block before, so that each part has one in every block

    def __len__(self) -> int:
        """Batches per epoch (the same on every rank)."""
        return self._count

    def orders(self, epoch: int) -> list[Int64s]:
        """The order of the examples of each part that this rank reads, counted from its first one; or of all in one."""
        if not self._by_part:
            return [epoch_order(self.size, seed=self._seed, epoch=epoch)]
        sizes = np.diff(self._ends).tolist()
        orders = [epoch_order(sizes[part], seed=self._seed, epoch=epoch, part=part) for part in self.parts]
        for part, order in zip(self.parts, orders, strict=True):
            order += self._ends[part] - self.first_example
        return orders

    def rows(self, orders: list[Int64s], index: int) -> Int64s:
        """The examples [B] of this rank's batch `index`, in the `orders` of the epoch."""
        begin, end = self._bounds(index, self._count)
        if not self._by_part:
            return orders[0][even_share(begin, end, rank=self._rank, world_size=self._world_size)]
        before, after = self._taken(begin), self._taken(end)
        own = zip(self.parts, orders, strict=True)
        rows = np.concatenate([order[before[part] : after[part]] for part, order in own])
        return (
            rows if self._owns_parts else rows[even_share(0, len(rows), rank=self._rank, world_size=self._world_size)]
        )

    def _bounds(self, index: int, count: int) -> tuple[int, int]:
        """The places in the epoch of a block of so many blocks."""
        return index * self._block, self.size if index == count - 1 else (index + 1) * self._block

    def _share(self, index: int, *, of: int) -> list[int]:
        """How many examples of a block of so many each part has."""
        begin, end = self._bounds(index, of)
        return [after - before for before, after in zip(self._taken(begin), self._taken(end), strict=True)]

    def _taken(self, places: int) -> list[int]:
        """How many of the first places of an epoch each part has; Python's integers do not overflow."""
        return [places * end // self.size - places * begin // self.size for begin, end in pairwise(self._ends)]
