"""Batches: what a source of batches yields, and what a training step receives on its device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from rec_models.encoders.packing import Layout, layout_of

IGNORED = -100  # the target of a place that predicts nothing
_OPTIONAL = ("masked", "rows", "first_row", "share", "asked", "found")  # tensors of `StepBatch` that may be missing
_ALIGNMENT = 16  # bytes between tensors in one buffer are a multiple of this: kernels want aligned pointers


class Batch(Protocol):
    """Packed sequences: sequence i is ``items[offsets[i] : offsets[i + 1]]``."""

    @property
    def items(self) -> Tensor:
        """[T] int64 item ids; T is the sum of the lengths."""

    @property
    def offsets(self) -> Tensor:
        """[B + 1] int64, from 0 to T; every sequence has at least one item."""

    @property
    def targets(self) -> Tensor:
        """[T] int64, -100 where nothing is predicted."""

    @property
    def masked(self) -> Tensor | None:
        """[T] bool: where the mask vector replaces the item; None for causal models."""


class StepBatch(NamedTuple):
    """One micro-batch of an optimizer step, prepared for the device; ``accumulate`` of them make one step."""

    items: Tensor  # [T] int64
    layout: Layout  # of the T places
    masked: Tensor | None  # [T] bool
    rows: Tensor | None  # [M] int64, the places that have a target; None: all of them
    targets: Tensor  # [M] int64
    window_counts: tuple[int, ...]  # tokens in the loss of each micro-batch: M, and padded places where it trains them
    position: int  # of this micro-batch in its step
    num_places: int  # T, without what `rec_models.training.cuda_graphs` adds
    rank: int = 0
    rank_counts: tuple[tuple[int, ...], ...] | None = None  # the `window_counts` of all ranks; None: there is one
    first_row: Tensor | None = None  # int64 [], `row_offset`, where a graph of several ranks reads it on the device
    share: Tensor | None = None  # float64 [], of this rank's tokens in the step's; beside `first_row`
    asked: Tensor | None = None  # int32 [P, C], the rows of each rank's shard that the batch needs; None: not sharded
    found: Tensor | None = None  # int32 [T], where each place finds its row among the P C; beside `asked`
    buffer: Tensor | None = None  # uint8 [bytes] that all tensors are views of, if there is one

    @property
    def num_targets(self) -> int:
        """The weight of its mean loss: its tokens without what filling adds, with padding where the loss trains it."""
        return self.window_counts[self.position]

    @property
    def micro_counts(self) -> tuple[int, ...]:
        """`num_targets` of all ranks."""
        return (self.num_targets,) if self.rank_counts is None else tuple(x[self.position] for x in self.rank_counts)

    @property
    def step_tokens(self) -> int:
        """The tokens of the whole optimizer step: of all its micro-batches, on all ranks."""
        return sum(map(sum, self.rank_counts or (self.window_counts,)))

    @property
    def row_offset(self) -> int:
        """The tokens of the step before this rank's, in the order in which one process would see them."""
        earlier = sum(sum(counts[: self.position]) for counts in self.rank_counts or (self.window_counts,))
        return earlier + sum(self.micro_counts[: self.rank])

    def share_of(self, weight: int) -> float:
        """The share of a loss that is the mean of so many tokens in the mean over all tokens of the step."""
        return weight / max(1, self.step_tokens)

    @property
    def is_last(self) -> bool:
        """Whether the optimizer steps after this micro-batch."""
        return self.position == len(self.window_counts) - 1

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of the fields."""
        layout = self.layout
        optional = [tensor for name in _OPTIONAL if (tensor := getattr(self, name)) is not None]
        tiles = [] if layout.tiles is None else [layout.tiles]
        return [self.items, layout.places, layout.from_end, layout.starts, layout.ends, *tiles, *optional, self.targets]

    def map(self, change: Callable[[Tensor], Tensor]) -> StepBatch:
        """Apply a function to every tensor."""
        return self._with([change(tensor) for tensor in self.tensors()], None)

    def in_one_buffer(self, *, pin: bool) -> StepBatch:
        """Copy all tensors into one buffer on the host, so that one copy brings them to a GPU.

        `pin` makes the buffer page-locked: a copy to a GPU then does not block the host.
        """
        # In NumPy: torch releases Python's lock at every operation, and this thread runs beside the training loop.
        tensors = self.tensors()
        buffer = torch.empty(sum(map(_room, tensors)), dtype=torch.uint8, pin_memory=pin)
        flat, parts, start = buffer.numpy(), [], 0
        for tensor in tensors:
            array = tensor.numpy()
            part = flat[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
            part[...] = array
            parts.append(torch.from_numpy(part))
            start += _room(tensor)
        return self._with(parts, buffer)

    def to(self, device: torch.device) -> StepBatch:
        """Copy to a GPU, in one copy if there is a buffer; the host does not wait if its memory is page-locked."""
        if self.buffer is None:
            return self.map(lambda tensor: tensor.to(device, non_blocking=True))
        buffer = self.buffer.to(device, non_blocking=True)
        return self._with(_views(buffer, self.tensors()), buffer)

    def _with(self, tensors: list[Tensor], buffer: Tensor | None) -> StepBatch:
        """The same batch made of other tensors, in the order of `tensors`."""
        items, places, from_end, starts, ends, *optional, targets = tensors
        layout = self.layout._replace(places=places, from_end=from_end, starts=starts, ends=ends)
        if layout.tiles is not None:
            layout = layout._replace(tiles=optional.pop(0))
        present = [name for name in _OPTIONAL if getattr(self, name) is not None]
        changed = self._replace(items=items, layout=layout, targets=targets, buffer=buffer)
        changes: dict[str, Any] = dict(zip(present, optional, strict=True))
        return changed._replace(**changes)

    def with_place(self) -> StepBatch:
        """The same batch with `first_row` and `share` as tensors: what differs from step to step is no number then."""
        share = self.share_of(self.num_targets if self.asked is None else sum(self.micro_counts))
        return self._replace(first_row=torch.tensor(self.row_offset), share=torch.tensor(share, dtype=torch.float64))


def prepare(batch: Batch) -> StepBatch:
    """Find the layout and the places with a target, once per batch and on the host if the batch is there.

    The result is a step of its own: whoever accumulates sets ``window_counts`` and ``position``.
    """
    has_target = batch.targets != IGNORED
    rows = None if bool(has_target.all()) else has_target.nonzero().flatten()
    targets = batch.targets if rows is None else batch.targets[rows]
    layout = layout_of(batch.offsets.diff())
    return StepBatch(batch.items, layout, batch.masked, rows, targets, (targets.numel(),), 0, batch.items.numel())


def _views(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of the shapes and dtypes of `like`, one after another in a buffer, uint8 [bytes]; nothing is copied."""
    found, start = [], 0
    for tensor in like:
        part = buffer[start : start + tensor.numel() * tensor.element_size()]
        found.append(part.view(tensor.dtype).view(tensor.shape))
        start += _room(tensor)
    return found


def _room(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // _ALIGNMENT) * _ALIGNMENT
