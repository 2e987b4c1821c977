"""Which slices of the flat item ids are training examples, in which order, and on which rank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from rec_data.arrays import Int64s, Mask

UNREAD = 0.2
"""The share of the interactions outside of `last_windows` from which on `sliding_windows` are worth longer epochs."""


@dataclass(frozen=True)
class Examples:
    """Slices of the flat item ids."""

    starts: Int64s
    """[E] first place."""

    lengths: Int64s
    """[E] items, >= 2."""

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.starts)

    @classmethod
    def joined(cls, parts: Sequence["Examples"], sizes: Sequence[int]) -> "Examples":
        """The examples of several flat arrays of so many items, whose places continue from one to the next."""
        firsts = [0, *accumulate(sizes[:-1])]
        starts = [part.starts + first for part, first in zip(parts, firsts, strict=True)]
        return cls(np.concatenate(starts), np.concatenate([part.lengths for part in parts]))


def last_windows(offsets: Int64s, span: int) -> Examples:
    """One example per history of at least two items: its last ``span`` items. Offsets are [n + 1], of the store."""
    ends = offsets[1:]
    starts = np.maximum(offsets[:-1], ends - span)
    enough = ends - starts >= 2
    return Examples(starts[enough], (ends - starts)[enough])


def sliding_windows(offsets: Int64s, span: int, stride: int, *, full: bool = False) -> Examples:
    """Examples that end at a history's last item, ``stride`` items before it, and so on until the history is covered.

    Args:
        offsets: [n + 1] int64 of the store.
        span: Items of an example at most; examples of one item are left out.
        stride: Items from one example to the next.
        full: Make the oldest example of a history as long as the others, so that it overlaps the next one. Otherwise
            it holds the remaining items, which may be a single one; masked-item tasks cannot learn from that.
    """
    sizes = np.diff(offsets)
    uncovered = np.maximum(sizes - span, 0)
    counts = 1 - (-uncovered // stride)
    history = np.repeat(np.arange(len(sizes)), counts)
    back = np.arange(len(history)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0 for a history's last window
    ends = offsets[1:][history] - back * stride
    starts = np.maximum(offsets[:-1][history], ends - span)
    if full:
        ends = np.minimum(starts + span, offsets[1:][history])
    enough = ends - starts >= 2
    return Examples(starts[enough], (ends - starts)[enough])


def half_overlapping(span: int) -> int:
    """The stride of `sliding_windows` that share half of their ``span`` items with the next one; at least 1."""
    return max(1, span // 2)


def count_examples(lengths: Int64s, counts: Int64s, find: Callable[[Int64s], Examples]) -> int:
    """How many examples ``find`` makes of histories of ``lengths`` ``[m]``, of each as many as ``counts`` ``[m]``.

    ``find`` takes offsets, as `last_windows` and `sliding_windows` do.
    """
    ends = np.cumsum(lengths)
    of_each = np.searchsorted(ends, find(np.concatenate([[0], ends])).starts, side="right")
    return int(counts @ np.bincount(of_each, minlength=len(lengths))) if len(lengths) else 0


def epoch_order(size: int, *, seed: int, epoch: int, part: int | None = None) -> Int64s:
    """The order of the examples in an epoch: [size] int64, a permutation that ``seed`` and ``epoch`` decide.

    ``part`` gives each of several parts an order of its own.
    """
    return np.random.default_rng([seed, epoch, *([] if part is None else [part])]).permutation(size)


def with_new_items(examples: Examples, new: Mask) -> Mask:
    """[E] which examples hold a new item after their first one, so that it is predicted; `new` marks the flat items."""
    before = np.concatenate([[0], np.cumsum(new)])  # [nnz + 1]
    found: Mask = before[examples.starts + examples.lengths] > before[examples.starts + 1]
    return found


def replayed_order(new: Mask, replayed: int, *, seed: int, epoch: int) -> Int64s:
    """The order of an epoch that has the new ones of [E] examples, and a new sample of `replayed` others."""
    order = epoch_order(len(new), seed=seed, epoch=epoch)
    is_new = new[order]
    kept = order[is_new | (np.cumsum(~is_new) <= replayed)]
    return kept[epoch_order(len(kept), seed=seed, epoch=epoch)]


def num_batches(size: int, *, batch_size: int, world_size: int) -> int:
    """Batches per epoch and rank.

    All ranks together take consecutive blocks of ``batch_size * world_size`` examples. The last block holds the
    remaining examples, shared evenly. If they are fewer than the ranks, they join the block before, some of whose
    batches then hold ``batch_size + 1`` examples. So every rank has the same number of batches, no batch is empty, and
    every example is in exactly one batch. There are at least as many examples (``size``) as ranks (``world_size``).
    """
    blocks, rest = divmod(size, batch_size * world_size)
    return blocks + (rest >= world_size or blocks == 0)


def even_share(begin: int, end: int, *, rank: int, world_size: int) -> slice:
    """The part of a rank of the places from ``begin`` to ``end``, which all ranks share evenly."""
    share, more = divmod(end - begin, world_size)
    first = begin + rank * share + min(rank, more)
    return slice(first, first + share + (rank < more))
