"""The parts of benchmarks/step.py that need no GPU."""

import ast
import dataclasses
import math
import sys
from pathlib import Path

import pytest

import cce_kernels
from rec_models.config import LossSettings, TrainingSettings
from rec_models.training.benchmark import StepTimes

pytest.importorskip("triton")
FOLDER = Path(__file__).parents[2] / "packages" / "rec-models" / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(FOLDER))
    try:
        import step

        yield step
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("step", "step_bounds", "step_points", "step_profile", "step_results"):
            sys.modules.pop(name, None)


def test_every_row_is_there_once_and_can_be_trained(bench):
    cases = bench.cases()
    assert len(set(cases)) == len(cases)
    assert {case.point for case in cases} == set(bench.POINTS) - {"tiny"}
    for case in cases:
        training = TrainingSettings(**bench.VARIANTS[case.variant])
        loss, _, sharing = case.loss.partition("/")
        training.check_loss(LossSettings.pick(loss, num_negatives=7, sharing=sharing or "none"))


def test_a_row_can_be_measured_written_and_found_again(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "SECONDS_A_ROW", math.inf)  # a busy machine takes longer for all steps
    case = bench.Case("tiny", "cce_neg/tile", "adam_rowwise")
    times = bench.measure(case, None)
    assert times.steps == bench.STEPS
    where = {"gpu": "none", "revision": "abc"}
    row = bench.row_of(case, times, "") | where
    assert set(row) <= set(sys.modules["step_results"].COLUMNS)
    bench.write_rows(tmp_path / "a" / "out.csv", [row])
    (found,), _ = bench.read_rows(tmp_path / "a" / "out.csv", where)
    assert (found["point"], found["loss"], found["variant"]) == tuple(case)
    assert float(found["step_ms"]) == row["step_ms"] > 0
    assert bench.read_rows(tmp_path / "a" / "out.csv", where | {"revision": "abd"}) == ([], [found])
    bench.write_table(tmp_path / "out.md", [found])
    assert f"| tiny | cce_neg/tile | adam_rowwise | {row['tokens']} |" in (tmp_path / "out.md").read_text()


def test_rows_above_their_goals_are_named(bench):
    row = {
        "point": "beauty",
        "loss": "cce_neg/tile",
        "variant": "eager",
        "step_ms": "2.5",
        "must_ms": 3.5,
        "aim_ms": 1.2,
    }
    assert bench.misses([row | {"fit_peak_gib": 1.6, "limit_gib": "1.5"}, {"point": "x", "note": "out of memory"}]) == [
        "beauty cce_neg/tile eager: step_ms 2.5, aim 1.2",
        "beauty cce_neg/tile eager: fit_peak_gib 1.6, limit 1.5",
    ]


def test_a_row_that_fails_says_so_and_the_next_goes_on(bench, monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda case, profiler: 1 / 0)
    monkeypatch.setattr(bench, "forget", lambda: None)
    row = bench.run(bench.Case("tiny", "ce", "eager"))
    assert row["note"].startswith("failed: ZeroDivisionError")


def test_steps_stand_beside_their_counted_floor(bench):
    values = {field.name: 1.0 for field in dataclasses.fields(StepTimes)} | {"step_ms": 30.0, "tokens": 1000.0}
    moved = (32 * 176_450 * 256 + 46e3 * 1000) / 4.3e12  # seconds
    exact = bench.row_of(bench.Case("beauty", "cce", "eager"), StepTimes(**values), "")
    floor = (moved + 8 * 1000 * 176_450 * 256 / 688e12) * 1e3
    assert exact["floor_ms"] == pytest.approx(floor, abs=1e-3)
    assert exact["over_floor"] == pytest.approx(30 / floor, abs=0.01)
    sampled = bench.row_of(bench.Case("beauty", "cce_neg/tile", "graphs"), StepTimes(**values), "")
    assert moved * 1e3 < sampled["floor_ms"] < exact["floor_ms"]
    assert "floor_ms" not in bench.row_of(bench.Case("beauty", "cce_neg/tile", "adam_lazy"), StepTimes(**values), "")


def test_losses_that_differ_between_variants_are_told(bench):
    def row(variant, loss):
        return {"point": "zvuk", "loss": "cce", "variant": variant, "loss_of_step": loss}

    assert bench.compare_losses([row("eager", 5.0), row("graphs", "5.1"), row("compile", "")]) == []
    wrong = bench.compare_losses([row("eager", 5.0), row("graphs", 5.3), row("compile", "nan")])
    assert [line.split(":")[0] for line in wrong] == ["zvuk cce graphs", "zvuk cce compile"]


def test_a_profile_is_a_table_of_what_a_step_spends(bench, tmp_path):
    step_profile = sys.modules["step_profile"]
    events = [
        ("void multi_tensor_apply_kernel<FusedAdam>", 5, 5000.0),
        ("shared_backward_kernel", 10, 10_000.0),
        ("cpu side", 3, 0.0),
        ("vectorized_elementwise_kernel<gelu>", 50, 2500.0),
    ]
    assert step_profile.group_of("void indexing_backward_kernel<float>") == "lookup and its gradient"
    rows = step_profile.summarise(events)
    assert [(row.group, row.calls, row.ms) for row in rows] == [
        ("loss", 2, 2.0),
        ("optimiser", 1, 1.0),
        ("elementwise and sums", 10, 0.5),
    ]
    where = {"gpu": "NVIDIA H100", "torch": "2.11.0+cu130", "triton": "3.6.0", "revision": "d26aacc"}
    step_profile.write(tmp_path, "zvuk-cce_neg/tile-compile+graphs", rows, where)
    text = (tmp_path / "zvuk-cce_neg-tile-compile-graphs.md").read_text()
    assert text.splitlines()[0].endswith("(NVIDIA H100, torch 2.11, triton 3.6, revision d26aacc)")
    assert "| loss | 2.000 | 57.1% | 2 |" in text
    assert "| **all** | 3.500 | 100 % | 13 |" in text
    (table,) = tmp_path.glob("*.csv")
    assert table.stem == "zvuk-cce_neg-tile-compile-graphs"
    assert table.read_text().splitlines()[1].startswith("loss,shared_backward_kernel,2.0,2.0")


def launched(path):
    """Names called as ``name[grid](...)`` in a module, without those that are not its functions."""
    tree = ast.parse(path.read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {ast.unparse(call.value) for call in calls if isinstance(call, ast.Subscript)} & own


def test_what_the_interpreter_leaves_in_a_module_is_not_a_kernel(bench, monkeypatch):
    profile = sys.modules["step_profile"]
    left = type("Builder", (), {"__module__": "triton.runtime.interpreter"})()
    monkeypatch.setattr(cce_kernels, "left", left, raising=False)
    assert "left" not in profile.loss_kernels.__wrapped__()


def test_every_kernel_of_the_losses_belongs_to_the_group_loss(bench):
    names = set().union(*(launched(path) for path in Path(cce_kernels.__file__).parent.rglob("*.py")))
    assert {
        "_mean",
        "later_draws_kernel",
        "split_parts_kernel",
        "shared_backward_kernel",
        "full_forward_kernel",
    } <= names
    assert {sys.modules["step_profile"].group_of(name) for name in names} == {"loss"}
