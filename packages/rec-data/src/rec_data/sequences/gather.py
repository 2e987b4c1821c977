"""Ragged rows of a flat array end to end, or padded, on the device that trains."""

import numpy as np
import torch
from torch import Tensor

from rec_data.arrays import Int64s

IGNORE = -100
"""The target of a place where nothing is predicted."""


class Gather:
    """Ragged rows of a flat array, end to end: work grows with the items that are read, not with the longest row.

    The flat array is moved to the device once, if it takes at most a quarter of the free memory there; otherwise the
    gather runs on the host and the rows travel.

    Args:
        items: [nnz] int32, on the host.
        device: where rows are wanted.
    """

    def __init__(self, items: Tensor, device: torch.device) -> None:
        self._device = device
        resident = True
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            resident = items.nbytes <= free // 4
        self._items = items.to(device) if resident else items

    def __call__(self, starts: Int64s, lengths: Int64s) -> tuple[Tensor, Tensor]:
        """Gathers rows.

        Args:
            starts: [B] int64 first place of each row in the flat array.
            lengths: [B] int64, >= 1.

        Returns:
            inputs [T] int64, offsets [B + 1] int64, on the device; T is the sum of the lengths.
        """
        place, offsets = self._places(starts, lengths)
        return self._send(self._take(place)), self._send(offsets)

    def with_next(self, starts: Int64s, lengths: Int64s) -> tuple[Tensor, Tensor, Tensor]:
        """Gathers rows, and the item that follows each of their items.

        Args:
            starts: [B] int64 first place of each row in the flat array.
            lengths: [B] int64, >= 1; another item of the flat array follows each row.

        Returns:
            inputs [T] int64, offsets [B + 1] int64, next items [T] int64, on the device.
        """
        place, offsets = self._places(starts, lengths)
        return self._send(self._take(place)), self._send(offsets), self._send(self._take(place + 1))

    def _places(self, starts: Int64s, lengths: Int64s) -> tuple[Tensor, Tensor]:
        """[T] places in the flat array, and [B + 1] offsets, where the flat array is."""
        where = self._items.device
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        ends = _move(offsets, where)
        total = int(offsets[-1])
        shift = _move(starts - offsets[:-1], where)  # [B] from places of the batch to places of the flat array
        return torch.arange(total, device=where) + repeat_rows(shift, ends, total), ends

    def _take(self, place: Tensor) -> Tensor:
        return torch.take(self._items, place).long()

    def _send(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == self._device.type:
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def repeat_rows(values: Tensor, offsets: Tensor, total: int) -> Tensor:
    """One value a row to one a place: [B], [B + 1] int64 to [T]; ``total`` is T, so that no device is waited for."""
    return torch.repeat_interleave(values, offsets.diff(), output_size=total)


def padded_places(offsets: Tensor, total: int, longest: int) -> Tensor:
    """Where places of rows end to end stand in rows padded on the right: [B + 1] int64 offsets to [T] int64 of B * L.

    Args:
        offsets: [B + 1] int64.
        total: T.
        longest: L, at least the longest row.
    """
    shift = torch.arange(len(offsets) - 1, device=offsets.device) * longest - offsets[:-1]  # [B]
    return torch.arange(total, device=offsets.device) + repeat_rows(shift, offsets, total)


def _move(values: Int64s, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
