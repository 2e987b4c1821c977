"""Measuring points: whole steps on tiny twins, a row a point, going on where a run stopped, memory that runs out."""

import ast
import gzip
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from cutrec.config_point import Config
from cutrec.reporting import results_file as results
from pipelines import measure
from pipelines.paper import points, steps
from pipelines.paper import warm_up as rehearsal
from rec_models.errors import TrainingError
from rec_models.losses import LOSSES

ROOT = Path(__file__).parents[2]
TINY = (
    "--scale 0.003 --steps 4 --warmup 2 -S batch_size=16 -S max_seq_len=12 -S backbone.hidden=8 -S num_negatives=4 "
    "-S losses.sce.buckets=4 -S losses.sce.bucket_size_x=8 -S losses.sce.bucket_size_y=8"
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in-process; returns what it printed and the rows of its file."""
    monkeypatch.chdir(ROOT)
    out = tmp_path / "results.csv"

    def go(arguments: str) -> tuple[str, list[results.Result]]:
        measure.main([*arguments.split(), *TINY.split(), "--out", str(out)])
        return capsys.readouterr().out, results.read(out)

    return go


def test_a_point_is_measured_once_and_every_field_of_training_is_there(run: Any):
    printed, rows = run("--table 3,14 --dataset beauty --sharing tile")
    assert [(row.model, row.loss, row.sharing) for row in rows] == [
        ("sasrec", "cce", None),
        ("bert4rec", "cce_neg", "tile"),
    ]
    for row in rows:
        assert (row.status, row.dataset, row.twin, row.steps_timed, row.warmup_steps) == ("ok", "beauty", 0.003, 4, 2)
        assert row.step_ms_p10 <= row.step_ms <= row.step_ms_p90
        assert row.num_items == round(176_450 * 0.003)
        assert row.steps_per_epoch == -(-row.train_users // 16)
        assert row.epoch_seconds == pytest.approx(row.steps_per_epoch * row.mean_step_ms / 1e3, rel=1e-3)
        assert row.whole_epoch_seconds == pytest.approx(row.epoch_seconds + row.validation_seconds, abs=1e-3)
        assert row.epoch_basis == "extrapolated"
        assert row.replayed_steps == 0  # a CPU records nothing
        assert 0 <= row.wait_share < 1
        assert 16 <= row.tokens_per_step <= row.most_tokens <= 16 * 12
        assert 0 < row.peak_loop_gib <= row.peak_fit_gib
    assert "[2/2] " in printed
    printed, again = run("--table 3,14 --dataset beauty --sharing tile")
    assert "2 points, 2 of them already in" in printed
    assert again == rows


def test_a_profile_is_a_trace_of_as_many_steps_and_no_row(run: Any, tmp_path: Path):
    printed, rows = run(f"--table 3 --dataset beauty --profile {tmp_path / 'traces'}")
    assert rows == []
    (path,) = (tmp_path / "traces").iterdir()
    assert path.name == "sasrec-cce-twin_beauty_0.003-16x12-hidden_8-buckets_4-bucket_size_x_8-bucket_size_y_8.json.gz"
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert sum(event.get("name", "").startswith("ProfilerStep#") for event in events) == 4
    assert "Self CPU" in printed
    assert f"{path}: 4 steps" in printed


def test_no_point_is_begun_after_the_minutes_are_over(run: Any):
    printed, rows = run("--table 3 --minutes -1")
    assert rows == []
    assert "-1 minutes are over: 7 points are left, start again" in printed
    assert "note: -S num_negatives=4 changes nothing in 7 of 7 points: those of sasrec-cce" in printed


def test_memory_that_runs_out_is_a_row_and_the_next_point_follows(run: Any, monkeypatch: pytest.MonkeyPatch):
    def fail(point: Config, effort: steps.Effort) -> dict[str, Any]:
        if point.loss == "cce":
            try:
                raise torch.OutOfMemoryError("tried to allocate")
            except torch.OutOfMemoryError as error:
                raise TrainingError("out of memory with a batch of 16 x 12") from error
        raise RuntimeError("an illegal\naccess")

    monkeypatch.setattr(steps, "_train", fail)
    printed, rows = run("--table 3,1 --dataset beauty")
    assert [(row.loss, row.status, row.step_ms) for row in rows] == [
        ("cce", "out of memory", None),
        ("ce", "failed", None),
    ]
    assert rows[0].note == "out of memory with a batch of 16 x 12"
    assert rows[1].note == "RuntimeError: an illegal access"
    assert "out of memory: out of memory with a batch" in printed


def test_where_steps_are_recorded_the_warm_up_has_each_size_twice(run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(steps, "_is_recorded", lambda point: True)
    monkeypatch.setattr(rehearsal, "recorded_sizes", lambda batches: list("abac"))
    _, rows = run("--table 3 --dataset beauty")
    assert (rows[0].warmup_steps, rows[0].steps_timed, rows[0].replayed_steps) == (6, 4, 4)


def test_on_a_gpu_what_surely_does_not_fit_is_not_tried(run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "_gpu_gib", lambda: 0.001)
    monkeypatch.setattr(steps, "_train", lambda *_: pytest.fail("tried"))
    printed, rows = run("--table 3 --dataset beauty")
    assert [(row.status, row.step_ms) for row in rows] == [("out of memory", None)]
    assert rows[0].note == "not tried: the planner counts 0 GiB, the GPU has 0"
    assert "out of memory: not tried" in printed


def test_on_a_gpu_a_point_is_left_that_the_minutes_are_too_short_for(run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "_gpu_gib", lambda: 80.0)
    printed, rows = run("--table 3 --dataset beauty --minutes 0.05")
    assert rows == []
    assert "left for another call: sasrec-cce-twin_beauty" in printed
    _, rows = run("--table 3 --dataset beauty --minutes 5")
    assert [row.status for row in rows] == ["ok"]


def test_memory_that_was_not_given_back_is_told(run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(steps, "held_gib", lambda: 0.3)
    _, rows = run("--table 3 --dataset beauty")
    assert (rows[0].status, rows[0].note) == ("ok", "0.3 GiB of points before were still held")
    assert run("--table 3 --dataset beauty")[1] == rows


def test_an_allocator_with_growing_segments_is_told(run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    _, rows = run("--table 3 --dataset beauty")
    assert rows[0].note == "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"


def test_what_ran_out_holds_nothing_afterwards(run: Any, monkeypatch: pytest.MonkeyPatch):
    class Held:
        pass

    held: list[weakref.ref[Held]] = []

    def fail(point: Config, effort: steps.Effort) -> dict[str, Any]:
        tensor = Held()
        held.append(weakref.ref(tensor))
        try:
            raise torch.OutOfMemoryError("tried to allocate")
        except torch.OutOfMemoryError:
            raise RuntimeError("capture failed") from None  # as ending a recording does

    def collected(point: Config, status: str | None) -> None:
        assert held[-1]() is None

    monkeypatch.setattr(steps, "_train", fail)
    monkeypatch.setattr(steps, "_forget", collected)
    _, rows = run("--table 3 --dataset beauty")
    assert [row.status for row in rows] == ["out of memory"]


def test_the_order_and_the_sharing_are_as_asked():
    options = measure._parse(["--table", "4,3", "--dataset", "beauty", "--sharing", "tile,none"])
    found = measure.wanted_points(points.load(ROOT / "params.yaml"), options)
    assert [(point.loss, point.negatives.sharing) for point in found] == [
        ("cce_neg", "tile"),
        ("cce_neg", "none"),
        ("cce", "tile"),
    ]
    every = measure.wanted_points(points.load(ROOT / "params.yaml"), measure._parse([]))
    assert len(every) == 90 + 9 + sum(LOSSES[point.loss].sampled for point in every) // 2
    assert {point.dataset for point in every} >= {"twin:zvuk", "twin:30music"}
    assert every[0].loss == "cce_neg"


def test_ways_of_training_make_other_rows(run: Any):
    run("--table 3 --dataset beauty")
    printed, rows = run("--table 3 --dataset beauty -S train.optimizer=adam_bf16 -S train.accumulate=2")
    assert [row.options for row in rows] == [None, "accumulate=2;optimizer=adam_bf16"]
    assert "1 points, 0 of them already in" in printed
    one, two = rows
    assert two.steps_per_epoch == -(-one.steps_per_epoch // 2)  # of the optimiser, whose tokens are those of 2 batches
    assert two.epoch_seconds == pytest.approx(two.steps_per_epoch * two.mean_step_ms / 1e3, rel=1e-3)
    assert two.most_tokens <= 16 * 12
    assert two.tokens_per_step > 1.5 * one.tokens_per_step
    assert two.steps_timed == 4


def test_settings_that_contradict_each_other_are_passed_over(run: Any):
    printed, rows = run("--table 3,4 --dataset beauty --sharing tile -S train.optimizer=adam_lazy")
    assert [row.loss for row in rows] == ["cce_neg"]
    assert "[1/2] sasrec-cce-twin_beauty_0.003-16x12: passed over: " in printed


def test_the_timed_steps_end_when_their_seconds_are_over(run: Any):
    _, rows = run("--table 3 --dataset beauty --seconds 0")
    assert rows[0].steps_timed == 4  # fewer than ten are never cut short


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--table 4,a", "--table: found 'a', allowed: a whole number"),
        ("--table 16", "error: table: found 16, allowed: 1, 2, 3"),
        ("--table 4 -S row=3/beauty", "error: -S row: found '3/beauty', allowed: --table and --dataset, which choose"),
        ("--scale 0", "--scale: found 0, allowed: a number above 0"),
        ("--table 8 --dataset zvuk", "error: dataset: found 'zvuk', allowed in these tables"),
        ("--sharing all", "found 'all', allowed: none, tile, batch"),
        ("--table 3 -S train.window=8", "error: train.window: found 8, allowed: null"),
        ("-S batch=3", "error: batch: unknown key (did you mean batch_size?)"),
        ("-S model=bert4rec -S backbone.hidden=7 --table 3", "error: backbone.hidden: found 7 with backbone.heads=2"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    with pytest.raises((ValueError, SystemExit)) as caught:
        measure.main(arguments.split())
    said = capsys.readouterr().err + f"error: {caught.value}"
    assert says in said
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("script", ["measure.py", "study/trials.py", "study/runs.py"])
def test_what_measures_needs_no_polars_or_dvc(script: str):
    """Of our own modules that it can reach, none imports them.

    Left out are `cutrec.Recommender`, which is imported only when asked for, the table of titles, which is read only
    where ``report.item_names`` names one, and object storage, which is read only where ``train.sequences`` names it.
    """
    cutrec = ROOT / "packages/cutrec/src/cutrec"
    remote = ROOT / "packages/rec-data/src/rec_data/sources/remote_parts.py"
    seen: set[Path] = {cutrec / "__init__.py", cutrec / "workflow/item_names.py", remote}
    todo = [ROOT / "pipelines" / script]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            assert not {name.split(".")[0] for name in names} & {"polars", "dvc"}, path
            todo += [found for name in names if (found := source(name)) is not None]
    if script != "study/trials.py":
        assert {"training_inputs.py", "batches.py", "loop.py", "target_ranks.py", "triton_impl.py"} <= {
            path.name for path in seen
        }


def source(module: str) -> Path | None:
    """The file of a module of ours."""
    parts = module.split(".")
    root = ROOT if parts[0] == "pipelines" else ROOT / "packages" / parts[0].replace("_", "-") / "src"
    base = root.joinpath(*parts)
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
