"""The order in which batches are measured: each size twice before the clock starts, batches read as training reads."""

from typing import Any

import numpy as np
import pytest
import torch

from pipelines.paper.warm_up import WarmUpBatches, recorded_sizes, warm_up_order
from rec_data.sequences.batches import TrainingBatches
from rec_data.sequences.store import SequenceStore
from rec_models.training.cuda_graphs import size_of
from rec_models.training.prefetch import Prefetcher


def batches_of(task: Any) -> TrainingBatches:
    lengths = np.random.default_rng(0).integers(2, 30, 6 * 16)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    items = torch.arange(int(offsets[-1]), dtype=torch.int32) % 50
    store = SequenceStore(items, offsets, torch.arange(len(lengths)), None)
    return TrainingBatches(store, num_items=50, task=task, batch_size=16, max_seq_len=20)


def test_batches_come_in_the_order_asked_for_from_wherever():
    inner = batches_of("next_item")
    order = [3, 3, 0, 1, 2, 5, 0]
    every = [batch.items.tolist() for batch in inner.epoch(0)]
    asked = WarmUpBatches(inner, order)
    assert len(asked) == 7
    assert [batch.items.tolist() for batch in asked.epoch(4)] == [every[index] for index in order]
    assert [batch.items.tolist() for batch in asked.epoch(0, start=4)] == [every[index] for index in order[4:]]


@pytest.mark.parametrize("task", ["next_item", "masked_item"])
def test_every_timed_batch_has_a_size_that_was_seen_twice(task: Any):
    inner = batches_of(task)
    sizes = recorded_sizes(inner)
    order = warm_up_order(sizes, 3)
    prefetcher = Prefetcher(WarmUpBatches(inner, [*order, *range(6)]), 1, fill=20, pin=False)
    seen = [size_of(step) for step in prefetcher.epoch(0, 0)]
    assert len(set(sizes)) > 1
    for size in seen[len(order) :]:
        assert seen[: len(order)].count(size) >= 2


def test_a_warm_up_is_as_long_as_asked_for_or_longer():
    assert warm_up_order(["a", "b", "a"], 7) == [0, 0, 1, 1, 0, 1, 2]
    assert warm_up_order(["a", "b", "c"], 1) == [0, 0, 1, 1, 2, 2]
