"""The table of measurements: rows survive the file, new ones replace old ones, the page is the CSV's."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "packages/cce-kernels/benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    """Imports a benchmark's module by name; none of them stays imported."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_rows_survive_the_file(scripts, tmp_path):
    rows = scripts("rows")
    first = rows.Row(
        "GPU", "1", "2.11", "3.6", "abc", "full", "ours", "beauty", "flat", 1, 2, 3, 0, "bfloat16", "float32"
    )
    second = replace(first, variant="ours, sharing tile", both_ms=0.125, graph_ms=None, note="a, b")
    rows.write(tmp_path / "x.csv", [first, second])
    assert rows.read(tmp_path / "x.csv") == [first, second]
    assert rows.read(tmp_path / "none.csv") == []
    again = replace(first, revision="def", both_ms=1.0)
    assert rows.merged([first, second], again) == [again, second]
    other = replace(again, gpu="another")
    assert rows.merged([first, second], other) == [first, second, other]


def test_the_page_is_rendered_from_the_table(scripts):
    measured = scripts("rows").read(FOLDER / "results/losses.csv")
    page = (FOLDER / "results/losses.md").read_text()
    assert page == "\n".join(scripts("render").table(measured)) + "\n"
    assert len({row.key for row in measured}) == len(measured)
    for row in measured:  # what failed says why, and nothing is a time of zero
        assert row.note if row.both_ms is None else row.both_ms > 0


def test_points_are_told_apart_and_tables_that_cannot_fit_are_left_out(scripts):
    points, losses = scripts("points"), scripts("losses")
    names = [(point.op, point.name) for point in points.FULL + points.SAMPLED]
    assert len(set(names)) == len(names)
    full = {point.name: point for point in points.FULL}
    assert losses.wanted("eager torch", full["beauty"])
    assert not losses.wanted("eager torch", full["zvuk"])
    assert all(losses.wanted("ours", point) for point in points.FULL)


def test_every_idea_still_fits_the_package(scripts, tmp_path):
    variants = scripts("variants")
    for number, variant in enumerate(variants.VARIANTS):
        folder = variants.apply(variant, tmp_path / str(number))
        for path, _, new in variant.edits:
            edited = (folder / "cce_kernels" / path).read_text()
            assert new in edited
            compile(edited, path, "exec")
    broken = variants.Variant("broken", (), "", (("full.py", "no such text", ""),))
    with pytest.raises(ValueError, match="0 times, not once"):
        variants.apply(broken, tmp_path / "broken")


def test_loops_are_measured_between_their_label_and_their_jump(scripts):
    sass = """
    .L_x_0:
            /*0010*/  FADD R1, R1, R2 ;
            /*0020*/  FADD R1, R1, R2 ;
            /*0030*/  @P0 BRA `(.L_x_0) ;
            /*0040*/  EXIT ;
    """
    assert scripts("registers").longest_loop(sass) == 3
