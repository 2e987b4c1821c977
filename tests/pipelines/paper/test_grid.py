"""The command grid: what it queues, passes over and refuses. The end-to-end tests run it with DVC."""

import dataclasses
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cutrec import config
from cutrec.errors import StageError, UsageError
from cutrec.nested import merged, parse_overrides
from pipelines.paper import experiments, grid, points
from pipelines.paper.experiments import Experiment, parse
from tests.small_log import ROOT

SHIPPED = config.read_yaml(ROOT / "params.yaml")
(POINT,) = points.table_points(SHIPPED, [4], datasets=["beauty"], twin=True)
PARAMS = merged(SHIPPED, POINT.values)


def experiment(state: str, **values: Any) -> Experiment:
    done = {"training": {"epoch_seconds": 1.0}, "evaluation": {"users": 3}} if state == "finished" else {}
    return Experiment(
        **({"name": POINT.name, "state": state, "baseline": "0123456789", "params": PARAMS} | done | values)
    )


@pytest.mark.parametrize(
    ("known", "verdict", "why"),
    [
        ([], "queue", ""),
        (["finished"], "known", "finished, commit 0123456"),
        (["running"], "known", "running, commit 0123456"),
        (["queued"], "known", "queued, commit 0123456"),
        (["failed", "queued"], "known", "queued, commit 0123456"),
        (["failed"], "failed", "it failed before; `uv run dvc queue logs NAME` says why, --retry queues it again"),
    ],
)
def test_what_is_there_is_passed_over(known: list[str], verdict: str, why: str):
    found = grid.decide(POINT, [experiment(state) for state in known], retry=False)
    assert found == (verdict, why.replace("NAME", POINT.name))


def test_what_failed_is_queued_again_on_request():
    assert grid.decide(POINT, [experiment("failed")], retry=True)[0] == "queue"


def test_a_finished_experiment_without_metrics_is_named_with_a_way_out():
    verdict, why = grid.decide(POINT, [experiment("finished", evaluation={})], retry=False)
    assert verdict == "broken"
    assert f"uv run dvc exp remove {POINT.name}" in why


@pytest.mark.parametrize("state", ["finished", "running", "queued"])
def test_another_experiment_of_the_name_is_refused(state: str):
    other = merged(PARAMS, {"backbone": {"dropout": 0.5}})
    with pytest.raises(StageError, match=r"has backbone.dropout=0.5, found here 0.1; `uv run dvc exp remove"):
        grid.decide(POINT, [experiment(state, params=other)], retry=False)


def test_points_too_large_for_the_gpu_are_marked():
    wanted = points.table_points(SHIPPED, [1])
    large, small = grid.misfits(wanted, 24.0), grid.misfits(wanted, 80.0)
    assert set(small) < set(large)
    assert "sasrec-ce-zvuk-64x96" in large
    assert "sasrec-ce-movielens_20m-256x512" not in large
    assert all("GiB predicted, of 24; --anyway" in why for why in large.values())


def test_overrides_that_points_have_no_use_for_are_told():
    extra = parse_overrides(["num_negatives=63", "batch_size=64"])
    of_table = [point.params for point in points.table_points(SHIPPED, [3], datasets=["beauty"], extra=extra)]
    assert points.without_use(of_table, extra) == [
        "-S num_negatives=63 changes nothing in 1 of 1 points: those of sasrec-cce"
    ]
    every = [point.params for point in points.table_points(SHIPPED, twin=True, extra=extra)]
    (line,) = points.without_use(every, extra)
    assert line.startswith("-S num_negatives=63 changes nothing in 51 of 101 points: those of sasrec-ce, sasrec-cce, ")
    extra = parse_overrides(["negatives.alpha=0.5", "losses.gbce.t=0.5", "backbone.mask_prob=0.2"])
    some = [point.params for point in points.table_points(SHIPPED, [4, 6], datasets=["gowalla"], extra=extra)]
    assert [line.partition(" changes")[0] for line in points.without_use(some, extra)] == [
        "-S negatives.alpha=0.5", "-S losses.gbce.t=0.5", "-S backbone.mask_prob=0.2",
    ]  # fmt: skip
    assert points.without_use(some, {}) == []


