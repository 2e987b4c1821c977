"""The column names of every file of this package, and helpers for Arrow columns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
"""Text that is read as an integer: at most 18 digits, which fit into 64 bits, and no leading zero ("007" is text)."""


@dataclass(frozen=True)
class Columns:
    """The column names of a raw log."""

    user: str = USER
    """Column of user ids (integers or strings)."""
    item: str = ITEM
    """Column of item ids (integers or strings)."""
    timestamp: str = TIMESTAMP
    """Column of times: integers or floats (seconds, milliseconds or microseconds), dates, or ISO 8601 strings."""
    rating: str | None = None
    """Column of ratings, or None if ratings are not read."""

    @property
    def present(self) -> tuple[str, ...]:
        """The names, without the rating's if it is None."""
        names = (self.user, self.item, self.timestamp, self.rating)
        return tuple(name for name in names if name is not None)


def to_arrow(values: npt.NDArray[Any]) -> pa.Array:
    """View a numpy array as an Arrow array without nulls.

    ``pa.array`` would do the same, but imports pandas first, which takes longer than everything else that the demo
    needs.

    Args:
        values: ``[n]`` of any integer or float type.
    """
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])
