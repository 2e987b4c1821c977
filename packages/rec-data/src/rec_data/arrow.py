"""Numpy arrays as Arrow arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def to_arrow(values: npt.NDArray[Any]) -> pa.Array:
    """An Arrow array over the memory of a numpy array, without nulls.

    ``pa.array`` would do the same, but imports pandas first, which takes longer than everything else that the demo
    needs.

    Args:
        values: [n] of any integer or float type.
    """
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])
