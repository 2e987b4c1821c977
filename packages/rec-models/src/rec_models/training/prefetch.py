"""Prefetch: batches are read and prepared ahead of the training steps, on a GPU in background threads."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import Protocol, TypeVar

from torch import Tensor

from cce_kernels.shard import Rows
from rec_models.encoders.sharded_lookup import Asked, capacity_of
from rec_models.training.batch import Batch, StepBatch, prepare
from rec_models.training.cuda_graphs import FilledSize, prepare_filled
from rec_models.training.ranks import Ranks

_Entry = TypeVar("_Entry")


class Batches(Protocol):
    """Training batches that are a pure function of (seed, epoch, index), so that training can resume in mid-epoch."""

    def __len__(self) -> int:
        """Batches per epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterable[Batch]:
        """The batches of an epoch from index `start` on."""


MakeBatches = Callable[[int, int], Batches]  # from (rank, world size) to the batches of that rank


@dataclass
class Prefetcher:
    """Reads and prepares batches ahead of the training steps.

    Filling (`rec_models.training.cuda_graphs`) is done on the host: batches on a device are copied there. Padding is
    counted for losses that train it too (`rec_models.losses.paper`), and never together with filling.
    """

    batches: Batches  # of this rank
    accumulate: int  # micro-batches per optimizer step
    _: KW_ONLY
    pin: bool  # for a GPU: read and prepare in threads, into page-locked memory, so that neither delays the GPU
    fill: int | None = None  # fill every batch up to one of a few sizes, for histories of at most this many items
    pad_to: int | None = None  # count the places that each history lacks to this length as targets
    num_items: int | None = None  # refuse ids that are not below V, a ValueError: a GPU would stop without naming them
    ranks: Ranks | None = None  # agrees on the tokens of each batch, ahead of the training steps; None: one process
    rows: Rows | None = None  # of a table that is sharded over the ranks; None: it is not
    is_busy: Callable[[], bool] | None = None  # whether the device still has work, so that waiting costs nothing
    waited_seconds: float = 0.0  # waiting for batches and, in one thread, making them; not if `is_busy` at its end

    def epoch(self, epoch: int, start: int) -> Generator[StepBatch]:
        """The micro-batches of an epoch from index `start` on; closing the generator ends the threads."""
        source = in_background(self._steps(epoch, start)) if self.pin else self._steps(epoch, start)
        with closing(source):
            while True:
                asked = time.perf_counter()
                step = next(source, None)
                if self.is_busy is None or not self.is_busy():
                    self.waited_seconds += time.perf_counter() - asked
                if step is None:
                    return
                yield step

    def _steps(self, epoch: int, start: int) -> Generator[StepBatch]:
        with closing(self._prepared(epoch, start)) as source:
            while prepared := list(islice(source, self.accumulate)):
                counts = tuple(self._count(step) for step, _ in prepared)
                asked = [each for _, each in prepared if each is not None]
                rank, everyone, sizes = 0, None, []
                if self.ranks is not None:
                    said = self.ranks.agree((*counts, *(each.most for each in asked)))
                    rank, everyone = self.ranks.rank, tuple(each[: len(counts)] for each in said)
                    sizes = [capacity_of(max(of_all)) for of_all in list(zip(*said, strict=True))[len(counts) :]]
                for position, (step, _) in enumerate(prepared):
                    placed = step._replace(window_counts=counts, position=position, rank=rank, rank_counts=everyone)
                    if asked:
                        of_rows, found = asked[position].filled(sizes[position], len(step.items))
                        placed = placed._replace(asked=of_rows, found=found)
                    if self.fill is not None and self.ranks is not None:
                        placed = placed.with_place()
                    yield placed.in_one_buffer(pin=True) if self.pin and not step.items.is_cuda else placed

    def _count(self, step: StepBatch) -> int:
        """The tokens that the loss of a micro-batch is the mean of."""
        padding = 0 if self.pad_to is None else step.layout.rows * self.pad_to - step.num_places
        return step.num_targets + padding

    def _size(self, batch: Batch) -> FilledSize:
        """What a batch is filled up to: the largest of all ranks."""
        assert self.fill is not None
        mine = FilledSize.of(batch, self.fill)
        return mine if self.ranks is None else FilledSize.of_ranks(self.ranks.agree(mine), self.fill)

    def _prepared(self, epoch: int, start: int) -> Generator[tuple[StepBatch, Asked | None]]:
        # Two threads, one reads batches and one prepares them: a small step takes less time than both together.
        source = in_background(self._read(epoch, start)) if self.pin else self._read(epoch, start)
        with closing(source):
            for batch, asked in source:
                step = prepare(batch) if self.fill is None else prepare_filled(batch, self.fill, self._size(batch))
                if self.num_items is not None:
                    _check_ids("items", step.items, self.num_items)
                    _check_ids("targets", step.targets[: step.num_targets], self.num_items)
                yield step, asked

    def _read(self, epoch: int, start: int) -> Generator[tuple[Batch, Asked | None]]:
        found, expected = start, len(self.batches)
        for found, batch in enumerate(self.batches.epoch(epoch, start=start), start + 1):
            if self.ranks is not None and found > expected:
                break
            yield batch, None if self.rows is None else Asked.of(batch.items.cpu().numpy(), self.rows)
        if self.ranks is not None and found != expected:  # the other ranks would wait for it forever
            place = f"{'more' if found > expected else found} batches of rank {self.ranks.rank} in epoch {epoch + 1}"
            raise ValueError(f"train_batches: found {place}, allowed: {expected}, its length")


def _check_ids(name: str, ids: Tensor, num_items: int) -> None:
    """Refuse ids [n] outside the catalogue; in NumPy on the host, see `prepare_filled`."""
    if ids.numel() == 0:
        return
    bounds = (ids.numpy().min(), ids.numpy().max()) if ids.is_cpu else ids.aminmax()
    wrong = [int(bound) for bound in bounds if not 0 <= int(bound) < num_items]
    if wrong:
        allowed = f"0 to {num_items - 1}, as num_items is {num_items}"
        raise ValueError(f"train_batches: found item {wrong[0]} in {name}, allowed: {allowed}")


def in_background(source: Iterator[_Entry], depth: int = 3) -> Generator[_Entry]:
    """Iterate in a background thread that may be `depth` entries ahead; its errors are raised in the consumer.

    Closing the generator ends the thread.
    """
    ready: queue.Queue[_Entry | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def hand_over(entry: _Entry | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(entry, timeout=0.1)
                return

    def work() -> None:
        try:
            for step in source:
                if stopped.is_set():
                    return
                hand_over(step)
            hand_over(None)
        except BaseException as error:  # whatever it is, the consumer must raise it
            hand_over(error)

    thread = threading.Thread(target=work, name="rec_models.training.prefetch", daemon=True)
    thread.start()
    try:
        while (entry := ready.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry
    finally:
        stopped.set()


def batches_of(train_batches: Batches | MakeBatches, rank: int, world_size: int) -> Batches:
    """The batches of a rank; a `ValueError` if there are several ranks, but batches for one process only."""
    if callable(train_batches):
        return train_batches(rank, world_size)
    if world_size > 1:
        allowed = "a function from (rank, world_size) to the batches of that rank"
        raise ValueError(f"train_batches: found one set of batches with {world_size} devices, allowed: {allowed}")
    return train_batches