def test_seeds_are_points_of_their_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    options = grid._parse(["--table", "4", "--dataset", "beauty", "--seeds", "42,7", "-S", "train.max_epochs=1"])
    found = [point for extra in grid._of_seeds(options) for point in grid.wanted_points(options, extra=extra)]
    name = "sasrec-cce_neg-uniform-none-beauty-1024x32-n511-max_epochs_1"
    assert [(point.name, point.params.seed) for point in found] == [(name, 42), (f"{name}-seed_7", 7)]
    with pytest.raises(UsageError, match="--seeds: found x, allowed: 0 to 1,000,000"):
        grid._parse(["--table", "4", "--seeds", "1,x"])


def test_parts_are_every_point_once():
    wanted = points.distinct(points.table_points(SHIPPED))
    shares = [wanted[grid.share(f"{part}/4")] for part in (1, 2, 3, 4)]
    assert sorted(point.name for share in shares for point in share) == sorted(point.name for point in wanted)
    assert [len(share) for share in shares] == [25, 25, 25, 24]


def test_the_summary_counts_and_says_what_comes_next():
    counted = Counter({"queue": 2, "known": 1, "failed": 3})
    assert grid.summary(counted, dry_run=False) == (
        "6 points: 2 queued, 1 passed over, 3 failed before; next: uv run dvc queue start"
    )
    assert grid.summary(Counter({"too large": 2}), dry_run=True) == "2 points: 0 to queue, 2 too large for the GPU"


def test_dvc_writes_a_point_into_params_as_it_is(tmp_path: Path):
    from dvc.utils.hydra import apply_overrides

    for table in (7, 14):
        (point, *_) = points.table_points(SHIPPED, [table], datasets=["gowalla"], twin=True)
        copy = tmp_path / f"params-{table}.yaml"
        copy.write_text((ROOT / "params.yaml").read_text())
        apply_overrides(copy, points.overrides(point))
        loaded = config.load(copy)
        assert set(loaded.undecided) <= {"num_negatives"}  # which neither loss has a use for, or the point sets
        assert dataclasses.replace(loaded, undecided=()) == point.params


def shown(state: str | None, **last: Any) -> list[dict[str, Any]]:
    """What `dvc exp show` lists about one experiment."""
    data = {
        "params": {"params.yaml": {"data": {"loss": "ce"}}},
        "metrics": {"data/train/metrics.json": {"data": {"epoch_seconds": 2}}},
        "timestamp": datetime(2026, 1, 1),
    }
    revs = [{"rev": "abcdefgh", "name": "one", "data": data, "error": None, **last}]
    executor = None if state is None else {"state": state}
    return [{"rev": "c0ffee", "experiments": [{"name": "one", "executor": executor, "revs": revs}]}, {"rev": "x"}]


@pytest.mark.parametrize(
    ("state", "last", "found", "metrics"),
    [
        ("success", {}, "finished", {"epoch_seconds": 2}),
        (None, {}, "finished", {"epoch_seconds": 2}),
        ("running", {}, "running", {}),
        ("queued", {}, "queued", {}),
        ("failed", {"error": {"msg": "no"}}, "failed", {}),
        ("success", {"error": {"msg": "no"}, "data": None}, "failed", {}),
    ],
)
def test_experiments_are_read_with_their_own_metrics_only(state: str, last: dict, found: str, metrics: dict):
    (read,) = parse(shown(state, **last))
    assert (read.name, read.state, read.baseline, read.training) == ("one", found, "c0ffee", metrics)
    assert experiments.STATES.index(read.state) >= 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "one of the arguments --table --all --search is required"),
        ("--table 4 --loss ce", "--loss: allowed with --search; -S loss=... changes a point"),
        ("--table 77", "error: table: found 77, allowed: 1, 2"),
        ("--table 8 --dataset zvuk", "error: dataset: found 'zvuk', allowed in these tables: gowalla"),
        (
            "--table 4 --sharing tile --faithful",
            "error: negatives.sharing: found 'tile' with row=4/megamarket, allowed: none with",
        ),
        ("--table 4 -S backbone.hidden=7", "error: backbone.hidden: found 7 with backbone.heads=2"),
        ("--table 4 --part 3/2", "--part: found '3/2', allowed: I/N with I from 1 to N"),
        ("--table 4 --scale -1", "--scale: found -1, allowed: a number above 0"),
        ("--search --dataset netflix", "error: dataset: found 'netflix', allowed: 30music"),
        ("--search", "error: --dataset: found 0 with --search, allowed: one"),
        ("--search --dataset beauty --loss cee", "error: loss: found 'cee', allowed: ce | ce_neg"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    with pytest.raises((ValueError, SystemExit)) as caught:
        grid.main(arguments.split())
    said = capsys.readouterr().err + f"error: {caught.value}"
    assert says in said
    assert "\n" not in str(caught.value)
