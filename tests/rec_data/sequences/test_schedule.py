"""Which examples are in which batch: everything once, on any number of ranks, from any number of parts."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rec_data.errors import DataError
from rec_data.sequences.batches import TrainingBatches
from rec_data.sequences.parts import Part
from rec_data.sequences.schedule import Schedule
from rec_data.sequences.store import SequenceStore, write_store
from rec_data.sequences.subsets import open_subset


def schedules(sizes, batch_size, world_size):
    return [
        Schedule(sizes, batch_size=batch_size, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)
    ]


def rows_of(schedule, epoch=0):
    """The examples of every batch, counted over all parts."""
    orders = schedule.orders(epoch)
    return [schedule.rows(orders, index) + schedule.first_example for index in range(len(schedule))]


@settings(deadline=None)
@given(st.lists(st.integers(0, 80), min_size=1, max_size=8), st.integers(1, 9), st.integers(1, 7))
@example([22, 25, 19, 12, 24], 2, 5)  # a share of 1.2 examples is 0 in some blocks
def test_every_example_is_in_one_batch_of_one_rank(sizes, batch_size, world_size):
    size = sum(sizes)
    assume(size >= world_size)
    ranks = [rows_of(schedule) for schedule in schedules(sizes, batch_size, world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(np.concatenate([rows for batches in ranks for rows in batches]).tolist()) == list(range(size))
    together = rows_of(Schedule(sizes, batch_size=batch_size * world_size, seed=1))
    for index, shares in enumerate(zip(*ranks, strict=True)):
        assert min(map(len, shares)) >= 1
        block = np.concatenate(shares).tolist()
        if len(together) == len(ranks[0]):
            assert block == together[index].tolist()  # what one process would read, in its order
        if len(sizes) == 1:
            assert max(map(len, shares)) <= batch_size + 1


@pytest.mark.parametrize(("world_size", "parts"), [(1, [0, 4]), (2, [0, 2]), (4, [0, 1]), (3, [0, 4])])
def test_ranks_read_their_own_parts(world_size, parts):
    sizes = [100, 104, 97, 99]
    for rank, schedule in enumerate(schedules(sizes, 12, world_size)):
        first = rank * parts[1] if world_size != 3 else 0  # three ranks cannot have equally many of four parts
        assert list(schedule.parts) == list(range(first, first + parts[1] - parts[0]))
        begin, end = sum(sizes[:first]), sum(sizes[: first + parts[1]])
        for rows in rows_of(schedule)[:-1]:
            assert begin <= rows.min() <= rows.max() < end
            assert abs(len(rows) - 12 * world_size * (end - begin) / 400 / (3 if world_size == 3 else 1)) < 2
    together = schedules(sizes, 12, 1)[0]
    for rows in rows_of(together):
        assert set(np.searchsorted(np.cumsum(sizes), rows, side="right")) == {0, 1, 2, 3}  # every part in every batch
    assert Counter(np.concatenate(rows_of(together))) == Counter(np.concatenate(rows_of(together, epoch=1)))
    assert rows_of(together)[0].tolist() != rows_of(together, epoch=1)[0].tolist()


def write_parts(folder, histories, owners, parts):
    for number in range(1, parts + 1):
        users = [user for user, owner in enumerate(owners) if owner == number]
        own = [histories[user] for user in users]
        path = folder / "train" / f"{Part(number, parts).name}.arrow"
        path.parent.mkdir(exist_ok=True)
        write_store(
            path,
            items=np.array([item for history in own for item in history], dtype=np.int32),
            offsets=np.cumsum([0, *map(len, own)]),
            user_ids=np.array(users, dtype=np.int32),
            part=Part(number, parts),
            run="a",
        )
    return open_subset(folder, "train")


def one_store(histories):
    return SequenceStore(
        items=torch.tensor([item for history in histories for item in history], dtype=torch.int32),
        offsets=torch.tensor([0, *map(len, histories)]).cumsum(0),
        user_ids=torch.arange(len(histories), dtype=torch.int32),
    )


def examples_of(batches, epoch):
    """How often each (items, targets) is in an epoch; of masked items, the items without their masks."""
    found = Counter()
    for batch in batches.epoch(epoch):
        whole = batch.items if batch.masked is None else torch.where(batch.masked, batch.targets, batch.items)
        second = batch.targets if batch.masked is None else whole
        lengths = batch.offsets.diff().tolist()
        rows = zip(whole.split(lengths), second.split(lengths), strict=True)
        found.update((tuple(items.tolist()), tuple(targets.tolist())) for items, targets in rows)
    return found


@settings(deadline=None, max_examples=60)
@given(st.data(), st.lists(st.integers(0, 12), min_size=1, max_size=30), st.sampled_from(["next_item", "masked_item"]))
def test_an_epoch_of_parts_has_the_examples_of_one_store(data, lengths, task):
    assume(sum(length >= 2 for length in lengths) >= 3)
    histories = [[100 * user + place for place in range(length)] for user, length in enumerate(lengths)]
    parts = data.draw(st.integers(1, 5))
    owners = [data.draw(st.integers(1, parts)) for _ in lengths]
    span = data.draw(st.integers(1 if task == "next_item" else 2, 5))
    options = {
        "num_items": 4000, "task": task, "batch_size": data.draw(st.integers(1, 6)), "max_seq_len": span,
        "window": data.draw(st.none() | st.integers(1, span)),
    }  # fmt: skip
    whole = TrainingBatches(one_store(histories), **options)
    with TemporaryDirectory() as folder:
        subset = write_parts(Path(folder), histories, owners, parts)
        assert len(subset) == len(histories)
        for world_size in (1, 2, 3):
            if sum(examples_of(whole, 0).values()) < world_size:
                continue
            found = Counter()
            steps = set()
            for rank in range(world_size):
                batches = TrainingBatches(subset, **options, rank=rank, world_size=world_size)
                found += examples_of(batches, 2)
                steps.add(len(batches))
            assert found == examples_of(whole, 2)
            assert len(steps) == 1


def test_parts_resume_and_share_batches_with_any_number_of_ranks(tmp_path):
    rng = np.random.default_rng(0)
    histories = [list(range(10 * user, 10 * user + rng.integers(2, 9))) for user in range(97)]
    subset = write_parts(tmp_path, histories, [1 + user % 4 for user in range(97)], 4)

    def read(batch_size, rank=0, world_size=1, start=0):
        options = {"num_items": 1000, "task": "masked_item", "max_seq_len": 5, "batch_size": batch_size}
        return list(TrainingBatches(subset, **options, rank=rank, world_size=world_size).epoch(3, start))

    one = read(16)
    for left, right in zip(read(16, start=2), one[2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    for world_size in (2, 4):
        ranks = [read(16 // world_size, rank, world_size) for rank in range(world_size)]
        for whole, *shares in zip(one, *ranks, strict=True):
            for name in ("items", "targets", "masked"):  # the masks too: they depend on the example, not on the rank
                assert torch.cat([getattr(share, name) for share in shares]).equal(getattr(whole, name))


def test_what_parts_cannot_do_is_refused(tmp_path):
    subset = write_parts(tmp_path, [[1, 2], [3, 4]], [1, 2], 2)
    with pytest.raises(DataError, match=r"new items: found histories in 2 parts, allowed: in one$"):
        TrainingBatches(subset, num_items=9, batch_size=1, max_seq_len=2, new=np.zeros(4, dtype=bool))
    with pytest.raises(DataError, match=r"the store holds items from 3 to 4; num_items 4 allows 0 to 3$"):
        TrainingBatches(subset, num_items=4, batch_size=1, max_seq_len=2)
