import threading
import time
from types import SimpleNamespace

import pytest
import torch

from rec_models.training.batch import StepBatch
from rec_models.training.prefetch import Prefetcher, batches_of, in_background


def steps_of(tiny, accumulate=1, position=(0, 0), **options):
    return list(Prefetcher(tiny.TinyBatches(**options), accumulate, pin=False).epoch(*position))


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


@pytest.mark.parametrize(("count", "found"), [(5, "5 batches"), (7, "more batches")])
def test_a_rank_with_another_number_of_batches_than_it_says_is_refused(tiny, count, found):
    """The others would wait for it."""

    class Other(tiny.TinyBatches):
        def __len__(self):
            return 6

    ranks = SimpleNamespace(rank=1, agree=lambda numbers: (tuple(numbers),) * 2)
    taken = Prefetcher(Other(count=count), 1, pin=False, ranks=ranks).epoch(2, 3)
    with pytest.raises(ValueError, match=f"train_batches: found {found} of rank 1 in epoch 3, allowed: 6, its length"):
        list(taken)
    assert len(list(Prefetcher(Other(count=6), 1, pin=False, ranks=ranks).epoch(2, 3))) == 3


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
    """A prefetcher as for a GPU, without the page-locked memory that only a GPU's driver has."""
    monkeypatch.setattr(StepBatch, "in_one_buffer", lambda self, *, pin: self)
    return lambda batches, accumulate=1: Prefetcher(batches, accumulate, pin=True)


def test_two_threads_give_what_none_gives(tiny, threaded):
    prefetcher = threaded(tiny.TinyBatches(count=20), accumulate=3)
    steps = list(prefetcher.epoch(0, 0))
    assert prefetcher.waited_seconds > 0
    for ours, expected in zip(steps, steps_of(tiny, accumulate=3, count=20), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.tensors(), expected.tensors(), strict=True))
        assert (ours.window_counts, ours.position) == (expected.window_counts, expected.position)
    wait_for_threads_to_end()


@pytest.mark.parametrize("busy", [True, False])
def test_waiting_counts_only_where_the_device_has_nothing_to_do(tiny, threaded, busy):
    prefetcher = threaded(tiny.TinyBatches(count=5))
    prefetcher.is_busy = lambda: busy
    assert len(list(prefetcher.epoch(0, 0))) == 5
    assert (prefetcher.waited_seconds == 0) == busy


def test_an_error_passes_through_both_threads_and_ends_them(tiny, threaded):
    class Failing(tiny.TinyBatches):
        def batch(self, epoch, index):
            if index == 7:
                raise OSError("disk on fire")
            return super().batch(epoch, index)

    taken = threaded(Failing(count=20)).epoch(0, 0)
    assert len([next(taken) for _ in range(7)]) == 7
    with pytest.raises(OSError, match="disk on fire"):
        next(taken)
    wait_for_threads_to_end()


def test_a_pass_that_is_left_early_ends_both_threads(tiny, threaded):
    taken = threaded(tiny.TinyBatches(count=10_000)).epoch(0, 0)
    next(taken)
    taken.close()
    wait_for_threads_to_end()


def test_one_set_of_batches_serves_one_process_only(tiny):
    batches = tiny.TinyBatches()
    assert batches_of(batches, 0, 1) is batches
    with pytest.raises(ValueError, match="train_batches: found one set of batches with 2 devices"):
        batches_of(batches, 0, 2)
