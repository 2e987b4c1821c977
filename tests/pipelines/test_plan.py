"""The verb ``plan``: points planned, checked, refused; one-line errors."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cutrec.reporting.results_file import Result, append
from pipelines import plan
from pipelines.planner.calibration import Calibration
from pipelines.planner.plans import held_out
from tests.pipelines.planner.test_planner import measured
from tests.small_log import ROOT


@pytest.fixture
def csv_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A results file of what the planner would predict, measured on a device."""
    monkeypatch.chdir(ROOT)

    def make(device: str, *more: Result) -> str:
        for _, result in measured(Calibration()):
            whole = round(result.most_tokens)
            append(tmp_path / "rows.csv", dataclasses.replace(result, device=device, most_tokens=whole))
        for result in more:
            append(tmp_path / "rows.csv", dataclasses.replace(result, most_tokens=round(result.most_tokens)))
        return str(tmp_path / "rows.csv")

    return make


def test_only_what_a_gpu_measured_is_checked(csv_of: Any, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ValueError, match=r"--check: found no point of the paper's tables measured on a GPU, allowed"):
        plan.main(["--check", csv_of("cpu: x86_64")])
    (pair, *_) = measured(Calibration())
    plan.main(["--check", csv_of("H100", dataclasses.replace(pair[1], device="cpu: x", options="dropout=0.3"))])
    assert f"of {len(measured(Calibration()))} within" in capsys.readouterr().out


def test_a_point_that_ran_out_of_memory_is_named(csv_of: Any, capsys: pytest.CaptureFixture[str]):
    (pair, *others) = measured(Calibration())
    failed = dataclasses.replace(
        pair[1], device="H100", measured_at="2030-01-01T00:00:00Z", status="out of memory", peak_loop_gib=None
    )
    plan.main(["--check", csv_of("H100", failed)])
    printed = capsys.readouterr().out
    assert f"of {len(others)} within" in printed
    assert "ran out of memory on H100: " in printed


def test_rows_that_are_no_points_of_the_tables_are_counted(csv_of: Any, capsys: pytest.CaptureFixture[str]):
    (pair, *_) = measured(Calibration())
    others = [dataclasses.replace(pair[1], batch_size=7), dataclasses.replace(pair[1], options="window=8")]
    plan.main(["--check", csv_of("H100", *others)])
    assert "2 rows are no points of the paper's tables and left out" in capsys.readouterr().out


def test_a_held_out_data_set_says_nothing_of_its_own_constants(csv_of: Any, capsys: pytest.CaptureFixture[str]):
    rows = [result for _, result in measured(Calibration())]
    dataset = rows[0].dataset
    own = [row for row in rows if row.dataset == dataset]
    memory, _ = held_out(rows)
    assert max(map(abs, memory)) < 0.02
    heavy = [dataclasses.replace(row, peak_loop_gib=2 * (row.peak_loop_gib or 0)) for row in own]
    memory, _ = held_out([*heavy, *(row for row in rows if row.dataset != dataset)])
    assert sum(abs(error + 0.5) < 0.02 for error in memory) == len(own)
    plan.main(["--check", csv_of("H100")])
    assert "constants fitted without the point's data set: memory:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--table 99", "error: table: found 99, allowed: 1, 2"),
        ("--gpu 0 --table 1", "--gpu: allowed: GiB above 0"),
        ("--refit no.csv", "error: no.csv: no such file"),
        ("--table 1 -S loss=cee", "error: loss: found 'cee'"),
        ("--model bert4rec", "--model: allowed with --search; -S model=... changes a point"),
        ("--table 1 --loss ce", "--loss: allowed with --search; -S loss=... changes a point"),
        ("--sharing tile", "--sharing: allowed with --table or --search; -S negatives.sharing=... changes a point"),
        ("--faithful", "--faithful: allowed with --table or --search; -S paper_faithful=... changes a point"),
        ("--table 1 --search", "not allowed with argument"),
        ("--table 1 --page x.md", "--page: allowed with --check"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    with pytest.raises((ValueError, SystemExit)) as caught:
        plan.main(arguments.split())
    said = capsys.readouterr().err + f"error: {caught.value}"
    assert says in said
    assert "\n" not in str(caught.value)


def test_the_present_point_can_be_changed_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    plan.main(["-S", "dataset=twin:beauty", "-S", "loss=ce", "-S", "backbone.hidden=128"])
    assert "| sasrec-ce-twin_beauty-128x64 | 176,450 |" in capsys.readouterr().out


def test_the_present_point_can_be_planned_on_several_data_sets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    plan.main(["--dataset", "beauty", "--dataset", "twin:gowalla@0.5", "-S", "loss=ce"])
    printed = capsys.readouterr().out
    assert "| sasrec-ce-beauty-128x64 " in printed
    assert "| sasrec-ce-twin_gowalla_0.5-128x64 " in printed


def test_points_that_do_not_fit_are_marked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    plan.main(["--table", "1", "--dataset", "beauty", "--dataset", "movielens_20m", "--gpu", "8"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| sasrec")]
    assert [("NO" in line, line.split("|")[1].strip()) for line in lines] == [
        (True, "sasrec-ce-beauty-1024x32"),
        (False, "sasrec-ce-movielens_20m-256x512"),
    ]
