"""How often lists show each item, counted part by part: what Coverage and the popularity of lists are made of."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from rec_eval.metrics.hits import Ints, added_places


class ShownItems(NamedTuple):
    """How often each item is among the first k places of lists, for several k."""

    ks: tuple[int, ...]
    """The cutoffs, ascending."""
    times: Ints
    """``[len(ks), V]``."""

    @classmethod
    def none(cls, ks: Sequence[int], num_items: int) -> Self:
        """Before the first list."""
        cuts = tuple(sorted(set(ks)))
        return cls(cuts, np.zeros((len(cuts), num_items), dtype=np.int64))

    @classmethod
    def of(cls, lists: npt.NDArray[Any], ks: Sequence[int], num_items: int) -> Self:
        """Those of lists ``[U, K]`` of checked ids, -1 for an empty place."""
        shown = cls.none(ks, num_items)
        shown.add(lists)
        return shown

    def add(self, lists: npt.NDArray[Any]) -> None:
        """Count the lists ``[u, K]`` of further users."""
        num_items = self.times.shape[1]
        for index, (_, blocks) in enumerate(added_places(lists, self.ks)):
            for _, places in blocks:  # element 0 counts empty places
                self.times[index:] += np.bincount((places + 1).ravel(), minlength=num_items + 1)[1:]
