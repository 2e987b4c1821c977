"""Rows of different lengths, gathered end to end from a flat array on the device that trains."""

import numpy as np
import torch
from torch import Tensor

from rec_data.arrays import Int64s

IGNORE = -100
"""The target of a place where nothing is predicted."""


class Gather:
    """Gathers rows of different lengths end to end; work grows with the items read, not with the longest row.

    The flat array is copied to the device once if it takes at most a quarter of the free memory there. Otherwise the
    gather runs on the host, and each batch is copied. The flat array is [nnz] int32, on the host.
    """

    def __init__(self, items: Tensor, device: torch.device) -> None:
        self._device = device
        resident = True
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            resident = items.nbytes <= free // 4
        self._items = items.to(device) if resident else items

    def __call__(self, starts: Int64s, lengths: Int64s) -> tuple[Tensor, Tensor]:
        """Gathers rows from their first places in the flat array and their lengths >= 1, both [B] int64.

        Returns:
            items [T] int64, offsets [B + 1] int64, on the device; T is the sum of the lengths.
        """
        place, offsets = self._places(starts, lengths)
        return self._take(place), _send(offsets, self._device)

    def with_next(self, starts: Int64s, lengths: Int64s) -> tuple[Tensor, Tensor, Tensor]:
        """Gathers rows as above, each followed by a further item of the flat array.

        Returns:
            items [T], offsets [B + 1], and for each item the next one [T], all int64, on the device.
        """
        place, offsets = self._places(starts, lengths)
        return self._take(place), _send(offsets, self._device), self._take(place + 1)

    def _places(self, starts: Int64s, lengths: Int64s) -> tuple[Tensor, Tensor]:
        """[T] places in the flat array, and [B + 1] offsets, where the flat array is."""
        where = self._items.device
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        ends = _send(torch.from_numpy(offsets), where)
        total = int(offsets[-1])
        shift = _send(torch.from_numpy(starts - offsets[:-1]), where)  # [B] from places of the batch to the flat array
        return torch.arange(total, device=where) + repeat_rows(shift, ends, total), ends

    def _take(self, place: Tensor) -> Tensor:
        return _send(torch.take(self._items, place).long(), self._device)


def repeat_rows(values: Tensor, offsets: Tensor, total: int) -> Tensor:
    """Repeats one value per row for each of its places: [B], [B + 1] int64 to [T].

    ``total`` is T; passing it avoids waiting for the device.
    """
    return torch.repeat_interleave(values, offsets.diff(), output_size=total)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.device.type == device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
