"""How much the order of a log matters: the last items predicted from the items before them, and from shuffled ones."""

import math
from typing import NamedTuple

import numpy as np

from rec_data import arrays
from rec_data.arrays import Int32s, Mask
from rec_data.splits.sorted_log import SortedLog

SAMPLE_ROWS = 5_000_000
"""Maximum number of interactions that are used: a random sample of whole users."""

TOP = 10
"""Length of the list of successors in which an item must be."""


class OrderTest(NamedTuple):
    """How well the last item of a user can be predicted from the one before it."""

    ordered: float
    """Hit rate in the true order, from 0 to 1, over the tested users."""
    shuffled: float
    """The same with each user's items shuffled."""
    users: int
    """Tested users: those with at least three items, and a last step whose order is known."""
    drop_interval: tuple[float, float]
    """95 % interval of ``ordered - shuffled``."""


def order_test(log: SortedLog, *, seed: int, ties_are_ordered: bool = False) -> OrderTest:
    """Predict each user's last item by the most frequent successors of the item before it, in true and shuffled order.

    Successors are counted over all steps except each user's last; that one counts as a hit if its item is among the
    ``TOP`` most frequent successors of the item before it. Hits that remain after shuffling are due to popularity
    and taste, the difference to order. Each user is tested both ways, so the difference is one of paired proportions.

    Steps between equal times are neither counted nor tested unless ``ties_are_ordered``: they show which items go
    together, and nothing about order.
    """
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(log.num_users, dtype=np.int32), np.diff(log.offsets))
    items, times = log.items, log.times
    if len(items) > SAMPLE_ROWS:
        chosen = arrays.spread(rng.random(log.num_users) < SAMPLE_ROWS / len(items), log.offsets)
        users, items, times = users[chosen], items[chosen], times[chosen]
    ordered = np.full(len(items) - 1, True) if ties_are_ordered else times[1:] != times[:-1]
    shuffled = items[np.lexsort((rng.random(len(items)), users))]
    hits, hits_shuffled = (_hits(users, order, ordered, log.num_items) for order in (items, shuffled))
    if len(hits) == 0:
        return OrderTest(0.0, 0.0, 0, (-1.0, 1.0))
    won, lost = int((hits & ~hits_shuffled).sum()), int((hits_shuffled & ~hits).sum())
    return OrderTest(float(hits.mean()), float(hits_shuffled.mean()), len(hits), paired_interval(won, lost, len(hits)))


def _hits(users: Int32s, items: Int32s, ordered: Mask, num_items: int) -> Mask:
    """Whether the last item of each user with at least three items is predicted, in order of user.

    Rows ``i`` and ``i + 1`` are a step if they are of one user and ``ordered[i]``.
    """
    step = users[1:] == users[:-1]  # rows that are followed by a row of the same user
    last = step & np.append(users[2:] != users[1:-1], True)
    before = np.concatenate(([False], step[:-1]))
    asked = last & before & ordered  # the last step of users with at least two
    pairs = items[:-1].astype(np.int64) * num_items + items[1:]
    if not asked.any():
        return np.zeros(0, dtype=bool)
    steps, counts = np.unique(pairs[step & ~last & ordered], return_counts=True)
    first = steps // num_items
    order = np.lexsort((-counts, first))
    start = np.searchsorted(first[order], first[order])
    top = steps[order][np.arange(len(order)) - start < TOP]
    found: Mask = np.isin(pairs[asked], top)
    return found


def paired_interval(won: int, lost: int, pairs: int) -> tuple[float, float]:
    """95 % interval of the difference of two paired proportions.

    Wald's interval after half a pair is added to each of the four outcomes, which makes it valid for few pairs too
    (Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005). Only the first of
    a pair was a hit in ``won`` of them, only the second in ``lost``.
    """
    n = pairs + 2
    centre = (won - lost) / n
    margin = 1.96 * math.sqrt((won + lost + 1) - n * centre**2) / n
    return max(centre - margin, -1.0), min(centre + margin, 1.0)
