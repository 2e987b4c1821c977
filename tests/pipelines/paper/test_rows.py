"""Ours beside the paper's: rows find their results, twins and defects are marked, what was not run stays empty."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cutrec import config
from cutrec.config_point import Config
from cutrec.reporting.results_file import Result
from pipelines.paper import points
from pipelines.paper import rows as table_rows
from pipelines.paper.experiments import Experiment, results_of
from pipelines.paper.pages import markdown_table, write_csv
from pipelines.paper.rows import is_the_papers_point, lines, read_paper
from rec_models import planning
from tests.small_log import ROOT

SHIPPED = config.read_yaml(ROOT / "params.yaml")


def point(table: int, dataset: str, **options: Any) -> Config:
    return points.table_points(SHIPPED, [table], datasets=[dataset], **options)[0].params


def trained(of: Config, **values: Any) -> Result:
    fields = {
        "device": "NVIDIA H100 80GB HBM3",
        "revision": "abc1234",
        "peak_fit_gib": 1.15,
        "whole_epoch_seconds": 4.6,
    }
    return Result.of(of, "training", **(fields | values))


TWIN = trained(point(4, "beauty", twin=True))
TILE = trained(point(4, "beauty", twin=True, sharing="tile"), whole_epoch_seconds=2.3)
REAL = trained(point(4, "beauty"), peak_fit_gib=2.3)
ACCURATE = Result.of(point(4, "beauty"), "accuracy", device=REAL.device, revision="def5678", ndcg_at_10=0.0232)


def beauty(found: list[table_rows.Line], table: int = 4) -> list[table_rows.Line]:
    return [line for line in found if (line.point.table, line.point.dataset) == (table, "beauty")]


def test_the_papers_rows_are_read_as_printed():
    rows = read_paper()
    assert len(rows) == 92
    assert rows[22] == {
        "ndcg_at_10": 0.0116, "coverage_at_10": 0.1813, "surprisal_at_10": 0.5069, "peak_gib": 2.3,
        "epoch_seconds": 23.0,
    }  # fmt: skip


def test_a_row_has_a_line_for_each_way_of_running_it():
    (line,) = beauty(lines([TWIN, TILE, REAL, ACCURATE], SHIPPED))
    assert [(row.label, row.result.revision) for row in line.ours] == [
        ("the data itself", "abc1234 def5678"),
        ("twin", "abc1234"),
        ("twin, negatives shared by tile", "abc1234"),
    ]
    assert line.ours[0].values == {"ndcg_at_10": 0.0232, "peak_gib": 2.3, "epoch_seconds": 4.6}
    assert line.ours[2].values == {"peak_gib": 1.15, "epoch_seconds": 2.3}


def test_nothing_else_gets_anything():
    found = lines([TWIN, TILE, REAL, ACCURATE], SHIPPED)
    assert sum(bool(line.ours) for line in found) == 1
    narrow = trained(point(4, "beauty", twin=True, extra={"backbone": {"hidden": 64}}))
    small = trained(point(4, "beauty", twin=0.5))
    assert not any(line.ours for line in lines([narrow, small], SHIPPED))


def test_other_hyper_parameters_are_another_point_and_other_ways_the_same():
    other = {"backbone": {"dropout": 0.3}, "train": {"learning_rate": 0.0003}}
    tuned = [trained(point(4, "beauty", extra={key: value})) for key, value in other.items()]
    assert len({result.key for result in [REAL, *tuned]}) == 3
    assert not any(line.ours for line in lines(tuned, SHIPPED))
    assert table_rows.without_row([REAL, *tuned], SHIPPED) == [
        "2 results fill no row, they did otherwise than the paper: dropout=0.3, learning_rate=0.0003"
    ]
    assert table_rows.without_row([REAL, TWIN, TILE], SHIPPED) == []
    small, other = replace(TWIN, twin=0.1), replace(REAL, batch_size=7)
    assert table_rows.without_row([small, REAL, other], SHIPPED) == [
        "2 results are of no point of the paper's tables, or of a twin of another scale"
    ]
    (line,) = beauty(lines([trained(point(4, "beauty", extra={"train": {"optimizer": "adam_bf16"}}))], SHIPPED))
    assert [row.label for row in line.ours] == ["the data itself, optimizer=adam_bf16"]


def test_both_rows_of_a_repeated_point_get_its_result():
    found = lines([trained(point(10, "beauty", twin=True)), trained(point(7, "beauty", twin=True))], SHIPPED)
    assert [len(line.ours) for table in (9, 10, 7) for line in beauty(found, table)] == [1, 1, 1, 1]


def test_defects_and_seeds_are_told():
    faithful = trained(point(4, "beauty", paper_faithful=True, extra={"seed": 7}))
    (line,) = beauty(lines([faithful], SHIPPED))
    assert line.ours[0].label == "the data itself, paper-faithful, seed 7"


def test_a_point_that_did_not_fit_says_so_and_is_predicted_on_request():
    failed = trained(TWIN_POINT, status="out of memory", peak_fit_gib=None, whole_epoch_seconds=None)
    (line,) = beauty(lines([failed], SHIPPED))
    assert (line.ours[0].label, line.ours[0].values) == ("twin, out of memory", {})
    (line,) = beauty(lines([failed], SHIPPED, calibration=planning.load()))
    assert [row.predicted for row in line.ours] == [False, True]
    assert set(line.ours[1].values) == {"peak_gib", "epoch_seconds"}
    (line,) = beauty(lines([TWIN], SHIPPED, calibration=planning.load()))
    assert [row.predicted for row in line.ours] == [False]
    (line,) = beauty(lines([TILE], SHIPPED, calibration=planning.load()))  # not how the paper draws
    assert [row.predicted for row in line.ours] == [False, True]


TWIN_POINT = point(4, "beauty", twin=True)


def test_the_table_has_ratios_and_empty_cells():
    text = markdown_table(beauty(lines([TWIN, TILE, REAL, ACCURATE], SHIPPED)))
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()]
    assert rows[2] == [
        "beauty", "1024 x 32", "511", "the data itself", "paper", "0.0116", "0.0232 (2)", "0.181", "", "0.507", "",
        "2.3", "2.3 (1)", "23", "4.6 (0.2)", "H100", "abc1234 def5678",
    ]  # fmt: skip
    assert rows[4][3:] == [
        "twin, negatives shared by tile", "paper", "", "", "", "", "", "", "", "1.15 (0.5)", "", "2.3 (0.1)", "H100",
        "abc1234",
    ]  # fmt: skip
    empty = [cell.strip() for cell in markdown_table(beauty(lines([], SHIPPED))).splitlines()[2].split("|")[1:-1]]
    assert empty[3] == empty[6] == empty[-1] == ""


def test_seeds_have_a_mean_and_a_deviation(tmp_path: Path):
    runs = [replace(ACCURATE, seed=seed, ndcg_at_10=value) for seed, value in ((42, 0.02), (1, 0.03), (2, 0.04))]
    found = [*runs, REAL, replace(REAL, seed=1, peak_fit_gib=2.5), replace(TWIN, seed=7), TILE]
    (line,) = beauty(lines(found, SHIPPED))
    three, alone, tile = line.ours
    assert (three.label, three.seeds) == ("the data itself, 3 seeds", (1, 2, 42))
    assert three.values["peak_gib"] == pytest.approx(2.4)
    assert three.values["ndcg_at_10"] == pytest.approx(0.03)
    assert three.deviations["ndcg_at_10"] == pytest.approx(0.01)
    assert {alone.label, tile.label} == {"twin, seed 7", "twin, negatives shared by tile"}
    assert alone.deviations == tile.deviations == {}
    assert "0.03 ± 0.01 (2.6)" in markdown_table([line])
    write_csv([line], tmp_path / "tables.csv")
    with (tmp_path / "tables.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (first["seeds"], first["ndcg_at_10_ours"], first["ndcg_at_10_deviation"]) == ("1 2 42", "0.03", "0.01")


def test_what_the_plain_network_measured_is_not_claimed_for_the_papers(tmp_path: Path):
    plain = replace(TWIN, network="plain", peak_fit_gib=1.0)
    ours = beauty(lines([plain, TWIN], SHIPPED))[0].ours
    assert [(row.result.network, row.values["peak_gib"]) for row in ours] == [("paper", 1.15), ("plain", 1.0)]
    (line,) = beauty(lines([plain], SHIPPED, calibration=planning.Calibration()))
    assert [(row.result.network, row.predicted) for row in line.ours] == [("plain", False), ("paper", True)]
    write_csv([line], tmp_path / "tables.csv")
    with (tmp_path / "tables.csv").open() as file:
        assert [row["network"] for row in csv.DictReader(file)] == ["plain", "paper"]


def test_the_csv_holds_the_same(tmp_path: Path):
    write_csv(lines([TWIN], SHIPPED), tmp_path / "tables.csv")
    with (tmp_path / "tables.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 92 + 9
    (ours,) = (row for row in rows if row["twin"] == "True")
    assert (ours["peak_gib_ours"], ours["peak_gib_ratio"], ours["ndcg_at_10_ours"]) == ("1.15", "0.5", "")
    collapsed = next(row for row in rows if row["ndcg_at_10_paper"] == "0.0")  # a row that the paper prints as 0
    assert collapsed["ndcg_at_10_ratio"] == ""


def finished(**values: Any) -> Experiment:
    training = {
        "epoch_seconds": 4.0, "whole_epoch_seconds": 4.6, "peak_memory_gib": 2.3, "device": "NVIDIA H100 80GB HBM3",
        "precision": "bf16-mixed", "epochs": 9, "best_epoch": 5, "train_loss": 7.5, "validation_ndcg@10": 0.02,
    }  # fmt: skip
    evaluation = {"users": 100, "ndcg@10": 0.0232, "coverage@10": 0.2, "reference": "test_input", "device": "x"}
    (row,) = points.table_points(SHIPPED, [4], datasets=["beauty"])
    defaults = {
        "name": row.name, "state": "finished", "baseline": "0123456789", "params": {**SHIPPED, **row.values},
        "training": training, "evaluation": evaluation, "finished_at": "2026-01-01",
    }  # fmt: skip
    return Experiment(**(defaults | values))


def test_experiments_become_results():
    found, remarks = results_of([finished(), finished(state="queued"), finished(state="failed")])
    assert remarks == []
    assert [(result.kind, result.revision, result.precision) for result in found] == [
        ("training", "0123456", "bf16-mixed"),
        ("accuracy", "0123456", "bf16-mixed"),
    ]
    assert (found[0].peak_fit_gib, found[0].whole_epoch_seconds, found[0].epoch_basis) == (2.3, 4.6, "measured")
    assert (found[1].ndcg_at_10, found[1].coverage_at_10, found[1].reference) == (0.0232, 0.2, "test_input")
    (line,) = beauty(lines(found, SHIPPED))
    assert line.ours[0].values["ndcg_at_10"] == 0.0232


def test_an_experiment_of_edited_code_says_so():
    found, _ = results_of([finished(edited=True)])
    assert [result.revision for result in found] == ["0123456+", "0123456+"]


def test_a_twins_experiment_has_no_accuracy():
    (row,) = points.table_points(SHIPPED, [4], datasets=["beauty"], twin=True)
    twin = finished(params={**SHIPPED, **row.values}, evaluation={"users": 100, "device": "x"})
    found, _ = results_of([twin])
    assert [result.kind for result in found] == ["training"]


def test_experiments_that_give_nothing_are_named():
    _, remarks = results_of([finished(name="a", evaluation={}), finished(name="b", params={"los": 1})])
    assert remarks[0] == "a: finished without metrics, `uv run dvc exp remove a`"
    assert remarks[1].startswith("b: of a commit with other parameters (los: unknown key")


def test_ways_of_computing_leave_a_point_where_it_is():
    assert is_the_papers_point(None)
    assert is_the_papers_point("cuda_graphs=true;optimizer=adam_bf16")
    assert not is_the_papers_point("cuda_graphs=true;dropout=0.3")


def test_a_log_that_the_paper_does_not_have_has_its_own_row(tmp_path: Path):
    of = point(4, "completejourney")
    real = trained(of)
    accurate = Result.of(of, "accuracy", device=real.device, revision="def5678", ndcg_at_10=0.0232)
    (line,) = (line for line in lines([real, accurate], SHIPPED) if line.ours)
    assert (line.paper, line.ours[0].label) == ({}, "the data itself")
    row = [cell.strip() for cell in markdown_table([line]).splitlines()[2].split("|")[1:-1]]
    assert row[:5] == ["completejourney", "16 x 512", "511", "the data itself", "paper"]
    assert row[5:15] == ["", "0.0232", "", "", "", "", "", "1.15", "", "4.6"]
    write_csv([line], tmp_path / "tables.csv")
    with (tmp_path / "tables.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["ndcg_at_10_paper"], row["ndcg_at_10_ours"], row["ndcg_at_10_ratio"]) == ("", "0.0232", "")
