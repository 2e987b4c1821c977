"""An encoded, sorted log, and a part of it, in CSR form."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rec_data.arrays import Int32s, Int64s

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True)
class SortedLog:
    """Interactions sorted by user, then by time: of a whole log, or of a part of its users."""

    offsets: Int64s
    """``[users + 1]``; the rows of user ``u`` are ``offsets[u]`` to ``offsets[u + 1] - 1``."""
    items: Int32s
    """``[n]`` dense items of the filtered log."""
    times: Int64s
    """``[n]`` in the log's unit of time."""
    num_items: int
    """Number of items of the filtered log, whole even in a part."""
    users: Int32s | None = None
    """``[users]`` dense users of the whole log, ascending; None if this is the whole log, whose users count from 0."""

    @property
    def num_users(self) -> int:
        """Number of users of this log or part."""
        return len(self.offsets) - 1

    def of_users(self, values: npt.NDArray[_T]) -> npt.NDArray[_T]:
        """The values of the users of this part, ``[users]``, of those of all users of the whole log."""
        return values if self.users is None else values[self.users]


@dataclass(frozen=True)
class Subset:
    """Training, validation or test data: histories of some users in CSR form, and the target of each.

    A user with several successive targets has a history for each, one after the other.
    """

    users: Int32s
    """``[n]`` users as the log or part counts them from 0, ascending; repeated for successive targets."""
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
