import gc
import time
import weakref

import pytest

from rec_models.config import LossSettings, ModelSettings, TrainingSettings
from rec_models.encoders import build_encoder
from rec_models.errors import TrainingError
from rec_models.training.benchmark import measure_steps


def measure(tiny, *, count=20, accumulate=1, optimizer="adam", batches=None, **options):
    return measure_steps(
        model=ModelSettings(hidden=8, max_seq_len=10),
        loss=LossSettings.pick("cce_neg", num_negatives=4),
        training=TrainingSettings(accelerator="cpu", accumulate=accumulate, optimizer=optimizer),
        num_items=tiny.ITEMS,
        train_batches=batches or tiny.TinyBatches(count=count),
        **options,
    )


def test_steps_are_timed_after_the_warm_up(tiny):
    seen = []
    times = measure(tiny, warmup=3, steps=5, validate=lambda encoder: seen.append(encoder.training) or {})
    assert times.steps == 5
    assert 0 < times.low_ms <= times.step_ms <= times.high_ms
    assert times.mean_ms > 0
    assert 0 < times.wait_share < 1
    expected = [int(tiny.TinyBatches().batch(0, index).lengths.sum()) for index in range(3, 8)]
    assert times.tokens == pytest.approx(sum(expected) / 5)
    assert 0.05 < times.loop_peak_gib <= times.fit_peak_gib
    assert seen == [False]
    assert 0.5 < times.loss < 5  # five scores alike: log 5


def test_an_optimizer_step_may_take_several_batches(tiny):
    times = measure(tiny, warmup=1, steps=2, accumulate=3)
    assert times.steps == 2
    expected = [int(tiny.TinyBatches().batch(0, index).lengths.sum()) for index in range(3, 9)]
    assert times.tokens == pytest.approx(sum(expected) / 2)


def test_waiting_for_batches_is_told_apart_and_time_is_kept(tiny):
    class Slow(tiny.TinyBatches):
        def batch(self, epoch, index):
            time.sleep(0.05)
            return super().batch(epoch, index)

    times = measure(tiny, batches=Slow(count=60), warmup=1, steps=50, max_seconds=0.5)
    assert 0.3 < times.wait_share < 1
    assert 1 <= times.steps < 20
    assert times.mean_ms > 50


def test_the_largest_batch_and_the_spread_are_of_the_timed_steps(tiny):
    times = measure(tiny, warmup=2, steps=4, accumulate=2)
    expected = [int(tiny.TinyBatches().batch(0, index).lengths.sum()) for index in range(4, 12)]
    assert times.most_tokens == max(expected)
    assert times.p10_ms <= times.low_ms <= times.high_ms <= times.p90_ms


def test_slow_steps_need_a_shorter_warm_up_and_so_many_steps_are_timed_at_least(tiny):
    times = measure(tiny, warmup=10, steps=8, warmup_seconds=0.0, max_seconds=0.0, min_steps=5)
    assert (times.warmup, times.steps) == (3, 5)
    assert measure(tiny, warmup=4, steps=8, max_seconds=0.0).steps == 1


def test_batches_may_be_made_for_each_process(tiny):
    assert measure(tiny, batches=lambda rank, world_size: tiny.TinyBatches(count=20), warmup=1, steps=2).steps == 2


def test_what_cannot_be_measured_is_refused(tiny):
    with pytest.raises(ValueError, match=r"train_batches: found 20, allowed: 33 or more"):
        measure(tiny, warmup=1, steps=10, accumulate=3)
    with pytest.raises(ValueError, match=r"warmup: found 0, allowed: 1 or more"):
        measure(tiny, warmup=0)


def test_errors_of_training_come_through(tiny):
    def hungry(done):
        raise MemoryError

    with pytest.raises(TrainingError, match="out of memory"):
        measure(tiny, warmup=1, steps=2, on_batch=hungry)


@pytest.mark.parametrize("optimizer", ["adam", "adam_bf16", "adam_rowwise", "adam_lazy"])
def test_every_optimizer_makes_steps(tiny, optimizer):
    assert measure(tiny, warmup=1, steps=2, optimizer=optimizer).steps == 2


def test_nothing_holds_the_weights_afterwards(tiny):
    held = []

    def build(*shape):
        encoder = build_encoder(*shape)
        held.append(weakref.ref(encoder.item_table))
        return encoder

    measure(tiny, warmup=1, steps=2, build=build)
    gc.collect()
    assert held[0]() is None
