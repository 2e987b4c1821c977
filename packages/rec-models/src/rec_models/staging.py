"""Tensors of different types side by side in one buffer, so that one copy takes them all to a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes: as kernels like their pointers


def stage(tensors: Sequence[Tensor], *, pin: bool) -> Tensor:
    """Copy tensors into one new buffer.

    Args:
        tensors: on the host, of any shapes and types.
        pin: page-locked, which a copy to a GPU needs in order not to wait.

    Returns:
        uint8 [bytes]; `views` finds the tensors in it.
    """
    buffer = torch.empty(sum(map(_room, tensors)), dtype=torch.uint8, pin_memory=pin)
    torch._foreach_copy_(views(buffer, tensors), list(tensors))
    return buffer


def views(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in a buffer made by `stage`, or in a copy of it on any device, without copying.

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
