"""Reading of mapped histories ahead of their batches, where they may be larger than memory."""

import mmap
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch

from rec_data.arrays import Int64s
from rec_data.sequences.examples import Examples
from rec_data.sequences.store import SequenceStore

_BATCHES = 2
"""Read ahead of the one that is made."""


class ReadAhead:
    """Asks the system for the pages of coming batches, which it then reads at the same time and while training goes on.

    Without that, a batch waits for its pages one after the other. The system also reads the pages around each of them,
    up to megabytes, because it takes the order of reading for that of the file.
    """

    def __init__(self, parts: Sequence[SequenceStore]) -> None:
        """Plans to read histories in any order.

        Args:
            parts: Stores, whose items are counted one part after another.
        """
        self._files = [part.mapped for part in parts]
        self._bounds = np.array([0, *accumulate(len(part.items) for part in parts)])
        self._firsts = np.array([_place(part) for part in parts])
        for file in self._files:
            if file is not None:
                file.madvise(mmap.MADV_RANDOM)

    def of(self, batches: Iterable[Int64s], examples: Examples) -> Iterator[Int64s]:
        """Yield the rows ``[B]`` of batches, of which the next two are being read."""
        ahead: deque[Int64s] = deque()
        for rows in batches:
            self._read(examples.starts[rows], examples.lengths[rows])
            ahead.append(rows)
            if len(ahead) > _BATCHES:
                yield ahead.popleft()
        yield from ahead

    def _read(self, starts: Int64s, lengths: Int64s) -> None:
        parts = np.searchsorted(self._bounds, starts, side="right") - 1
        begins = self._firsts[parts] + 4 * (starts - self._bounds[parts])  # bytes of the files
        pages = begins // mmap.PAGESIZE * mmap.PAGESIZE
        sizes = begins + 4 * lengths - pages
        for part, page, size in zip(parts.tolist(), pages.tolist(), sizes.tolist(), strict=True):
            if (file := self._files[part]) is not None:
                file.madvise(mmap.MADV_WILLNEED, page, size)


def _place(store: SequenceStore) -> int:
    """Of the items in their file."""
    if store.mapped is None or not len(store.items):
        return 0
    return store.items.data_ptr() - torch.frombuffer(store.mapped, dtype=torch.uint8).data_ptr()
