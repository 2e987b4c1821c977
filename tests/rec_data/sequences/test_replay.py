"""Training further reads all examples that predict a new item, and a sample of the others that changes."""

import numpy as np
import torch

from rec_data.sequences.batches import TrainingBatches
from rec_data.sequences.store import SequenceStore


def test_an_epoch_has_the_new_examples_and_as_many_of_the_others():
    """Of 20 histories of 3 items, 4 have a new item; that of a fifth is its first one, which is not predicted."""
    users, length = 20, 3
    store = SequenceStore(
        items=torch.arange(users * length, dtype=torch.int32),
        offsets=torch.arange(0, users * length + 1, length),
        user_ids=torch.arange(users, dtype=torch.int32),
    )
    new = np.zeros(users * length, dtype=bool)
    new[[2, 5, 8, 10, 12]] = True
    batches = TrainingBatches(store, num_items=60, batch_size=5, max_seq_len=8, new=new, replay=1.0)
    assert len(batches) == 2

    for batch in batches.epoch(0):
        users_of = batch.items[batch.offsets[:-1]] // length
        targets = batch.targets.view(-1, length - 1)
        for user, row in zip(users_of.tolist(), targets.tolist(), strict=True):
            whole = [user * length + 1, user * length + 2]
            assert row == ([-100, whole[1]] if user < 4 and user != 3 else [whole[0], -100] if user == 3 else whole)

    def read(epoch: int) -> list[int]:
        return [int(item) // length for batch in batches.epoch(epoch) for item in batch.items[batch.offsets[:-1]]]

    first, second = read(0), read(1)
    for epoch in (first, second):
        assert len(set(epoch)) == 8
        assert set(range(4)) <= set(epoch)
    assert set(first) != set(second)
    assert read(0) == first
    rest = [int(batch.items[0]) // length for batch in batches.epoch(0, start=1)]
    assert rest == [first[5]]
