"""What a training step receives, prepared on the host so that the step never waits for the device."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from rec_models.backbones.layout import Layout, layout_of
from rec_models.staging import stage, views

_Entry = TypeVar("_Entry")
IGNORED = -100  # the target of a place that predicts nothing


class Batch(Protocol):
    """A batch of sequences, right-padded."""

    @property
    def inputs(self) -> Tensor:
        """[B, L] int64 item ids."""

    @property
    def lengths(self) -> Tensor:
        """[B] int64, from 1 to L."""

    @property
    def targets(self) -> Tensor:
        """[B, L] int64, -100 where nothing is predicted."""

    @property
    def masked(self) -> Tensor | None:
        """[B, L] bool: the mask vector stands here instead of the item; None for causal models."""


class PackedBatch(Protocol):
    """A batch of sequences, end to end; sequence i is ``inputs[offsets[i] : offsets[i + 1]]``."""

    @property
    def inputs(self) -> Tensor:
        """[T] int64 item ids; T is the sum of the lengths."""

    @property
    def offsets(self) -> Tensor:
        """[B + 1] int64, from 0 to T."""

    @property
    def targets(self) -> Tensor:
        """[T] int64, -100 where nothing is predicted."""

    @property
    def masked(self) -> Tensor | None:
        """[T] bool: the mask vector stands here instead of the item; None for causal models."""


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


class StepBatch(NamedTuple):
    """One micro-batch; a window of ``accumulate`` of them makes a step of the optimiser."""

    items: Tensor  # [T] int64, the real places of the batch, packed
    layout: Layout  # of the T places
    masked: Tensor | None  # [T] bool
    rows: Tensor | None  # [M] int64 into the T places: those with a target; None: all of them
    targets: Tensor  # [M] int64
    window_counts: tuple[int, ...]  # M of each micro-batch of the window
    position: int  # of this micro-batch in its window
    num_places: int  # T, without what `rec_models.buckets` adds
    buffer: Tensor | None = None  # uint8 [bytes]: what all tensors are views into, if they are (`rec_models.staging`)

    @property
    def num_targets(self) -> int:
        """M, without what `rec_models.buckets` adds."""
        return self.window_counts[self.position]

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of the fields."""
        layout = self.layout
        optional = [tensor for tensor in (self.masked, self.rows) if tensor is not None]
        return [self.items, layout.places, layout.from_end, layout.starts, layout.ends, *optional, self.targets]

    def map(self, change: Callable[[Tensor], Tensor]) -> StepBatch:
        """Change every tensor."""
        layout = self.layout
        return self._replace(
            buffer=None,
            items=change(self.items),
            layout=layout._replace(
                places=change(layout.places),
                from_end=change(layout.from_end),
                starts=change(layout.starts),
                ends=change(layout.ends),
            ),
            masked=None if self.masked is None else change(self.masked),
            rows=None if self.rows is None else change(self.rows),
            targets=change(self.targets),
        )

    def staged(self, *, pin: bool) -> StepBatch:
        """The same in one buffer on the host."""
        buffer = stage(self.tensors(), pin=pin)
        return self._in(buffer)

    def to(self, device: torch.device) -> StepBatch:
        """The same on a device, a staged batch by one copy; the host does not wait where its memory is page-locked."""
        if self.buffer is None:
            return self.map(lambda tensor: tensor.to(device, non_blocking=True))
        return self._in(self.buffer.to(device, non_blocking=True))

    def _in(self, buffer: Tensor) -> StepBatch:
        parts = iter(views(buffer, self.tensors()))
        return self.map(lambda _: next(parts))._replace(buffer=buffer)

    @property
    def is_last(self) -> bool:
        """Whether the optimiser steps after this micro-batch."""
        return self.position == len(self.window_counts) - 1


class Feed:
    """The iterable that Lightning trains on: each pass is the rest of one epoch.

    It has no length on purpose: Lightning then looks one batch ahead to find the last one, which stays right when the
    first pass after a resume is only a part of an epoch.

    Args:
        batches: called at the first pass, when the rank is known.
        position: gives (epoch, index) of the first batch of a pass.
        accumulate: micro-batches a window.
        change: done to every batch on the host, such as filling it up to a size.
        pin: for a GPU: read and prepare batches in threads of their own, in page-locked memory, so that neither keeps
            the GPU waiting.
    """

    def __init__(
        self,
        batches: Callable[[], Batches],
        position: Callable[[], tuple[int, int]],
        accumulate: int,
        *,
        change: Callable[[StepBatch], StepBatch] | None = None,
        pin: bool,
    ) -> None:
        self._batches = batches
        self._position = position
        self._accumulate = accumulate
        self._change = change
        self._pin = pin
        self.is_busy: Callable[[], bool] | None = None
        """Whether the device still works on what it was given; None: it never does meanwhile."""
        self.waited_seconds = 0.0
        """How long those who iterate have waited for batches, in all; not where the device was busy all the while."""

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
                counts = tuple(step.targets.numel() for step in prepared)
                for position, step in enumerate(prepared):
                    placed = step._replace(window_counts=counts, position=position)
                    yield self._pinned(placed if self._change is None else self._change(placed))

    def _source(self) -> Generator[StepBatch]:
        epoch, start = self._position()
        batches = self._batches()
        if isinstance(batches, PackedBatches):
            return self._prepared(batches.packed_epoch(epoch, start=start), prepare_packed)
        return self._prepared(batches.epoch(epoch, start=start), prepare)

    def _prepared(self, batches: Iterable[_Entry], prepared: Callable[[_Entry], StepBatch]) -> Generator[StepBatch]:
        # Two threads, for reading batches and for preparing them: a small step takes less time than both together.
        source = in_background(iter(batches)) if self._pin else (batch for batch in batches)
        with closing(source):
            for batch in source:
                yield prepared(batch)

    def _pinned(self, step: StepBatch) -> StepBatch:
        return step.staged(pin=True) if self._pin and not step.items.is_cuda else step


def prepare(batch: Batch) -> StepBatch:
    """Take out the padding and the places without a target of a batch [B, L]: masking happens here, once.

    The step is a window of its own: whoever accumulates sets ``window_counts`` and ``position``.
    """
    layout = layout_of(batch.lengths, batch.inputs.shape[1])
    masked = None if batch.masked is None else layout.pack(batch.masked)
    return _step_batch(layout.pack(batch.inputs), layout, layout.pack(batch.targets), masked)


def prepare_packed(batch: PackedBatch) -> StepBatch:
    """As `prepare`, where nothing is padded: the same numbers."""
    lengths = batch.offsets.diff()  # [B]
    return _step_batch(batch.inputs, layout_of(lengths, int(lengths.max())), batch.targets, batch.masked)


def _step_batch(items: Tensor, layout: Layout, targets: Tensor, masked: Tensor | None) -> StepBatch:
    """A window of one from T places: items [T], targets [T], masked [T]."""
    has_target = targets != IGNORED
    rows = None if bool(has_target.all()) else has_target.nonzero().flatten()
    targets = targets if rows is None else targets[rows]
    return StepBatch(items, layout, masked, rows, targets, (targets.numel(),), 0, items.numel())


def in_background(source: Iterator[_Entry], depth: int = 3) -> Generator[_Entry]:
    """Take from an iterator in a thread of its own; its errors are raised here.

    Args:
        source: iterated in the thread.
        depth: entries ahead at most.

    Yields:
        The entries of `source`, in order. Closing the generator ends the thread.
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

    thread = threading.Thread(target=work, name="rec_models.feed", daemon=True)
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
