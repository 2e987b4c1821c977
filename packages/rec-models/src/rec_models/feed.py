"""What a training step receives, prepared on the host so that the step never waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, Protocol

from torch import Tensor

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


class Batches(Protocol):
    """Training batches that are a pure function of (seed, epoch, index): training can go on in mid-epoch."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterable[Batch]:
        """The batches of an epoch from index `start` on."""


MakeBatches = Callable[[int, int], Batches]
"""From (rank, world size) to the batches of that rank."""


class StepBatch(NamedTuple):
    """One micro-batch; a window of ``accumulate`` of them makes a step of the optimiser."""

    inputs: Tensor  # [B, L] int64
    lengths: Tensor  # [B] int64
    masked: Tensor | None  # [B, L] bool
    places: Tensor  # [M] int64 into the B * L flattened places: those with a target
    targets: Tensor  # [M] int64
    num_places: int  # real input places: the sum of lengths
    window_counts: tuple[int, ...]  # M of each micro-batch of the window
    position: int  # of this micro-batch in its window

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
        pin: copy to page-locked memory, for asynchronous transfers to a GPU.
    """

    def __init__(
        self, batches: Callable[[], Batches], position: Callable[[], tuple[int, int]], accumulate: int, *, pin: bool
    ) -> None:
        self._batches = batches
        self._position = position
        self._accumulate = accumulate
        self._pin = pin

    def __iter__(self) -> Iterator[StepBatch]:
        epoch, start = self._position()
        source = iter(self._batches().epoch(epoch, start=start))
        while window := list(islice(source, self._accumulate)):
            prepared = [prepare(batch) for batch in window]
            counts = tuple(step.targets.numel() for step in prepared)
            for position, step in enumerate(prepared):
                yield self._pinned(step._replace(window_counts=counts, position=position))

    def _pinned(self, step: StepBatch) -> StepBatch:
        if not self._pin:
            return step
        return step._replace(
            inputs=step.inputs.pin_memory(),
            lengths=step.lengths.pin_memory(),
            masked=None if step.masked is None else step.masked.pin_memory(),
            places=step.places.pin_memory(),
            targets=step.targets.pin_memory(),
        )


def prepare(batch: Batch) -> StepBatch:
    """Find the places with a target: masking happens here, once."""
    flat = batch.targets.flatten()
    places = (flat != IGNORED).nonzero().flatten()
    num_places = int(batch.lengths.sum())
    return StepBatch(batch.inputs, batch.lengths, batch.masked, places, flat[places], num_places, (places.numel(),), 0)


def as_factory(batches: Batches | MakeBatches) -> MakeBatches:
    """Batches that are not made per rank serve one process only."""
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
