"""Batches gathered from the sequence store by index arithmetic.

A batch is one gather from the flat item ids, end to end, on the device that trains: nothing is done row by row, nothing
for padding, and no workers are needed; padding is put around where it is asked for. What a batch holds is a pure
function of (seed, epoch, index), so training resumes in mid-epoch, and any rank can be recomputed.

Needs torch, numpy and pyarrow only.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rec_data.arrays import Int64s
from rec_data.errors import DataError
from rec_data.sequences.examples import Examples, epoch_order, last_windows, num_batches, shard, sliding_windows
from rec_data.sequences.gather import IGNORE, Gather, padded_places
from rec_data.sequences.masking import mask_items
from rec_data.sequences.store import SequenceStore

__all__ = ["Batch", "PackedBatch", "SequenceStore", "TrainingBatches", "inference_batches"]

TASKS = ("next_item", "masked_item")


class Batch(NamedTuple):
    """Sequences of one batch, padded on the right.

    Padded places hold item 0; only ``lengths`` tells them from item 0 itself.
    """

    inputs: Tensor
    """[B, L] int64; L is the longest sequence of this batch."""

    lengths: Tensor
    """[B] int64, >= 1."""

    targets: Tensor
    """[B, L] int64, -100 where nothing is predicted."""

    masked: Tensor | None = None
    """[B, L] bool, masked-item task only: the mask vector stands here, and ``inputs`` holds 0."""


class PackedBatch(NamedTuple):
    """Sequences of one batch, end to end, without padding.

    Sequence ``i`` is ``inputs[offsets[i] : offsets[i + 1]]``.
    """

    inputs: Tensor
    """[T] int64; T is the sum of the lengths."""

    offsets: Tensor
    """[B + 1] int64."""

    targets: Tensor
    """[T] int64, -100 where nothing is predicted."""

    masked: Tensor | None = None
    """[T] bool, masked-item task only."""


class TrainingBatches:
    """The training examples of a store, batch by batch.

    ``next_item``: the last ``max_seq_len + 1`` items of a user; at every place but the last the target is the item
    that follows. ``masked_item``: the last ``max_seq_len`` items; the targets are the items behind the mask
    (``rec_data.sequences.masking``). Histories of one item hold nothing to predict from, and give no example.
    """

    def __init__(
        self,
        store: SequenceStore,
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
    ) -> None:
        """Plans the examples; reads the whole store once, to check its ids.

        What is read of a mapped store are pages that the system may drop again, four bytes an item. They count as
        memory of the process for as long as they stay.

        Args:
            store: The training histories.
            num_items: Rows of the item table; every item of the store must be below it.
            task: ``next_item`` or ``masked_item``.
            batch_size: Sequences per batch and rank.
            max_seq_len: Longest input.
            mask_prob: Masked-item task: probability that a place is masked.
            window: None: one example per user, its last items. An integer: examples slide back over the whole history
                in steps of so many items, at most ``max_seq_len``.
            seed: Of the order and of the masks.
            device: Where the batches are wanted.
            rank: This process among ``world_size``.
            world_size: Processes that share the examples, without overlap or loss.

        Raises:
            DataError: An argument out of range, an item out of range, or too few examples for the ranks.
        """
        if task not in TASKS:
            raise DataError(f"task {task!r}; allowed: {', '.join(TASKS)}")
        for name, value in (("batch_size", batch_size), ("max_seq_len", max_seq_len), ("world_size", world_size)):
            if value < 1:
                raise DataError(f"{name} {value}; allowed: at least 1")
        if seed < 0:
            raise DataError(f"seed {seed}; allowed: at least 0")
        if not 0 <= rank < world_size:
            raise DataError(f"rank {rank}; allowed: from 0 to world_size - 1 = {world_size - 1}")
        if task == "masked_item" and not 0 < mask_prob < 1:
            raise DataError(f"mask_prob {mask_prob}; allowed: above 0 and below 1")
        if window is not None and not 1 <= window <= max_seq_len:
            raise DataError(f"window: found {window!r}, allowed: 1 to max_seq_len = {max_seq_len}, or None")
        _check_items(store, num_items)

        self.task, self.batch_size, self.max_seq_len, self.mask_prob = task, batch_size, max_seq_len, mask_prob
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.device = torch.device(device)
        self._shift = 1 if task == "next_item" else 0  # items of an example beyond its inputs
        offsets = store.offsets.numpy()
        span = max_seq_len + self._shift
        self.examples: Examples = (
            last_windows(offsets, span)
            if window is None
            else sliding_windows(offsets, span, window, full=task == "masked_item")
        )
        if len(self.examples) < world_size:
            raise DataError(
                f"{len(self.examples)} histories with at least two items, for world_size {world_size}; "
                "allowed: at least one each"
            )
        self._gather = Gather(store.items, self.device)

    def __len__(self) -> int:
        """Batches per epoch (the same on every rank)."""
        return num_batches(len(self.examples), batch_size=self.batch_size, world_size=self.world_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch.

        Args:
            epoch: Which epoch; each has an order of its own.
            start: Index of the first batch to give, to go on in mid-epoch.

        Yields:
            Batches ``start`` to ``len(self) - 1`` of this rank.

        Raises:
            DataError: An argument below 0.
        """
        for rows in self._rows(epoch, start):
            longest = int(self.examples.lengths[rows].max()) - self._shift
            yield _pad(self._batch(rows, epoch), longest)

    def packed_epoch(self, epoch: int, start: int = 0) -> Iterator[PackedBatch]:
        """The batches of ``epoch``, without padding.

        Args:
            epoch: Which epoch.
            start: Index of the first batch to give.

        Yields:
            The same examples as ``epoch`` gives, in the same batches.

        Raises:
            DataError: An argument below 0.
        """
        for rows in self._rows(epoch, start):
            yield self._batch(rows, epoch)

    def _rows(self, epoch: int, start: int) -> Iterator[Int64s]:
        """The examples of this rank's batches."""
        for name, value in (("epoch", epoch), ("start", start)):
            if value < 0:
                raise DataError(f"{name} {value}; allowed: at least 0")
        order = epoch_order(len(self.examples), seed=self.seed, epoch=epoch)
        for index in range(start, len(self)):
            place = shard(len(order), index, batch_size=self.batch_size, rank=self.rank, world_size=self.world_size)
            yield order[place]

    def _batch(self, rows: Int64s, epoch: int) -> PackedBatch:
        starts, lengths = self.examples.starts[rows], self.examples.lengths[rows] - self._shift
        if self.task == "next_item":
            inputs, offsets, targets = self._gather.with_next(starts, lengths)
            return PackedBatch(inputs, offsets, targets)
        inputs, offsets = self._gather(starts, lengths)
        examples = torch.from_numpy(rows).to(self.device, non_blocking=True)
        inputs, targets, masked = mask_items(
            inputs, offsets, examples, prob=self.mask_prob, seed=self.seed, epoch=epoch
        )
        return PackedBatch(inputs, offsets, targets, masked)


