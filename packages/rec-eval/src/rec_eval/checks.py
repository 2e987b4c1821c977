"""Checks of ids and offsets, for numpy arrays and for tensors."""

from typing import Any

import numpy as np
import numpy.typing as npt


def as_integers(name: str, values: Any, ndim: int) -> npt.NDArray[Any]:
    """Convert an array or a tensor on any device to a numpy array of integers, without a copy if it is on the CPU.

    Raises:
        ValueError: another type of values, or another number of dimensions.
    """
    array = np.asarray(values.cpu() if hasattr(values, "cpu") else values)
    if array.ndim != ndim or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers in {ndim} dimension(s), got {array.dtype} of shape {array.shape}")
    return array


def check_ids(name: str, ids: Any, num_items: int) -> None:
    """Refuse ``[n]`` ids outside ``[0, num_items)``."""
    if len(ids) and (ids.min() < 0 or ids.max() >= num_items):
        raise ValueError(f"{name} must lie in [0, {num_items}), got ids from {ids.min()} to {ids.max()}")


def check_offsets(name: str, offsets: Any, total: int) -> None:
    """Refuse ``[n + 1]`` offsets that do not ascend from 0 to ``total``."""
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != total or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"{name} must ascend from 0 to the {total} items")
