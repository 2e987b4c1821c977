"""Packed histories: the real places of a padded batch one after another, so that nothing is computed for padding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """Where T real places stand in a padded batch of B rows and L columns."""

    places: Tensor  # [T] int64 into the B * L flattened places
    from_end: Tensor  # [T] int64, distance to the last item of the same history
    starts: Tensor  # [B + 1] int32, where each history starts in the packed order; last: T
    rows: int  # B
    width: int  # L, the longest history

    @property
    def is_full(self) -> bool:
        """Whether nothing is padded."""
        return self.places.shape[0] == self.rows * self.width

    def pack(self, padded: Tensor) -> Tensor:
        """[B, L, ...] to [T, ...]."""
        flat = padded.flatten(0, 1)
        return flat if self.is_full else flat.index_select(0, self.places)

    def pad(self, packed: Tensor) -> Tensor:
        """[T, ...] to [B, L, ...], zeros at padded places."""
        shape = (self.rows, self.width, *packed.shape[1:])
        if self.is_full:
            return packed.view(shape)
        flat = packed.new_zeros(self.rows * self.width, *packed.shape[1:])
        return flat.index_copy(0, self.places, packed).view(shape)

    def key_mask(self) -> Tensor:
        """[B, 1, 1, L] bool, True at real places."""
        real = torch.zeros(self.rows * self.width, dtype=torch.bool, device=self.places.device)
        return real.index_fill(0, self.places, True).view(self.rows, 1, 1, self.width)


def layout_of(lengths: Tensor, width: int) -> Layout:
    """The layout of right-padded histories.

    Args:
        lengths: [B] int64, from 1 to L; on a GPU this waits for the device.
        width: L.
    """
    columns = torch.arange(width, device=lengths.device)  # [L]
    real = columns < lengths[:, None]  # [B, L]
    places = real.flatten().nonzero().flatten()
    from_end = (lengths[:, None] - 1 - columns).flatten()[places]
    starts = torch.zeros(lengths.shape[0] + 1, dtype=torch.int32, device=lengths.device)
    starts[1:] = lengths.cumsum(0)
    return Layout(places, from_end, starts, lengths.shape[0], width)
