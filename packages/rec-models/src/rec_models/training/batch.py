"""What a training step receives, made on the host so that the step never waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rec_models.encoders.packing import Layout, layout_of

# Tensors of different types side by side in one buffer, so that one copy takes them all to a GPU.
_ALIGNMENT = 16  # bytes: as kernels like their pointers


def stage(tensors: Sequence[Tensor], *, pin: bool) -> tuple[Tensor, list[Tensor]]:
    """Copy tensors into one new buffer.

    Args:
        tensors: on the host, of any shapes and types.
        pin: page-locked, which a copy to a GPU needs in order not to wait.

    Returns:
        The buffer, uint8 [bytes], and the tensors in it.
    """
    buffer = torch.empty(sum(map(_room, tensors)), dtype=torch.uint8, pin_memory=pin)
    flat, found, start = buffer.numpy(), [], 0
    for tensor in tensors:
        array = tensor.numpy()
        part = flat[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        part[...] = array
        found.append(torch.from_numpy(part))
        start += _room(tensor)
    return buffer, found


def views(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in a copy, on any device, of a buffer made by `stage`; nothing is copied.

    Args:
        buffer: uint8 [bytes].
        like: tensors of the shapes and types that were staged, in their order.
    """
    found, start = [], 0
    for tensor in like:
        part = buffer[start : start + tensor.numel() * tensor.element_size()]
        found.append(part.view(tensor.dtype).view(tensor.shape))
        start += _room(tensor)
    return found


def _room(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT


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


class StepBatch(NamedTuple):
    """One micro-batch; a window of ``accumulate`` of them makes a step of the optimiser."""

    items: Tensor  # [T] int64, the real places of the batch, packed
    layout: Layout  # of the T places
    masked: Tensor | None  # [T] bool
    rows: Tensor | None  # [M] int64 into the T places: those with a target; None: all of them
    targets: Tensor  # [M] int64
    window_counts: tuple[int, ...]  # tokens of each micro-batch's loss: M, and padded places if it trains them
    position: int  # of this micro-batch in its window
    num_places: int  # T, without what `rec_models.training.cuda_graphs` adds
    buffer: Tensor | None = (
        None  # uint8 [bytes]: what all tensors are views into, if they are (`rec_models.training.batch`)
    )

    @property
    def num_targets(self) -> int:
        """M, without what filling up adds, and with the padded places where the loss trains them."""
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
        buffer, parts = stage(self.tensors(), pin=pin)
        return self._with(parts, buffer)

    def to(self, device: torch.device) -> StepBatch:
        """The same on a GPU, a staged batch by one copy; the host does not wait where its memory is page-locked."""
        if self.buffer is None:
            return self.map(lambda tensor: tensor.to(device, non_blocking=True))
        buffer = self.buffer.to(device, non_blocking=True)
        return self._with(views(buffer, self.tensors()), buffer)

    def _with(self, tensors: list[Tensor], buffer: Tensor) -> StepBatch:
        others = iter(tensors)
        return self.map(lambda _: next(others))._replace(buffer=buffer)

    @property
    def is_last(self) -> bool:
        """Whether the optimiser steps after this micro-batch."""
        return self.position == len(self.window_counts) - 1


class Packed(NamedTuple):
    """A `PackedBatch`."""

    inputs: Tensor
    offsets: Tensor
    targets: Tensor
    masked: Tensor | None


def pack(batch: Batch) -> Packed:
    """Take out the padding of a batch [B, L]; on a GPU this waits for the device."""
    lengths = batch.lengths
    real = torch.arange(batch.inputs.shape[1], device=lengths.device) < lengths[:, None]  # [B, L]
    offsets = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))
    return Packed(
        batch.inputs[real], offsets, batch.targets[real], None if batch.masked is None else batch.masked[real]
    )


def prepare(batch: Batch) -> StepBatch:
    """Take out the padding and the places without a target: what `prepare_packed` makes of `pack`."""
    return prepare_packed(pack(batch))


def prepare_packed(batch: PackedBatch) -> StepBatch:
    """Take out the places without a target; masking happens here, once.

    The step is a window of its own: whoever accumulates sets ``window_counts`` and ``position``.
    """
    lengths = batch.offsets.diff()  # [B]
    return _step_batch(batch.inputs, layout_of(lengths, int(lengths.max())), batch.targets, batch.masked)


def _step_batch(items: Tensor, layout: Layout, targets: Tensor, masked: Tensor | None) -> StepBatch:
    """A window of one from T places: items [T], targets [T], masked [T]."""
    has_target = targets != IGNORED
    rows = None if bool(has_target.all()) else has_target.nonzero().flatten()
    targets = targets if rows is None else targets[rows]
    return StepBatch(items, layout, masked, rows, targets, (targets.numel(),), 0, items.numel())
