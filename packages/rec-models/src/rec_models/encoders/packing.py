"""Packed histories: the items of a batch one after another, so that nothing is computed for padding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TILE = 64  # places of a tile of `rec_models.encoders.fused.attention`
MOST_ORDERED = 1024  # tiles that `heavy_first` pays for: those of more lose the keys of their neighbours in L2


class Layout(NamedTuple):
    """Where the T packed places of B histories are, and where they would be in a padded batch of L columns."""

    places: Tensor  # [T] int64, indices into the B * L places of the padded batch
    from_end: Tensor  # [T] int64, distance to the last item of the same history
    starts: Tensor  # [B + 1] int32, where each history starts in the packed order; last: T
    ends: Tensor  # [B] int64, where the last item of each history is in the packed order
    rows: int  # B
    width: int  # L, at least the longest history
    keys: Tensor | None = None  # [B, 1, 1, L] bool, the real places; only if the T places include padding
    tiles: Tensor | None = None  # int32 [2, tiles], `heavy_first` of tiles of `TILE` places; None: as they come

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

    def key_mask(self) -> Tensor | None:
        """[B, 1, 1, L] bool, True at real places; None where all places are real."""
        if self.keys is not None or self.is_full:
            return self.keys
        real = torch.zeros(self.rows * self.width, dtype=torch.bool, device=self.places.device)
        return real.index_fill(0, self.places, True).view(self.rows, 1, 1, self.width)


class Blocks(NamedTuple):
    """The same histories in several padded blocks, each of histories of similar length, with little padding."""

    places: Tensor  # [T] int64, where the packed places are in the blocks one after another
    order: Tensor  # [B] int64, the histories in the order of the blocks
    lengths: Tensor  # [B] int64, of the histories in this order
    shapes: list[tuple[int, int]]  # of each block: histories, and the longest of them


def blocks_of(layout: Layout, most: int) -> Blocks:
    """The histories of a layout without padding, from the shortest to the longest, in at most so many blocks."""
    lengths = layout.starts.diff().long()  # [B]
    order = lengths.argsort(stable=True)
    blocks = torch.split(lengths[order], -(-layout.rows // most))
    shapes = [(len(block), int(block[-1])) for block in blocks]
    widths = torch.tensor([width for _, width in shapes], device=lengths.device)
    widths = widths.repeat_interleave(torch.tensor([rows for rows, _ in shapes], device=lengths.device))  # [B]
    first = torch.empty_like(lengths)  # of each history in the blocks
    first[order] = widths.cumsum(0) - widths
    row = torch.repeat_interleave(lengths)  # [T]
    places = torch.arange(row.shape[0], device=lengths.device) + (first - layout.starts[:-1])[row]
    return Blocks(places, order, lengths[order], shapes)


def layout_of(lengths: Tensor, width: int | None = None) -> Layout:
    """The layout of packed histories of lengths [B] int64, at least 1; on a GPU this waits for the device.

    The width is L; None: the longest history.
    """
    # Work grows with the real places, not with B x L: the host prepares batches while the GPU trains.
    rows, device = lengths.shape[0], lengths.device
    width = int(lengths.max()) if width is None else width
    starts = torch.zeros(rows + 1, dtype=torch.int64, device=device)
    starts[1:] = lengths.cumsum(0)
    row = torch.repeat_interleave(lengths)  # [T]
    packed = torch.arange(row.shape[0], device=device)
    ends = starts[1:] - 1  # [B]
    places = packed + (torch.arange(rows, device=device) * width - starts[:-1])[row]
    return Layout(places, ends[row] - packed, starts.int(), ends, rows, width)


def heavy_first(places: npt.NDArray[np.int64], from_end: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int32]:
    """Tiles of `TILE` places, the one with the most work first, int32 [2, tiles]; arguments as in `Layout`.

    First as tiles of queries, which pair with what is before them in the history of their first place; then as tiles of
    keys, which pair with what is after them in that of their last. Programs that start late then end early: on the
    shape of movielens_20m the last one ends a third sooner.
    """
    before = places[::TILE] % width
    after = from_end[np.minimum(np.arange(TILE - 1, len(places) + TILE - 1, TILE), len(places) - 1)]
    return np.stack([np.argsort(-work, kind="stable") for work in (before, after)]).astype(np.int32)


def padded_layout_of(lengths: Tensor, width: int) -> Layout:
    """A layout whose places include the padding: shapes then do not depend on values, as `torch.export` requires.

    The lengths are [B] int64, from 1 to L, the width.
    """
    rows = lengths.shape[0]
    columns = torch.arange(width, device=lengths.device)  # [L]
    places = torch.arange(rows * width, device=lengths.device)
    from_end = (lengths[:, None] - 1 - columns).clamp_min(0).flatten()
    first = torch.arange(rows + 1, device=lengths.device) * width  # [B + 1]
    keys = (columns < lengths[:, None])[:, None, None, :]
    return Layout(places, from_end, first.int(), first[:-1] + lengths - 1, rows, width, keys)