def inference_batches(
    store: SequenceStore, *, max_seq_len: int, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """All histories of a store in their order, each cut to its last ``max_seq_len`` items.

    Args:
        store: The histories to continue.
        max_seq_len: Longest input.
        batch_size: Histories per batch.
        device: Where the batches are wanted.

    Yields:
        Batches whose targets are -100 everywhere.

    Raises:
        DataError: An argument out of range, or an empty history.
    """
    for name, value in (("batch_size", batch_size), ("max_seq_len", max_seq_len)):
        if value < 1:
            raise DataError(f"{name} {value}; allowed: at least 1")
    offsets = store.offsets.numpy()
    if len(store) and int(np.diff(offsets).min()) < 1:
        raise DataError("the store holds an empty history; allowed: at least one item each")
    gather = Gather(store.items, torch.device(device))
    ends = offsets[1:]
    starts = np.maximum(offsets[:-1], ends - max_seq_len)
    for first in range(0, len(store), batch_size):
        part = slice(first, first + batch_size)
        lengths = ends[part] - starts[part]
        inputs, cuts = gather(starts[part], lengths)
        yield _pad(PackedBatch(inputs, cuts, torch.full_like(inputs, IGNORE)), int(lengths.max()))


def _pad(batch: PackedBatch, longest: int) -> Batch:
    """Pads a batch on the right; ``longest``, the longest sequence, is known on the host: no device is waited for."""
    rows = len(batch.offsets) - 1
    places = padded_places(batch.offsets, len(batch.inputs), longest)

    def padded(values: Tensor, fill: int) -> Tensor:
        return values.new_full((rows * longest,), fill).index_copy_(0, places, values).view(rows, longest)

    masked = None if batch.masked is None else padded(batch.masked, 0)
    return Batch(padded(batch.inputs, 0), batch.offsets.diff(), padded(batch.targets, IGNORE), masked)


def _check_items(store: SequenceStore, num_items: int) -> None:
    if store.items.numel() == 0:
        raise DataError("the store holds no items, so there is nothing to train on")
    smallest, largest = (int(bound) for bound in torch.aminmax(store.items))
    if smallest < 0 or largest >= num_items:
        raise DataError(
            f"the store holds items from {smallest} to {largest}; num_items {num_items} allows 0 to {num_items - 1}"
        )
