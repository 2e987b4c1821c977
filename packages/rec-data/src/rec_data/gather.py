"""Ragged rows of a flat array to padded tensors, on the device that trains."""

import numpy as np
import torch
from torch import Tensor

from rec_data.examples import Int64s

IGNORE = -100
"""The target of a place where nothing is predicted."""


class Gather:
    """Ragged rows of a flat array to padded tensors.

    The flat array is moved to the device once, if it takes at most a quarter of the free memory there; otherwise the
    gather runs on the host and the padded rows travel.
    """

    def __init__(self, items: Tensor, device: torch.device) -> None:
        self._device = device
        resident = True
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            resident = items.nbytes <= free // 4
        self._items = items.to(device) if resident else items

    def __call__(self, starts: Int64s, lengths: Int64s, *, next_items: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Gathers rows.

        Args:
            starts: [B] int64 first place of each row in the flat array.
            lengths: [B] int64, >= 1.
            next_items: Whether the targets are the items that follow; -100 everywhere otherwise.

        Returns:
            inputs [B, L] int64, targets [B, L] int64, lengths [B] int64, on the device.
        """
        where = self._items.device
        longest = int(lengths.max())
        first, count = _move(starts, where), _move(lengths, where)
        place = torch.arange(longest + next_items, device=where)  # one more place: the last target
        inside = place < count[:, None] + next_items
        window = torch.take(self._items, torch.where(inside, first[:, None] + place, 0)).long()  # [B, L (+ 1)]
        valid = place[:longest] < count[:, None]  # [B, L]
        inputs = torch.where(valid, window[:, :longest], 0)
        targets = torch.where(valid, window[:, 1:], IGNORE) if next_items else torch.full_like(inputs, IGNORE)
        if where.type == self._device.type:
            return inputs, targets, count
        return self._send(inputs), self._send(targets), self._send(count)

    def _send(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(self._device, non_blocking=True)


def _move(values: Int64s, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
