"""Predictions beside the measured rows that the repository holds, and which rows of results are compared."""

import dataclasses
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from cutrec.reporting.results_file import Result, append
from pipelines.paper import planner_check, points
from pipelines.paper.rows import read_results
from rec_models import planning
from tests.small_log import ROOT

DATASETS = ("beauty", "gowalla", "movielens_20m")
VALUES = points.load(ROOT / "params.yaml")


@lru_cache
def measured(file: str = "h100/training.csv") -> tuple[Result, ...]:
    """A GPU's rows of the three data sets whose sizes are known soonest, as the paper draws negatives."""
    found = planner_check.on_gpus(read_results([ROOT / "results" / file]))
    return tuple(row for row in found if row.dataset in DATASETS and row.sharing in (None, "none"))


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def file_of(folder: Path, *rows: Result) -> list[Path]:
    for row in rows:
        append(folder / "rows.csv", row)
    return [folder / "rows.csv"]


@pytest.mark.parametrize("file", ["h100/training.csv", "training.csv"], ids=["plain", "paper"])
def test_measured_rows_are_predicted_and_hold_each_other_out(file: str):
    pairs = planner_check.with_points(measured(file))
    assert len(pairs) > 30
    checked = planner_check.check(pairs, planning.load())
    assert np.median(np.abs(checked.memory)) < 0.03
    assert np.median(np.abs(checked.time)) < 0.15
    assert "| sasrec-sce-twin_beauty-1024x32 " in checked.table
    held_out = planner_check.held_out(pairs)
    assert len(held_out.memory) == len(pairs)
    assert np.median(np.abs(held_out.memory)) < 0.06


def test_a_held_out_data_set_has_no_say_in_its_own_constants():
    pairs = planner_check.with_points(measured())
    own = pairs[0][1].dataset

    def errors(factor: float) -> list[float]:
        changed = []
        for point, row in pairs:
            peak = row.peak_loop_gib * (factor if row.dataset == own else 1)
            changed.append((point, dataclasses.replace(row, peak_loop_gib=peak)))
        found = planner_check.held_out(changed)
        at = sum(row.dataset < own for _, row in pairs)  # data sets in alphabetical order
        return found.memory[at : at + sum(row.dataset == own for _, row in pairs)]

    for one, two in zip(errors(1), errors(2), strict=True):
        assert two + 1 == pytest.approx((one + 1) / 2)


def test_only_what_a_gpu_measured_is_compared(tmp_path: Path):
    row = measured()[0]
    on_a_cpu = dataclasses.replace(row, device="cpu: x86_64", options="dropout=0.3")
    with pytest.raises(ValueError, match=r"--check: found no point of the paper's tables measured on a GPU, allowed"):
        planner_check.report(file_of(tmp_path, on_a_cpu), planning.load())
    text, page = planner_check.report(file_of(tmp_path, row), planning.load())
    assert "memory: 1 of 1 within 10 %" in text
    assert page.startswith("# The planner beside measured runs\n")
    assert page.rstrip().endswith(" |")


def test_rows_without_a_point_and_points_without_memory_are_named(tmp_path: Path):
    row, other = measured()[:2]
    strangers = [dataclasses.replace(row, batch_size=7), dataclasses.replace(row, options="window=8")]
    failed = dataclasses.replace(other, status="out of memory", peak_loop_gib=None)
    text, _ = planner_check.report(file_of(tmp_path, row, failed, *strangers), planning.load())
    assert "2 rows are no points of the paper's tables and left out" in text
    assert f"ran out of memory on {other.device}: " in text


def test_refitting_takes_one_kind_of_gpu_and_enough_points(tmp_path: Path):
    row, other = measured()[:2]
    with pytest.raises(ValueError, match="--refit: found 1 measured points, allowed: 4 or more"):
        planner_check.refit(file_of(tmp_path, row), planning.load())
    another = dataclasses.replace(other, device="another GPU")
    with pytest.raises(ValueError, match=r"--refit: found results of \['NVIDIA.*', 'another GPU'\], allowed: those of"):
        planner_check.refit(file_of(tmp_path, another), planning.load())


def test_a_run_with_other_options_is_no_point_of_a_table():
    (row, *_) = points.table_points(VALUES, [3], twin=True)
    result = Result.of(row.params, "training", device="a GPU")
    other_precision = dataclasses.replace(result, precision="32-true")
    other_optimizer = dataclasses.replace(result, options="optimizer=adam_rowwise")
    found = planner_check.with_points([result, other_precision, other_optimizer])
    assert found == [(row.params, result), (row.params, other_precision)]
