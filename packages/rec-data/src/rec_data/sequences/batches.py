"""Batches gathered from the sequence store by index arithmetic.

A batch holds its sequences end to end, without padding. It is one gather from the flat item ids, on the device that
trains, so there is no work per row or per padded place, and no worker processes are needed. The content of a batch is
a pure function of (seed, epoch, index), so training can resume in mid-epoch and any rank can be recomputed.

Needs torch, numpy and pyarrow only.
"""

from collections.abc import Iterator
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rec_data.arrays import Int64s, Mask
from rec_data.errors import DataError
from rec_data.sequences.examples import (
    Examples,
    count_examples,
    last_windows,
    replayed_order,
    sliding_windows,
    with_new_items,
)
from rec_data.sequences.gather import IGNORE, Gather, repeat_rows
from rec_data.sequences.masking import mask_items
from rec_data.sequences.read_ahead import ReadAhead
from rec_data.sequences.schedule import Schedule
from rec_data.sequences.store import SequenceStore
from rec_data.sequences.subsets import StoreParts

__all__ = ["Batch", "SequenceStore", "TrainingBatches", "inference_batches"]

TASKS = ("next_item", "masked_item")


class Batch(NamedTuple):
    """Packed sequences: sequence ``i`` is ``items[offsets[i] : offsets[i + 1]]``."""

    items: Tensor
    """[T] int64; T is the sum of the lengths."""
    offsets: Tensor
    """[B + 1] int64, from 0 to T; every sequence has at least one item."""
    targets: Tensor
    """[T] int64, -100 where nothing is predicted."""
    masked: Tensor | None = None
    """[T] bool, masked-item task only: the mask vector replaces the item here, and ``items`` holds 0."""


