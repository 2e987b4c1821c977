"""Every column name, once, and what text an integer id is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


# Numpy arrays as Arrow arrays.
def to_arrow(values: npt.NDArray[Any]) -> pa.Array:
    """An Arrow array over the memory of a numpy array, without nulls.

    ``pa.array`` would do the same, but imports pandas first, which takes longer than everything else that the demo
    needs.

    Args:
        values: [n] of any integer or float type.
    """
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


USER = "user_id"
ITEM = "item_id"
TIMESTAMP = "timestamp"
RATING = "rating"

HISTORY = "history"
TIMESTAMPS = "timestamps"
TARGET = "target"

ORIGINAL_ID = "original_id"
COUNT = "count"

ITEMS = "items"
"""The flat item ids of the sequence store (a list column there)."""

INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
"""Text that is an integer of at most 18 digits, which 64 bits hold, and nothing else: "007" is a name."""


@dataclass(frozen=True)
class Columns:
    """How the columns of a raw log are called."""

    user: str = USER
    """Column of user ids (integers or strings)."""

    item: str = ITEM
    """Column of item ids (integers or strings)."""

    timestamp: str = TIMESTAMP
    """Column of times: integers or floats (seconds, milliseconds or microseconds), dates, or ISO 8601 strings."""

    rating: str | None = None
    """Column of ratings, or None where there is none to read."""

    @property
    def present(self) -> tuple[str, ...]:
        """The names, without that of a rating where there is none."""
        names = (self.user, self.item, self.timestamp, self.rating)
        return tuple(name for name in names if name is not None)
