"""Batches of an epoch on their way to the training steps: read and prepared ahead of them, in threads for a GPU."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from rec_models.training.batch import Batch, PackedBatch, StepBatch, pack, prepare_packed
from rec_models.training.cuda_graphs import prepare_filled

_Entry = TypeVar("_Entry")


class Batches(Protocol):
    """Training batches that are a pure function of (seed, epoch, index): training can go on in mid-epoch."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterable[Batch]:
        """The batches of an epoch from index `start` on."""


@runtime_checkable
class PackedBatches(Protocol):
    """Batches that come without padding too: training then reads these, at a cost that grows with real places alone."""

    def packed_epoch(self, epoch: int, start: int = 0) -> Iterable[PackedBatch]:
        """The same examples as ``epoch`` gives, in the same batches."""


MakeBatches = Callable[[int, int], Batches]
"""From (rank, world size) to the batches of that rank."""


class Prefetcher:
    """Reads and prepares batches ahead of the training steps.

    Args:
        batches: of this rank.
        accumulate: micro-batches per optimizer step.
        fill: fill every batch up to one of a few sizes, for histories of at most this many items
            (`rec_models.training.cuda_graphs`). This is done on the host: batches on a device are copied there.
        pad_to: count the places that each history lacks to this length as targets, because the loss trains them too
            (`rec_models.losses.paper`); never together with `fill`.
        num_items: refuse ids that are not below V with a `ValueError`: a GPU would stop without naming them. None: do
            not check.
        pin: for a GPU: read and prepare batches in threads, into page-locked memory, so that neither delays the GPU.
    """

    def __init__(
        self,
        batches: Batches,
        accumulate: int,
        *,
        fill: int | None = None,
        pad_to: int | None = None,
        num_items: int | None = None,
        pin: bool,
    ) -> None:
        self.batches = batches
        self._accumulate = accumulate
        self._fill = fill
        self._pad_to = pad_to
        self._num_items = num_items
        self._pin = pin
        self.is_busy: Callable[[], bool] | None = None
        """Whether the device still has work, so that waiting costs nothing; None: it never has."""
        self.waited_seconds = 0.0
        """Seconds spent waiting for batches, without waits at whose end the device was busy."""

    def epoch(self, epoch: int, start: int) -> Generator[StepBatch]:
        """The micro-batches of an epoch from index `start` on; closing the generator ends the threads."""
        source = in_background(self._steps(epoch, start)) if self._pin else self._steps(epoch, start)
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
        with closing(self._source(epoch, start)) as source:
            while prepared := list(islice(source, self._accumulate)):
                counts = tuple(self._count(step) for step in prepared)
                for position, step in enumerate(prepared):
                    yield self._pinned(step._replace(window_counts=counts, position=position))

    def _count(self, step: StepBatch) -> int:
        """The tokens that the loss of a micro-batch is the mean of."""
        padding = 0 if self._pad_to is None else step.layout.rows * self._pad_to - step.num_places
        return step.num_targets + padding

    def _source(self, epoch: int, start: int) -> Generator[StepBatch]:
        batches = self.batches
        prepared = prepare_packed if self._fill is None else partial(prepare_filled, width=self._fill)
        if isinstance(batches, PackedBatches):
            return self._prepared(batches.packed_epoch(epoch, start=start), prepared)
        return self._prepared(batches.epoch(epoch, start=start), lambda batch: prepared(pack(batch)))

    def _prepared(self, batches: Iterable[_Entry], prepared: Callable[[_Entry], StepBatch]) -> Generator[StepBatch]:
        # Two threads, for reading batches and for preparing them: a small step takes less time than both together.
        source = in_background(iter(batches)) if self._pin else (batch for batch in batches)
        with closing(source):
            for batch in source:
                step = prepared(batch)
                if self._num_items is not None:
                    _check_ids("inputs", step.items, self._num_items)
                    _check_ids("targets", step.targets[: step.num_targets], self._num_items)
                yield step

    def _pinned(self, step: StepBatch) -> StepBatch:
        return step.staged(pin=True) if self._pin and not step.items.is_cuda else step


def _check_ids(name: str, ids: Tensor, num_items: int) -> None:
    """Refuse ids [n] outside the catalogue. NumPy on the host: see `rec_models.training.cuda_graphs`."""
    if ids.numel() == 0:
        return
    bounds = (ids.numpy().min(), ids.numpy().max()) if ids.is_cpu else ids.aminmax()
    wrong = [int(bound) for bound in bounds if not 0 <= int(bound) < num_items]
    if wrong:
        allowed = f"0 to {num_items - 1}, as num_items is {num_items}"
        raise ValueError(f"train_batches: found item {wrong[0]} in {name}, allowed: {allowed}")


def in_background(source: Iterator[_Entry], depth: int = 3) -> Generator[_Entry]:
    """Take from an iterator in a thread of its own; its errors are raised here.

    Args:
        source: iterated in the thread.
        depth: entries ahead at most.

    Yields:
        The entries of `source`, in order. Closing the generator tells the thread to end.
    """
    ready: queue.Queue[_Entry | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def hand_over(entry: _Entry | BaseException | None) -> None:
        waiting = True
        while waiting and not stopped.is_set():
            with suppress(queue.Full):
                ready.put(entry, timeout=0.1)
                waiting = False

    def work() -> None:
        try:
            for step in source:
                if stopped.is_set():
                    return
                hand_over(step)
            hand_over(None)
        except BaseException as error:  # whatever it is, the consumer must hear of it
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


def as_factory(batches: Batches | MakeBatches) -> MakeBatches:
    """Batches, or what makes them for a rank, as what makes them for a rank.

    Raises:
        ValueError: by the function returned: it is asked for several ranks, and has batches for one process only.
    """
    if callable(batches):
        return batches

    def single(rank: int, world_size: int) -> Batches:
        if world_size > 1:
            raise ValueError(
                f"train_batches: found one set of batches with {world_size} devices, "
                "allowed: a function from (rank, world_size) to the batches of that rank"
            )
        return batches

    return single
