"""The command tables: what it reads, prints, writes and refuses."""

from pathlib import Path

import pytest

from cutrec.errors import ConfigError, StageError
from cutrec.reporting import results_file as results
from pipelines.paper import pages, points, rows, tables
from tests.pipelines.paper.test_rows import ACCURATE, REAL, TILE, TWIN
from tests.small_log import ROOT


def test_the_command_writes_a_page_a_csv_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    for result in (TWIN, TILE, ACCURATE, REAL):
        results.append(tmp_path / "mine.csv", result)
    tables.main(["--table", "4", "--no-dvc", "--results", str(tmp_path / "mine.csv"), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "Table 4: SASRec with CCE-" in printed
    assert "Table 3" not in printed
    assert "1 of 101 rows have something of ours" in printed
    page = (tmp_path / "out/tables.md").read_text()
    assert page.count("\n## Table ") == 15
    for name in ("memory_by_loss", "epoch_time_by_loss", "accuracy_by_memory"):
        assert (tmp_path / f"out/{name}.png").stat().st_size > 10_000


def test_the_committed_tables_are_those_of_the_committed_results(tmp_path: Path):
    lines = rows.lines(results.read(ROOT / "results/training.csv"), points.load(ROOT / "params.yaml"))
    assert pages.markdown(lines) == (ROOT / "results/tables.md").read_text()
    pages.write_csv(lines, tmp_path / "tables.csv")
    assert (tmp_path / "tables.csv").read_text() == (ROOT / "results/tables.csv").read_text()


def test_without_anything_of_ours_the_next_step_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(tables, "_results_files", lambda folder: [])
    monkeypatch.setattr(tables.pictures, "draw_all", lambda lines, folder: [])
    tables.main(["--table", "4", "--no-dvc", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "nothing of ours is known yet: `python -m pipelines.paper.grid` queues" in printed
    assert "0 of 101 rows have something of ours" in printed


def test_results_files_are_told_by_their_columns(tmp_path: Path):
    results.append(tmp_path / "b.csv", TWIN)
    (tmp_path / "a.csv").write_text("table,model\n")
    (tmp_path / "c.csv").write_text("")
    assert tables._results_files(tmp_path) == [tmp_path / "b.csv"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--table", "0"], "table: found 0, allowed: 1, 2, 3"),
        (["--results", "no.csv"], "no.csv: no such file, allowed: results of"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((StageError, ConfigError), match=says):
        tables.main(["--no-dvc", *arguments])
