import threading
import time
from typing import NamedTuple

import pytest
import torch

from rec_models.training.batch import pack, prepare
from rec_models.training.cuda_graphs import prepare_filled
from rec_models.training.prefetch import Feed, as_factory, in_background


def steps_of(tiny, accumulate=1, position=(0, 0), **options):
    batches = tiny.TinyBatches(**options)
    return list(Feed(lambda: batches, lambda: position, accumulate, pin=False))


def test_padding_and_places_without_a_target_are_left_out(tiny):
    inputs = torch.tensor([[5, 6, 7], [8, 0, 0]])
    targets = torch.tensor([[6, -100, 9], [3, -100, -100]])
    masked = torch.tensor([[False, True, False], [True, False, False]])
    step = prepare(tiny.TinyBatch(inputs, torch.tensor([3, 1]), targets, masked))
    assert step.items.tolist() == [5, 6, 7, 8]
    assert step.masked.tolist() == [False, True, False, True]
    assert step.rows.tolist() == [0, 2, 3]
    assert step.targets.tolist() == [6, 9, 3]
    assert step.layout.starts.tolist() == [0, 3, 4]
    assert step.layout.from_end.tolist() == [2, 1, 0, 0]
    assert step.layout.pad(step.items).tolist() == [[5, 6, 7], [8, 0, 0]]


class Packed:
    """The batches of another, end to end."""

    class Batch(NamedTuple):
        inputs: torch.Tensor
        offsets: torch.Tensor
        targets: torch.Tensor
        masked: torch.Tensor | None

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def packed_epoch(self, epoch, start=0):
        for batch in self.batches.epoch(epoch, start):
            real = torch.arange(batch.inputs.shape[1]) < batch.lengths[:, None]
            inputs, targets, masked = (
                None if tensor is None else tensor[real] for tensor in (batch.inputs, batch.targets, batch.masked)
            )
            yield self.Batch(inputs, torch.nn.functional.pad(batch.lengths.cumsum(0), (1, 0)), targets, masked)


@pytest.mark.parametrize("position", [(0, 0), (3, 2)])
def test_packed_batches_make_the_same_steps(tiny, model_name, position):
    padded = steps_of(tiny, accumulate=2, position=position, model=model_name)
    batches = Packed(tiny.TinyBatches(model=model_name))
    packed = list(Feed(lambda: batches, lambda: position, 2, pin=False))
    assert len(packed) == len(padded)
    for ours, expected in zip(packed, padded, strict=True):
        assert (ours.layout.rows, ours.num_places) == (expected.layout.rows, expected.num_places)
        assert (ours.window_counts, ours.position) == (expected.window_counts, expected.position)
        assert torch.equal(ours.layout.pad(ours.items), expected.layout.pad(expected.items)[:, : ours.layout.width])
        for name, values in ours._asdict().items():
            if isinstance(values, torch.Tensor):
                assert torch.equal(values, getattr(expected, name)), name
        for name in ("from_end", "starts", "ends"):
            assert torch.equal(getattr(ours.layout, name), getattr(expected.layout, name)), name


def test_a_change_reaches_every_tensor(tiny):
    step = prepare(tiny.TinyBatches(model="bert4rec").batch(0, 0))
    changed = step.map(lambda tensor: tensor.to("meta"))
    tensors = [*changed, *changed.layout]
    assert sum(isinstance(value, torch.Tensor) for value in tensors) == 8
    assert all(value.is_meta for value in tensors if isinstance(value, torch.Tensor))
    assert (changed.window_counts, changed.layout.width) == (step.window_counts, step.layout.width)


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_a_staged_batch_is_the_same_in_one_buffer(tiny, model):
    step = prepare_filled(pack(tiny.TinyBatches(model=model).batch(0, 0)), 12)
    staged = step.staged(pin=False)
    moved = staged.to(torch.device("cpu"))
    assert staged.map(lambda tensor: tensor).buffer is None
    for one in (staged, moved):
        begin, end = one.buffer.data_ptr(), one.buffer.data_ptr() + one.buffer.numel()
        for ours, theirs in zip(one.tensors(), step.tensors(), strict=True):
            assert torch.equal(ours, theirs)
            assert ours.dtype == theirs.dtype
            assert begin <= ours.data_ptr() < end
            assert (ours.data_ptr() - begin) % 16 == 0
        assert one._replace(buffer=None).map(torch.Tensor.tolist) == step.map(torch.Tensor.tolist)


