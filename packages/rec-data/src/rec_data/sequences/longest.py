"""The longest history of each user in the subsets of a split: what is known of users where their log is not at hand."""

from collections.abc import Callable, Iterable

import numpy as np
import torch

from rec_data.arrays import Int32s, Mask, places
from rec_data.sequences.store import SequenceStore


def longest_histories(stores: Iterable[SequenceStore], choose: Callable[[Int32s], Mask] | None = None) -> SequenceStore:
    """Take the longest history of each user in several stores, of which a target is the last item.

    Args:
        stores: Of one split, or of one part of it: train, validation and test.
        choose: Which of the users ``[n]`` (dense ids, ascending) to take, as ``[n]`` bool; None takes all.

    Returns:
        One history per user, users ascending.
    """
    found = list(stores)
    users = np.concatenate([np.empty(0, np.int32), *(store.user_ids.numpy() for store in found)])
    lengths = np.concatenate(
        [np.empty(0, np.int64), *(store.lengths.numpy() + (store.targets is not None) for store in found)]
    )
    order = np.lexsort((lengths, users))
    rows = order[np.append(users[order][1:] != users[order][:-1], True)] if len(order) else order
    if choose is not None:
        rows = rows[choose(users[rows])]
    offsets = np.concatenate([[0], np.cumsum(lengths[rows])])
    items = np.empty(offsets[-1], dtype=np.int32)
    first = 0
    for store in found:
        inside = np.flatnonzero((rows >= first) & (rows < first + len(store)))
        own, sizes = rows[inside] - first, store.lengths.numpy()[rows[inside] - first]
        items[places(offsets[inside], sizes)] = store.items.numpy()[places(store.offsets.numpy()[own], sizes)]
        if store.targets is not None:
            items[offsets[inside + 1] - 1] = store.targets.numpy()[own]
        first += len(store)
    return SequenceStore(torch.from_numpy(items), torch.from_numpy(offsets), torch.from_numpy(users[rows]))