class TrainingBatches:
    """The training examples of a store or of a subset in parts, batch by batch.

    ``next_item``: the last ``max_seq_len + 1`` items of a user; all but the last are inputs, and the target at each is
    the item that follows. ``masked_item``: the last ``max_seq_len`` items; the targets are the items behind the mask
    (``rec_data.sequences.masking``). A history of one item has nothing to predict from and yields no example.
    """

    def __init__(
        self,
        store: SequenceStore | StoreParts,
        *,
        num_items: int,
        task: Literal["next_item", "masked_item"] = "next_item",
        batch_size: int,
        max_seq_len: int,
        mask_prob: float = 0.15,
        window: int | None = None,
        seed: int = 42,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        new: Mask | None = None,
        replay: float = 1.0,
    ) -> None:
        """Plans the examples and reads the whole store once, to check its ids.

        Reading a memory-mapped store brings its pages into memory, four bytes per item. The system may drop them
        again; until then they count as memory of the process.

        Args:
            store: The training histories. Of those in parts the examples of all parts are shuffled together, and each
                rank opens its own parts only if ``world_size`` divides their number (`Schedule`). Example by example,
                an epoch is that of one store; the order and the masks depend on the parts.
            num_items: Rows of the item table; every item of the store must be below it.
            task: ``next_item`` or ``masked_item``.
            batch_size: Sequences per batch and rank.
            max_seq_len: Longest input.
            mask_prob: Masked-item task: probability that a place is masked.
            window: None: one example per user, its last items. An integer: a window slides back over the whole history
                in steps of this many items, at most ``max_seq_len``.
            seed: Of the order and of the masks.
            device: Where the batches should be.
            rank: Index of this process.
            world_size: Number of processes, which share the examples without overlap or loss.
            new: [nnz] which items of the store are new, for a model that knows the others. An epoch then has the
                examples that predict a new item, and some of the others. With ``next_item`` the former have new targets
                only. None: all examples.
            replay: How many of the others an epoch has, drawn for each epoch, as a multiple of those with new items.

        Raises:
            DataError: An argument out of range, an item out of range, or too few examples for the ranks; a part is
                damaged; ``new`` with parts.
        """
        if task not in TASKS:
            raise DataError(f"task {task!r}; allowed: {', '.join(TASKS)}")
        _check_at_least(1, batch_size=batch_size, max_seq_len=max_seq_len, world_size=world_size)
        _check_at_least(0, seed=seed)
        if not 0 <= rank < world_size:
            raise DataError(f"rank {rank}; allowed: from 0 to world_size - 1 = {world_size - 1}")
        if task == "masked_item" and not 0 < mask_prob < 1:
            raise DataError(f"mask_prob {mask_prob}; allowed: above 0 and below 1")
        if window is not None and not 1 <= window <= max_seq_len:
            raise DataError(f"window: found {window!r}, allowed: 1 to max_seq_len = {max_seq_len}, or None")
        if new is not None and isinstance(store, StoreParts):
            raise DataError(f"new items: found histories in {len(store.heads)} parts, allowed: in one")

        self.task, self.batch_size, self.max_seq_len, self.mask_prob = task, batch_size, max_seq_len, mask_prob
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.device = torch.device(device)
        self._shift = 1 if task == "next_item" else 0  # items of an example beyond its inputs
        span = max_seq_len + self._shift
        find = (
            partial(last_windows, span=span)
            if window is None
            else partial(sliding_windows, span=span, stride=window, full=task == "masked_item")
        )
        if isinstance(store, SequenceStore):
            self.examples: Examples = find(store.offsets.numpy())
            sizes = [len(self.examples)]
        else:
            sizes = [count_examples(*lengths, find) for lengths in store.lengths]
        self._new: Mask | None = None
        if new is not None:
            self._new = with_new_items(self.examples, new)
            sizes = [min(sizes[0], round((1 + replay) * int(np.count_nonzero(self._new))))]
        if sum(sizes) < world_size:
            raise DataError(
                f"{sum(sizes)} histories with at least two items, for world_size {world_size}; "
                "allowed: at least one each"
            )
        self._schedule = Schedule(sizes, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        if isinstance(store, SequenceStore):
            opened = [store]
        else:
            opened = list(store.open([part + 1 for part in self._schedule.parts]))
            self.examples = Examples.joined(
                [find(part.offsets.numpy()) for part in opened], [len(part.items) for part in opened]
            )
        for part in opened:
            _check_items(part, num_items)
        self._gather = Gather([part.items for part in opened], self.device)
        self._ahead = ReadAhead(opened) if isinstance(store, StoreParts) else None
        if new is not None:
            new_only = torch.where(torch.from_numpy(new), opened[0].items, torch.tensor(IGNORE, dtype=torch.int32))
            self._gather_new = Gather([new_only], self.device)

    def __len__(self) -> int:
        """Batches per epoch (the same on every rank)."""
        return len(self._schedule)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches ``start`` to ``len(self) - 1`` of an epoch on this rank; each epoch has its own order.

        Raises:
            DataError: An argument below 0.
        """
        _check_at_least(0, epoch=epoch, start=start)
        if self._new is None:
            orders = self._schedule.orders(epoch)
        else:
            replayed = self._schedule.size - int(np.count_nonzero(self._new))
            orders = [replayed_order(self._new, replayed, seed=self.seed, epoch=epoch)]
        batches = (self._schedule.rows(orders, index) for index in range(start, len(self)))
        for rows in batches if self._ahead is None else self._ahead.of(batches, self.examples):
            yield self._batch(rows, epoch)

    def _batch(self, rows: Int64s, epoch: int) -> Batch:
        starts, lengths = self.examples.starts[rows], self.examples.lengths[rows] - self._shift
        if self.task == "next_item":
            items, offsets, targets = self._gather.with_next(starts, lengths)
            if self._new is not None:
                new_only, _ = self._gather_new(starts + 1, lengths)
                is_new = torch.from_numpy(self._new[rows]).to(self.device, non_blocking=True)
                targets = torch.where(repeat_rows(is_new, offsets, len(items)), new_only, targets)
            return Batch(items, offsets, targets)
        items, offsets = self._gather(starts, lengths)
        examples = torch.from_numpy(rows + self._schedule.first_example).to(self.device, non_blocking=True)
        items, targets, masked = mask_items(items, offsets, examples, prob=self.mask_prob, seed=self.seed, epoch=epoch)
        return Batch(items, offsets, targets, masked)


def inference_batches(
    store: SequenceStore, *, max_seq_len: int, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """The histories of a store in order, each cut to its last ``max_seq_len`` items.

    Yields:
        Batches of ``batch_size`` histories on the device, whose targets are -100 everywhere.

    Raises:
        DataError: An argument out of range, or an empty history.
    """
    _check_at_least(1, batch_size=batch_size, max_seq_len=max_seq_len)
    offsets = store.offsets.numpy()
    if len(store) and int(np.diff(offsets).min()) < 1:
        raise DataError("the store holds an empty history; allowed: at least one item each")
    gather = Gather([store.items], torch.device(device))
    ends = offsets[1:]
    starts = np.maximum(offsets[:-1], ends - max_seq_len)
    for first in range(0, len(store), batch_size):
        part = slice(first, first + batch_size)
        items, cuts = gather(starts[part], ends[part] - starts[part])
        yield Batch(items, cuts, torch.full_like(items, IGNORE))


def _check_at_least(smallest: int, **values: int) -> None:
    for name, value in values.items():
        if value < smallest:
            raise DataError(f"{name} {value}; allowed: at least {smallest}")


def _check_items(store: SequenceStore, num_items: int) -> None:
    if store.items.numel() == 0:
        return
    smallest, largest = (int(bound) for bound in torch.aminmax(store.items))
    if smallest < 0 or largest >= num_items:
        raise DataError(
            f"the store holds items from {smallest} to {largest}; num_items {num_items} allows 0 to {num_items - 1}"
        )
