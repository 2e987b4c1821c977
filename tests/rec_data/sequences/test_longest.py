"""The longest history of each user, of which a target is the last item."""

import numpy as np
import torch

from rec_data.sequences.longest import longest_histories
from rec_data.sequences.store import SequenceStore


def store(histories: dict[int, list[list[int]]], targets: list[int] | None = None) -> SequenceStore:
    rows = [(user, history) for user, own in histories.items() for history in own]
    return SequenceStore(
        items=torch.tensor([item for _, history in rows for item in history], dtype=torch.int32),
        offsets=torch.tensor(np.cumsum([0, *(len(history) for _, history in rows)])),
        user_ids=torch.tensor([user for user, _ in rows], dtype=torch.int32),
        targets=None if targets is None else torch.tensor(targets, dtype=torch.int32),
    )


def test_the_longest_history_of_each_user():
    train = store({0: [[1, 2]], 3: [[5]], 4: [[7, 8, 9]]})
    test = store({1: [[4]], 3: [[5, 6], [5, 6, 2]], 5: [[]]}, [3, 2, 8, 9])
    found = longest_histories([train, test])
    assert found.user_ids.tolist() == [0, 1, 3, 4, 5]
    lists = [found.items[start:end].tolist() for start, end in zip(found.offsets, found.offsets[1:], strict=False)]
    assert lists == [[1, 2], [4, 3], [5, 6, 2, 8], [7, 8, 9], [9]]
    some = longest_histories([train, test], lambda users: users > 3)
    assert (some.user_ids.tolist(), some.items.tolist()) == ([4, 5], [7, 8, 9, 9])
    assert len(longest_histories([])) == 0
