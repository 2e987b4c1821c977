"""Refitting: constants that were planted into measurements are found again; their file is read back."""

import dataclasses
import itertools
from pathlib import Path

import pytest

from rec_models.planning import Calibration, Measured, load, memory_of, refit, save, seconds_of
from rec_models.planning.fit import FEWEST, Step, fit_seconds
from tests.rec_models.planning.cases import SIZES, setup_of

PLANTED = Calibration(
    activations=1.25, constant_gib=0.2, loss={"ce": 0.9, "ce_neg": 1.1, "sce": 0.7},
    seconds={"launched_ms": 2.5, "bytes": 1.5e12, "exact_flops": 4e14, "gathered_elements": 4e10},
    fused_seconds={"bytes": 3e12, "exact_flops": 6e14, "fused_ms": 0.6},
)  # fmt: skip


def measured(calibration: Calibration) -> list[Measured]:
    """Runs as these constants predict them: each loss and both networks on several catalogues and batches."""
    found = []
    for loss, plain in itertools.product(("ce", "cce", "ce_neg", "cce_neg", "sce"), (True, False)):
        for items, tokens in ((10_000, 2_000), (10_000, 30_000), (200_000, 4_000), (1_000_000, 1_000)):
            setup = setup_of(loss, sharing="none", model={"hidden": 256})._replace(plain=plain)
            sizes = SIZES._replace(items=items, tokens=tokens, most_tokens=1.2 * tokens)
            step = seconds_of(setup, sizes, calibration).step
            found.append(Measured(setup, sizes, memory_of(setup, sizes, calibration).peak, step))
    return found


def test_planted_constants_are_found():
    found = refit(measured(PLANTED), Calibration(), by="a test")
    assert found.measured_on == found.time_measured_on == "a test"
    assert found.activations == pytest.approx(1.25, rel=0.02)
    assert found.constant_gib == pytest.approx(0.2, abs=0.01)
    assert {loss: found.loss[loss] for loss in PLANTED.loss} == pytest.approx(PLANTED.loss, rel=0.02)
    for run in measured(PLANTED):
        assert memory_of(run.setup, run.sizes, found).peak == pytest.approx(run.peak_gib, rel=0.02)
        assert seconds_of(run.setup, run.sizes, found).step == pytest.approx(run.step_seconds, rel=0.1)


def test_too_few_runs_change_nothing():
    assert refit(measured(PLANTED)[: FEWEST - 1], Calibration(), by="a test") == Calibration()


def test_the_host_is_told_from_the_gpu_and_outliers_are_tolerated():
    planted = {"launched_ms": 7.0, "recorded_ms": 2.0, "ready_places": 5e6, "exact_flops": 3e14, "bytes": 1e12}
    steps = []
    for items in (1_000, 50_000, 2_000_000):
        for tokens in (2_000, 20_000, 60_000):
            for recorded in (True, False):
                setup = setup_of("cce", cuda_graphs=recorded)._replace(plain=True)
                sizes = SIZES._replace(items=items, tokens=tokens)
                seconds = seconds_of(setup, sizes, Calibration(seconds=planted)).step
                steps.append(Step.of(Measured(setup, sizes, 1.0, seconds, tokens)))
    steps[4] = steps[4]._replace(seconds=3 * steps[4].seconds)
    found = fit_seconds(steps, {"gathered_elements": 1.0})
    assert found["gathered_elements"] == 1.0
    assert {name: found[name] for name in planted} == pytest.approx(planted, rel=0.05)


def test_constants_are_read_back_from_their_file(tmp_path: Path):
    kept = dataclasses.replace(load(), measured_on="x", seconds={"bytes": 1e12})
    save(kept, tmp_path / "constants.json")
    assert load(tmp_path / "constants.json") == kept
    (tmp_path / "constants.json").write_text('{"activation": 1}')
    with pytest.raises(ValueError, match="unknown activation; allowed: measured_on, activations"):
        load(tmp_path / "constants.json")
