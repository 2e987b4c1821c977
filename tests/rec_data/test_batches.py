"""Batches: what they hold, and that nothing is lost, doubled or leaked."""

import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rec_data.errors import DataError
from rec_data.sequences.batches import SequenceStore, TrainingBatches, inference_batches
from rec_data.sequences.masking import LAST_ONLY

HISTORIES = [[5, 6, 7, 8, 9], [1], [2, 3], [4, 4, 4]]


def store_of(histories, targets=None):
    return SequenceStore(
        items=torch.tensor([item for history in histories for item in history], dtype=torch.int32),
        offsets=torch.tensor([0, *map(len, histories)]).cumsum(0),
        user_ids=torch.arange(len(histories), dtype=torch.int32),
        targets=None if targets is None else torch.tensor(targets, dtype=torch.int32),
    )


def batches_of(histories, **arguments):
    return TrainingBatches(
        store_of(histories), **{"num_items": 100, "batch_size": 2, "max_seq_len": 3, "seed": 0, **arguments}
    )


def rows_of(batch):
    """(items, targets, masked) of every sequence of a batch, as lists."""
    assert batch.items.dtype == batch.targets.dtype == batch.offsets.dtype == torch.int64
    assert batch.offsets[0] == 0
    assert batch.offsets[-1] == len(batch.items) == len(batch.targets)
    lengths = batch.offsets.diff().tolist()
    assert min(lengths) >= 1
    fields = (batch.items, batch.targets, torch.zeros_like(batch.items) if batch.masked is None else batch.masked)
    return list(zip(*([part.tolist() for part in field.split(lengths)] for field in fields), strict=True))


def examples_of(batches):
    """Every (items, targets) pair."""
    return [(items, targets) for batch in batches for items, targets, _ in rows_of(batch)]


def whole_of(batch):
    """The items [T] of a masked batch before masking."""
    return torch.where(batch.masked, batch.targets, batch.items)


def test_next_item_by_hand():
    batches = batches_of(HISTORIES)
    assert len(batches) == 2
    assert sorted(examples_of(batches.epoch(0))) == [([2], [3]), ([4, 4], [4, 4]), ([6, 7, 8], [7, 8, 9])]


def test_sliding_windows_by_hand():
    examples = examples_of(batches_of([list(range(10, 18)), [1], [2, 3]], window=3).epoch(0))
    assert sorted(examples) == [
        ([2], [3]),
        ([10], [11]),
        ([11, 12, 13], [12, 13, 14]),
        ([14, 15, 16], [15, 16, 17]),
    ]


def test_masked_item_hides_what_it_asks_for():
    histories = [list(range(1 + 10 * row, 8 + 10 * row)) for row in range(9)]
    batches = batches_of(histories, task="masked_item", max_seq_len=5, mask_prob=0.3, batch_size=4)
    for epoch in range(20):
        for batch in batches.epoch(epoch):
            assert (batch.items[batch.masked] == 0).all()
            assert (batch.targets[~batch.masked] == -100).all()
            assert batch.masked.view(-1, 5).any(dim=1).all()
            whole = whole_of(batch).view(-1, 5)
            assert (whole == whole[:, :1] + torch.arange(5)).all()  # the last five items, in order
            assert (whole[:, -1] % 10 == 7).all()


def test_masks_have_their_rate_and_show_the_inference_pattern():
    batches = batches_of([[1] * 40] * 2000, task="masked_item", max_seq_len=40, mask_prob=0.15, batch_size=2000)
    masked = next(batches.epoch(0)).masked.view(2000, 40)
    last_only = masked[:, -1] & (masked.sum(dim=1) == 1)
    assert abs(last_only.float().mean() - LAST_ONLY) < 0.03
    others = masked[~last_only]
    assert abs(others.float().mean() - 0.15) < 0.005
    assert (abs(others.float().mean(dim=0) - 0.15) < 0.04).all()  # at every place


def test_masks_do_not_depend_on_the_batch():
    histories = [list(range(20 * row, 20 * row + 12)) for row in range(5)]

    def masks(**arguments):
        found = {}
        for batch in batches_of(histories, task="masked_item", max_seq_len=12, **arguments).epoch(3):
            rows = zip(whole_of(batch).view(-1, 12).tolist(), batch.masked.view(-1, 12).tolist(), strict=True)
            found |= {row[0]: mask for row, mask in rows}
        return found

    assert masks(batch_size=5) == masks(batch_size=2)
    assert masks(batch_size=5) != masks(batch_size=5, seed=1)


def test_masks_stay_what_they_were():
    histories = [[10 * row + place for place in range(8)] for row in range(4)]
    batches = batches_of(histories, task="masked_item", max_seq_len=8, batch_size=4, mask_prob=0.3)
    found = {
        max(items + targets) // 10: "".join(str(int(mask)) for mask in masked)
        for batch in batches.epoch(3)
        for items, targets, masked in rows_of(batch)
    }
    assert found == {0: "10001110", 1: "01111101", 2: "10001011", 3: "01100101"}  # else old runs cannot be repeated


def test_epochs_differ_repeat_and_resume():
    histories = [[item, item + 1] for item in range(0, 60, 2)]
    first = examples_of(batches_of(histories).epoch(0))
    assert first == examples_of(batches_of(histories).epoch(0))
    assert first != examples_of(batches_of(histories).epoch(1))
    assert sorted(first) == sorted(examples_of(batches_of(histories).epoch(1)))
    assert examples_of(batches_of(histories).epoch(0, start=4)) == first[8:]
    assert not list(batches_of(histories).epoch(0, start=15))


