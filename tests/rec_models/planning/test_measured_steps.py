"""Predictions without calibration beside whole steps that packages/rec-models/benchmarks/step.py measured."""

import csv
import importlib.util
import statistics
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import pytest

from rec_models.planning import Calibration, Setup, Sizes, memory_of, seconds_of
from tests.rec_models.planning.cases import setup_of

FOLDER = Path(__file__).parents[3] / "packages/rec-models/benchmarks"
FILE = FOLDER / "results/step.csv"
FUSED = FOLDER / "results/fused_h200.csv"
# NVIDIA H100 80GB HBM3, driver 580.159.04, torch 2.11.0+cu130, triton 3.6.0, revision a09511c.
ROWS = """\
point,loss,variant,V,D,batch,N,tokens,step_ms,fit_peak_gib
beauty,cce_neg/tile,eager,176450,256,1024x32,511,6070,8.857,0.964
gowalla,cce_neg/tile,eager,290000,256,1024x320,511,42322,10.47,1.939
zvuk,cce_neg/tile,eager,893022,256,1024x128,2047,114881,18.269,5.855
beauty,cce_neg/tile,graphs,176450,256,1024x32,511,6070,2.295,0.968
movielens_20m,cce_neg/tile,graphs,15405,256,256x512,511,19955,3.38,0.514
gowalla,cce_neg/tile,graphs,290000,256,1024x320,511,42322,7.88,1.967
30music,cce_neg/tile,graphs,900000,256,256x720,4095,85245,20.319,5.369
zvuk,cce_neg/tile,compile+graphs,893022,256,1024x128,2047,114881,17.801,5.703
movielens_20m,cce,eager,15405,256,256x512,0,19955,11.493,0.553
gowalla,cce,eager,290000,256,1024x320,0,42322,43.573,2.078
zvuk,cce,eager,893022,256,1024x128,0,114881,305.781,5.857
large,cce_neg/tile,eager,9400000,128,256x64,511,10125,17.391,18.087
large,cce_neg/tile,adam_rowwise,9400000,128,256x64,511,10125,9.986,11.399
"""


def read(lines: Iterable[str]) -> list[tuple[float, float]]:
    """Predicted over measured: time and memory of each row."""
    found = []
    for row in csv.DictReader(lines):
        if not row["step_ms"]:
            continue
        setup, sizes = measured_setup(row)._replace(plain=True), measured_sizes(row)
        step = seconds_of(setup, sizes, Calibration()).step * 1e3
        peak = memory_of(setup, sizes, Calibration()).peak
        found.append((step / float(row["step_ms"]), peak / float(row["fit_peak_gib"])))
    return found


def measured_sizes(row: dict[str, str]) -> Sizes:
    """The sizes that a row measured."""
    tokens, rows = float(row["tokens"]), int(row["batch"].split("x")[0])
    return Sizes(
        items=int(row["V"]), rows=rows, tokens=tokens, most_tokens=largest_batch(row["point"]),
        targets_share=1.0, mean_length=tokens / rows, steps=100,
    )  # fmt: skip


def largest_batch(name: str) -> int:
    """Places of the largest of the few batches that a row's steps had."""
    batches = step_points().SyntheticBatches(step_points().POINTS[name], step_points().DISTINCT)
    return max(int(batch.offsets[-1]) for batch in batches.epoch(0))


@lru_cache
def step_points() -> ModuleType:
    """The benchmark's batches."""
    spec = importlib.util.spec_from_file_location("step_points", FOLDER / "step_points.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured_setup(row: dict[str, str]) -> Setup:
    """The settings that a row measured."""
    loss, _, sharing = row["loss"].partition("/")
    ways = row["variant"].split("+")
    loop = {"optimizer": ways[0]} if ways[0].startswith("adam") else {"cuda_graphs": "graphs" in ways}
    model = {"hidden": int(row["D"]), "max_seq_len": int(row["batch"].split("x")[1])}
    return setup_of(loss, num_negatives=int(row["N"]) or 1, sharing=sharing or "none", model=model, **loop)


def test_rates_and_counts_are_near_what_was_measured():
    for time, peak in read(ROWS.splitlines()):
        assert time == pytest.approx(1, abs=0.35)
        assert peak == pytest.approx(1, abs=0.06)


@pytest.mark.skipif(not FILE.is_file(), reason="no measured steps here")
def test_newer_rows_are_near_too():
    with FILE.open(newline="", encoding="utf-8") as file:
        times, peaks = zip(*read(file), strict=True)
    assert statistics.median(abs(ratio - 1) for ratio in times) < 0.25
    assert statistics.median(abs(ratio - 1) for ratio in peaks) < 0.1


def test_steps_of_the_fused_network_are_within_a_tenth_and_small_exact_ones_within_a_quarter():
    measured = {}
    with FUSED.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["variant"].startswith("fused"):
                measured[row["point"], row["loss"]] = row  # the last measurement
    assert len(measured) == 10
    for (name, loss), row in measured.items():
        point = step_points().POINTS[name]
        sizes = {"V": point.items, "D": point.hidden, "N": point.negatives}
        batch = {"batch": f"{point.batch_size}x{point.max_seq_len}", "variant": "graphs"}
        case = row | batch | {key: str(value) for key, value in sizes.items()}
        ratio = seconds_of(measured_setup(case), measured_sizes(case), Calibration()).step * 1e3 / float(row["step_ms"])
        assert ratio == pytest.approx(1, abs=0.25 if (name, loss) == ("movielens_20m", "cce") else 0.1), (name, loss)
