"""Functions of one part of a log, for all of its parts, wherever these are."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rec_data.splits.sorted_log import SortedLog

_T = TypeVar("_T")
_A = TypeVar("_A", bound=npt.NDArray[Any])

Logs = Sequence[SortedLog]
"""The parts of a log; one that is whole is its only part. A part may be read when it is asked for, so none is kept."""


class WorkerLogs(Sequence[SortedLog]):
    """Parts that other processes hold. A function that they are given is pickled, with the values that it refers to."""

    @abstractmethod
    def each(self, function: Callable[[SortedLog], _T]) -> Iterator[_T]:
        """See `each`."""

    @abstractmethod
    def total(self, function: Callable[[SortedLog], _A]) -> _A:
        """See `total`."""


def each(logs: Logs, function: Callable[[SortedLog], _T]) -> Iterator[_T]:
    """The result of a function for each part, in their order."""
    return logs.each(function) if isinstance(logs, WorkerLogs) else map(function, logs)


def total(logs: Logs, function: Callable[[SortedLog], _A]) -> _A:
    """The sum of the arrays that a function returns for the parts, of booleans their union."""
    if isinstance(logs, WorkerLogs):
        return logs.total(function)
    return reduce(add, map(function, logs))


def add(one: _A, other: _A) -> _A:
    """The sum of two arrays, of booleans their union."""
    added: _A = np.add(one, other)
    return added
