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


class Feed:
    """The iterable that Lightning trains on: each pass is the rest of one epoch.

    It has no length on purpose: Lightning then looks one batch ahead to find the last one, which stays right when the
    first pass after a resume is only a part of an epoch.

    Args:
        batches: called at the first pass, when the rank is known.
        position: gives (epoch, index) of the first batch of a pass.
        accumulate: micro-batches a window.
        fill: fill every batch up to a few sizes, with histories of at most so many items
        (`rec_models.training.cuda_graphs`). That
            is done on the host: batches on a device are brought there.
        pad_to: count the places that each history lacks to so many as targets: the loss trains them too
            (`rec_models.losses.paper`); never with `fill`.
        num_items: refuse ids that are not below V with a `ValueError`: a GPU would stop without a word about them;
            None: they are not looked at.
        pin: for a GPU: read and prepare batches in threads of their own, in page-locked memory, so that neither keeps
            the GPU waiting.
    """

    def __init__(
        self,
        batches: Callable[[], Batches],
        position: Callable[[], tuple[int, int]],
        accumulate: int,
        *,
        fill: int | None = None,
        pad_to: int | None = None,
        num_items: int | None = None,
        pin: bool,
    ) -> None:
        self._batches = batches
        self._position = position
        self._accumulate = accumulate
        self._fill = fill
        self._pad_to = pad_to
        self._num_items = num_items
        self._pin = pin
        self.is_busy: Callable[[], bool] | None = None
        """Whether the device still works on what it was given; None: it never does meanwhile."""
        self.waited_seconds = 0.0
        """How long those who iterate have waited for batches, without waits at whose end the device was busy."""

    def __iter__(self) -> Iterator[StepBatch]:
        source = in_background(self._steps()) if self._pin else self._steps()
        with closing(source):
            while True:
                asked = time.perf_counter()
                step = next(source, None)
                if self.is_busy is None or not self.is_busy():
                    self.waited_seconds += time.perf_counter() - asked
                if step is None:
                    return
                yield step

    def _steps(self) -> Generator[StepBatch]:
        with closing(self._source()) as source:
            while prepared := list(islice(source, self._accumulate)):
                counts = tuple(self._count(step) for step in prepared)
                for position, step in enumerate(prepared):
                    yield self._pinned(step._replace(window_counts=counts, position=position))

    def _count(self, step: StepBatch) -> int:
        """The tokens that the loss of a micro-batch is the mean of."""
        padding = 0 if self._pad_to is None else step.layout.rows * self._pad_to - step.num_places
        return step.num_targets + padding

    def _source(self) -> Generator[StepBatch]:
        epoch, start = self._position()
        batches = self._batches()
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
