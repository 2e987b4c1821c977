"""Tensors of different types side by side in one buffer, so that one copy takes them all to a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
