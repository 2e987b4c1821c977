"""An encoded, sorted log, and a part of it, in CSR form."""

from dataclasses import dataclass

import numpy as np

from rec_data.arrays import Int32s, Int64s


@dataclass(frozen=True)
class SortedLog:
    """Interactions sorted by user, then by time."""

    offsets: Int64s
    """``[users + 1]``; the rows of user ``u`` are ``offsets[u]`` to ``offsets[u + 1] - 1``."""
    items: Int32s
    """``[n]`` dense items of the filtered log."""
    times: Int64s
    """``[n]`` in the log's unit of time."""
    num_items: int
    """Number of items of the filtered log."""

    @property
    def num_users(self) -> int:
        """Number of users of the filtered log."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Subset:
    """Training, validation or test data: histories of some users in CSR form, and the target of each.

    A user with several successive targets has a history for each, one after the other.
    """

    users: Int32s
    """``[n]`` users, ascending; repeated for successive targets."""
    offsets: Int64s
    """``[n + 1]``."""
    items: Int32s
    """``[nnz]``."""
    times: Int64s
    """``[nnz]``."""
    targets: Int32s | None = None
    """``[n]``; None for training."""
    target_times: Int64s | None = None
    """``[n]``; None for training."""

    @property
    def lengths(self) -> Int64s:
        """``[n]`` items per history."""
        return np.diff(self.offsets)
