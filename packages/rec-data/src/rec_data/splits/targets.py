"""The choice of the interaction that each evaluated user is tested on, and of the history before it."""

import numpy as np

from rec_data import arrays
from rec_data.arrays import Int32s, Mask
from rec_data.splits.sorted_log import SortedLog, Subset


def gather(log: SortedLog, rows: Mask, *, targets: Int32s | None = None) -> Subset:
    """The marked rows, ``[n]``, as histories of the users who have some."""
    counts = arrays.count_rows(rows, log.offsets)
    users = np.flatnonzero(counts)
    offsets = np.concatenate(([0], np.cumsum(counts[users])))
    return Subset(users.astype(np.int32), offsets, log.items[rows], log.times[rows], targets)


def hold_out(log: SortedLog, rows: Mask, candidates: Mask) -> tuple[Subset, int]:
    """Make the last of each user's candidates the target, and the rows before it the history.

    Args:
        log: The filtered log.
        rows: ``[n]`` what histories consist of.
        candidates: ``[n]`` what targets are chosen from, among ``rows``. A user's first row has no history, so it is no
            target.

    Returns:
        The histories and targets of the users who have a target, and how many others have candidates.
    """
    with_candidates = np.count_nonzero(arrays.count_rows(candidates, log.offsets))
    allowed = candidates.copy()
    place = np.flatnonzero(rows)
    counts = arrays.count_rows(rows, log.offsets)
    allowed[place[(np.cumsum(counts) - counts)[counts > 0]]] = False
    number = arrays.count_rows(allowed, log.offsets)
    chosen = np.flatnonzero(number)
    target = np.flatnonzero(allowed)[np.cumsum(number)[chosen] - 1]
    # Each user's rows in two segments: those before the target, and the others.
    bounds = np.repeat(log.offsets, 2)[:-1]
    bounds[2 * chosen + 1] = target
    before = np.repeat(np.tile([True, False], log.num_users), np.diff(bounds))
    return gather(log, rows & before, targets=log.items[target]), int(with_candidates - len(chosen))
