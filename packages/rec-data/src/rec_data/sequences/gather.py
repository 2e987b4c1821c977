"""Rows of different lengths, gathered end to end from a flat array on the device that trains."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rec_data.arrays import Int64s

IGNORE = -100
"""The target of a place where nothing is predicted."""


class _Run(NamedTuple):
    """Rows of a batch, one after the other, that lie in one part."""

    part: int
    places: slice
    """Of the batch."""


class Gather:
    """Gathers rows of different lengths end to end; work grows with the items read, not with the longest row.

    The flat array is copied to the device once if it takes at most a quarter of the free memory there. Otherwise the
    gather runs on the host, and each batch is copied. The flat array is [nnz] int32, on the host; it may be in parts,
    one after the other, which are not copied into one array on the host. No row lies in two parts.
    """

    def __init__(self, parts: Sequence[Tensor], device: torch.device) -> None:
        self._device = device
        self._bounds = np.cumsum([0, *(len(part) for part in parts)])  # places in the flat array, of each part's first
        self._parts = list(parts)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if sum(part.nbytes for part in parts) <= free // 4:
                flat = torch.empty(int(self._bounds[-1]), dtype=torch.int32, device=device)
                for part, copy in zip(parts, torch.split(flat, np.diff(self._bounds).tolist()), strict=True):
                    copy.copy_(part)
                self._parts, self._bounds = [flat], self._bounds[[0, -1]]

    def __call__(self, starts: Int64s, lengths: Int64s) -> tuple[Tensor, Tensor]:
        """Gathers rows from their first places in the flat array and their lengths >= 1, both [B] int64.

        Returns:
            items [T] int64, offsets [B + 1] int64, on the device; T is the sum of the lengths.
        """
        place, offsets, runs = self._places(starts, lengths)
        return self._take(place, runs), _send(offsets, self._device)

    def with_next(self, starts: Int64s, lengths: Int64s) -> tuple[Tensor, Tensor, Tensor]:
        """Gathers rows as above, each followed by a further item of the flat array.

        Returns:
            items [T], offsets [B + 1], and for each item the next one [T], all int64, on the device.
        """
        place, offsets, runs = self._places(starts, lengths)
        return self._take(place, runs), _send(offsets, self._device), self._take(place + 1, runs)

    def _places(self, starts: Int64s, lengths: Int64s) -> tuple[Tensor, Tensor, list[_Run]]:
        """[T] places in the parts, and [B + 1] offsets, where the parts are; the runs of rows of one part."""
        where = self._parts[0].device
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        runs, shifts = [_Run(0, slice(None))], starts
        if len(self._parts) > 1:
            part = np.searchsorted(self._bounds, starts, side="right") - 1  # [B]
            edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(part)]
            runs = [_Run(int(part[a]), slice(int(offsets[a]), int(offsets[b]))) for a, b in pairwise(edges)]
            shifts = starts - self._bounds[part]
        ends = _send(torch.from_numpy(offsets), where)
        total = int(offsets[-1])
        shift = _send(torch.from_numpy(shifts - offsets[:-1]), where)  # [B] from places of the batch to those of a part
        return torch.arange(total, device=where) + repeat_rows(shift, ends, total), ends, runs

    def _take(self, place: Tensor, runs: list[_Run]) -> Tensor:
        found = [torch.take(self._parts[part], place[run]) for part, run in runs]
        return _send((found[0] if len(found) == 1 else torch.cat(found)).long(), self._device)


def repeat_rows(values: Tensor, offsets: Tensor, total: int) -> Tensor:
    """Repeats one value per row for each of its places: [B], [B + 1] int64 to [T].

    ``total`` is T; passing it avoids waiting for the device.
    """
    return torch.repeat_interleave(values, offsets.diff(), output_size=total)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.device.type == device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