def test_targets_everywhere_need_no_rows(tiny):
    assert all(step.rows is None for step in steps_of(tiny))


def test_windows_know_the_tokens_of_all_their_batches(tiny):
    steps = steps_of(tiny, accumulate=4, count=6)
    counts = [step.targets.numel() for step in steps]
    assert [step.window_counts for step in steps] == [tuple(counts[:4])] * 4 + [tuple(counts[4:])] * 2
    assert [step.position for step in steps] == [0, 1, 2, 3, 0, 1]
    assert [step.is_last for step in steps] == [False, False, False, True, False, True]


def test_a_pass_is_the_rest_of_the_epoch(tiny):
    whole, rest = steps_of(tiny, position=(2, 0)), steps_of(tiny, position=(2, 4))
    assert len(rest) == 2
    assert all(torch.equal(a.items, b.items) for a, b in zip(rest, whole[4:], strict=True))


def test_a_thread_hands_over_everything_in_order():
    assert list(in_background(iter(range(100)))) == list(range(100))


def test_an_error_in_the_thread_is_raised_where_batches_are_used():
    def failing():
        yield 1
        raise OSError("disk on fire")

    taken = in_background(failing())
    assert next(taken) == 1
    with pytest.raises(OSError, match="disk on fire"):
        next(taken)


def wait_for_threads_to_end():
    deadline = time.monotonic() + 5
    while any(thread.name == "rec_models.training.prefetch" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_thread_ends_with_its_consumer():
    def endless():
        while True:
            yield 0

    taken = in_background(endless())
    next(taken)
    taken.close()
    wait_for_threads_to_end()


@pytest.fixture
def threaded(monkeypatch):
    """A feed as for a GPU, without the page-locked memory that only a GPU's driver has."""
    monkeypatch.setattr(Feed, "_pinned", lambda self, step: step)
    return lambda batches, accumulate=1: Feed(lambda: batches, lambda: (0, 0), accumulate, pin=True)


def test_two_threads_give_what_none_gives(tiny, threaded):
    feed = threaded(tiny.TinyBatches(count=20), accumulate=3)
    steps = list(feed)
    assert feed.waited_seconds > 0
    for ours, expected in zip(steps, steps_of(tiny, accumulate=3, count=20), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.tensors(), expected.tensors(), strict=True))
        assert (ours.window_counts, ours.position) == (expected.window_counts, expected.position)
    wait_for_threads_to_end()


@pytest.mark.parametrize("busy", [True, False])
def test_waiting_counts_only_where_the_device_has_nothing_to_do(tiny, threaded, busy):
    feed = threaded(tiny.TinyBatches(count=5))
    feed.is_busy = lambda: busy
    assert len(list(feed)) == 5
    assert (feed.waited_seconds == 0) == busy


def test_an_error_passes_through_both_threads_and_ends_them(tiny, threaded):
    class Failing(tiny.TinyBatches):
        def batch(self, epoch, index):
            if index == 7:
                raise OSError("disk on fire")
            return super().batch(epoch, index)

    taken = iter(threaded(Failing(count=20)))
    assert len([next(taken) for _ in range(7)]) == 7
    with pytest.raises(OSError, match="disk on fire"):
        next(taken)
    wait_for_threads_to_end()


def test_a_pass_that_is_left_early_ends_both_threads(tiny, threaded):
    taken = iter(threaded(tiny.TinyBatches(count=10_000)))
    next(taken)
    taken.close()
    wait_for_threads_to_end()


def test_one_set_of_batches_serves_one_process_only(tiny):
    batches = tiny.TinyBatches()
    assert as_factory(batches)(0, 1) is batches
    with pytest.raises(ValueError, match="train_batches: found one set of batches with 2 devices"):
        as_factory(batches)(0, 2)
