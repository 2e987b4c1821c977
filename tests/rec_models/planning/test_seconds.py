"""Predicted seconds of a step: the host beside the GPU, and the work of losses and optimizers."""

import pytest

from rec_models.config import ModelSettings
from rec_models.planning import Calibration, Seconds, seconds_of
from rec_models.planning.memory import network_of
from tests.rec_models.planning.cases import SIZES, setup_of


def test_time_grows_with_the_work_of_the_loss():
    def step(loss: str, sharing: str = "tile", **model: int) -> float:
        return seconds_of(setup_of(loss, sharing=sharing, model=model), SIZES, Calibration()).device

    assert step("cce_neg", "tile") < step("cce_neg", "none") < step("cce") < step("ce")
    assert step("cce", hidden=512) > 2 * step("cce", hidden=64)


def test_a_step_takes_as_long_as_the_slower_of_host_and_gpu():
    def of(loss: str = "cce_neg", **options: bool) -> Seconds:
        rates = Calibration(seconds={"launched_ms": 3.9}, fused_seconds={"recorded_ms": 0.5, "ready_places": 1e6})
        return seconds_of(setup_of(loss, **options), SIZES, rates)

    recorded, launched = of(), of(cuda_graphs=False)
    assert (recorded.host, launched.host) == pytest.approx((0.0035, 0.0039))
    assert recorded.step == recorded.host > recorded.device
    slow = of("ce")  # nothing records it
    assert slow.host == pytest.approx(0.0039)
    assert slow.step == slow.device == slow.network + slow.loss + slow.adam > slow.host


def test_batches_are_accumulated_and_adam_steps_once():
    one, three = (setup_of(accumulate=n, cuda_graphs=False) for n in (1, 3))
    single, window = (seconds_of(setup, SIZES, Calibration()) for setup in (one, three))
    assert window.adam == single.adam
    parts = (window.network, window.loss, window.host)
    assert parts == pytest.approx((3 * single.network, 3 * single.loss, 3 * single.host))
    assert seconds_of(three, SIZES, Calibration(), tokens=3 * SIZES.tokens) == window


def test_lean_optimizers_read_and_write_less():
    def adam(optimizer: str) -> float:
        return seconds_of(setup_of(optimizer=optimizer), SIZES, Calibration()).adam

    full = adam("adam")
    names = ("adam_bf16", "adam_rowwise", "adam_lazy")
    assert [adam(name) / full for name in names] == pytest.approx([24 / 32, 20 / 32, 8 / 32], rel=0.03)


def test_a_sharded_table_divides_adam_and_sends_tokens_in_the_place_of_the_table():
    rates = Calibration(seconds={"exchanged_bytes": 1e9})
    one, whole, rows = (
        seconds_of(setup_of("cce", **options), SIZES, rates)
        for options in (
            {"cuda_graphs": False},
            {"devices": 2, "table": "replicated"},
            {"devices": 2, "table": "sharded"},
        )
    )
    network = network_of(ModelSettings())
    assert one.exchange == 0
    assert whole.exchange == pytest.approx(4 * (SIZES.items * 64 + network.parameters) / 1e9)
    tokens = SIZES.tokens  # each has a target
    assert rows.exchange == pytest.approx(4e-9 * (tokens * 64 + network.parameters) + 1e-9 * (6 * 64 + 32) * tokens)
    assert (whole.adam, rows.loss) == pytest.approx((one.adam, one.loss))
    assert rows.adam == pytest.approx(one.adam / 2, rel=0.05)