def test_ranks_share_the_epoch():
    histories = [[item, item + 1] for item in range(0, 62, 2)]
    ranks = [batches_of(histories, rank=rank, world_size=3, batch_size=4) for rank in range(3)]
    assert len({len(rank) for rank in ranks}) == 1
    found = [example for rank in ranks for example in examples_of(rank.epoch(5))]
    assert sorted(found) == sorted(examples_of(batches_of(histories).epoch(0)))


def lengths_and_sizes(batches, histories):
    """The length of each example, and the size of the history that it is of."""
    sizes = {item: len(history) for history in histories for item in history}
    starts = batches.examples.starts.tolist()
    return list(zip(batches.examples.lengths.tolist(), [sizes[start] for start in starts], strict=True))


@settings(deadline=None)
@given(
    st.sampled_from(["next_item", "masked_item"]),
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.integers(1, 8),
    st.integers(1, 8),
)
@example("masked_item", [11], 5, 5)
def test_windows_cover_every_target(task, sizes, max_seq_len, window):
    sizes, window = [*sizes, 2], min(window, max_seq_len)
    starts = [sum(sizes[:row]) for row in range(len(sizes))]
    histories = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    if task == "masked_item":
        max_seq_len = max(max_seq_len, 2)
    batches = batches_of(histories, task=task, num_items=1000, max_seq_len=max_seq_len, window=window)
    if task == "masked_item":
        found = set(torch.cat([whole_of(batch) for batch in batches.epoch(0)]).tolist())
        assert found == {item for history in histories if len(history) > 1 for item in history}
        spans = lengths_and_sizes(batches, histories)
        assert all(length == min(max_seq_len, size) for length, size in spans)
        return
    targets = [target for _, targets in examples_of(batches.epoch(0)) for target in targets]
    assert set(targets) == {item for history in histories for item in history[1:]}
    if window == max_seq_len:
        assert len(targets) == len(set(targets))


def test_inference_gives_all_users_in_order():
    batches = list(inference_batches(store_of(HISTORIES, [0, 0, 0, 0]), max_seq_len=3, batch_size=3))
    assert [[items for items, *_ in rows_of(batch)] for batch in batches] == [[[7, 8, 9], [1], [2, 3]], [[4, 4, 4]]]
    assert all((batch.targets == -100).all() for batch in batches)


BAD = {
    "task": ({"task": "next"}, "task 'next'; allowed: next_item, masked_item"),
    "batch": ({"batch_size": 0}, "batch_size 0; allowed: at least 1"),
    "length": ({"max_seq_len": 0}, "max_seq_len 0"),
    "seed": ({"seed": -1}, "seed -1; allowed: at least 0"),
    "rank": ({"rank": 2, "world_size": 2}, "rank 2; allowed: from 0 to world_size - 1 = 1"),
    "mask": ({"task": "masked_item", "mask_prob": 1.0}, "mask_prob 1.0"),
    "window": ({"window": 4}, "window: found 4, allowed: 1 to max_seq_len = 3, or None"),
    "items": ({"num_items": 9}, "items from 1 to 9; num_items 9"),
    "ranks": ({"world_size": 4}, "3 histories with at least two items, for world_size 4"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    arguments, message = BAD[case]
    with pytest.raises(DataError, match=message):
        batches_of(HISTORIES, **arguments)


@pytest.mark.parametrize("arguments", [(-1,), (0, -1)])
def test_an_epoch_and_a_start_below_zero_are_named(arguments):
    with pytest.raises(DataError, match=r"(epoch|start) -1; allowed: at least 0"):
        next(batches_of(HISTORIES).epoch(*arguments))


def test_nothing_to_train_on():
    for histories in ([], [[1], [2]]):
        with pytest.raises(DataError, match="0 histories with at least two items"):
            batches_of(histories)


WITHOUT_POLARS = """
import sys, pathlib
sys.modules["polars"] = None
from rec_data.sequences.batches import TrainingBatches
from rec_data.sources.fetch import fetch_log, fingerprint
for dataset in ("demo", "twin:gowalla@0.001"):
    out = pathlib.Path(sys.argv[1])
    assert fetch_log(dataset, out, root=out.parent)["rows"] > 1000
    fingerprint(dataset, root=out.parent)
"""


def test_training_and_twins_need_no_polars(tmp_path):
    subprocess.run([sys.executable, "-c", WITHOUT_POLARS, str(tmp_path / "log.parquet")], check=True)


def test_reading_needs_no_torch():
    modules = "rec_data.sources.fetch, rec_data.raw.files, rec_data.raw.normalise"
    code = f"import sys; sys.modules['torch'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.parametrize("task", ["next_item", "masked_item"])
@pytest.mark.parametrize("resident", [True, False])
def test_gpu_gives_the_same(monkeypatch, task, resident):
    if not resident:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    histories = [list(range(row % 23 + 1)) for row in range(500)]
    arguments = {"task": task, "batch_size": 64, "max_seq_len": 16, "window": 7}
    here, there = batches_of(histories, **arguments), batches_of(histories, device="cuda", **arguments)
    for one, other in zip(here.epoch(1), there.epoch(1), strict=True):
        for expected, found in zip(one, other, strict=True):
            if expected is not None:
                assert found.is_cuda
                assert torch.equal(found.cpu(), expected)
