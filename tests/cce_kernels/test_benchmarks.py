"""The table of measurements: rows survive the file, new ones replace old ones, the page is the CSV's."""

import csv
import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cce_kernels import hardware

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


def test_rows_of_peers_survive_the_file(scripts, tmp_path):
    rows = scripts("rows")
    row = rows.PeerRow(
        "GPU", "1", "2.11", "3.6", "abc", "quack-kernels 0.6.5, x 1", "quack", "beauty", "flat", "spread", 1, 2, 3,
        "bfloat16", median_ms=0.5, repeats=9,
    )  # fmt: skip
    rows.write(tmp_path / "x.csv", [row])
    assert rows.read_as(rows.PeerRow, tmp_path / "x.csv") == [row]


def test_the_page_is_rendered_from_the_table(scripts):
    measured = scripts("rows").read(FOLDER / "results/losses.csv")
    page = (FOLDER / "results/losses.md").read_text()
    assert page == "\n".join(scripts("render").table(measured)) + "\n"
    assert len({row.key for row in measured}) == len(measured)
    for row in measured:  # what failed says why, and nothing is a time of zero
        assert row.note if row.both_ms is None else row.both_ms > 0


def test_popular_items_are_spread_over_the_ids_or_sorted(scripts):
    points = scripts("points")
    spread, ordered = (points.Point("x", 20_000, 500, 8, popularity=order) for order in ("spread", "sorted"))
    counts, descending = points.item_counts(spread, "cpu"), points.item_counts(ordered, "cpu")
    assert torch.equal(counts.sort(descending=True).values, descending)
    assert torch.equal(descending, 1 / torch.arange(1, 501))
    assert counts[:50].sum() < 0.5 * descending[:50].sum()
    for point, popularity in ((spread, counts), (ordered, descending)):
        drawn = points.make_inputs(point, "cpu").targets.bincount(minlength=500) / 20_000
        expected = popularity / popularity.sum()
        # The total variation distance of 20,000 draws is below sum sqrt(q / n) / 2 on average.
        assert (drawn - expected).abs().sum() / 2 < (expected / 20_000).sqrt().sum()


def test_gradients_of_a_peer_are_compared_with_float64_on_slices(scripts):
    points, peers = scripts("points"), scripts("peers")
    point = points.Point("x", 300, 200, 8, dtype="float32", weight_dtype="float32", popularity="spread")
    inputs = points.make_inputs(point, "cpu")
    truth = peers.true_slices(inputs, size=40)
    eager = peers.PEERS["eager torch"].loss(inputs, point)
    gradients = torch.autograd.grad(eager, (inputs.hidden, inputs.weight))
    assert max(peers.errors(eager, gradients, truth).values()) < 1e-5
    assert len(truth.tokens) == 40
    wrong = peers.errors(1.5 * eager, tuple(1.5 * x for x in gradients), truth)
    assert all(0.49 < error < 0.51 for error in wrong.values())
    assert peers.errors(eager, (gradients[0] * float("nan"), gradients[1]), truth)["dhidden_error"] != 0


def test_a_peer_whose_gradient_is_wrong_is_not_timed(scripts, tmp_path, monkeypatch):
    points, peers = scripts("points"), scripts("peers")
    point = points.Point("x", 64, 50, 8, dtype="float32", weight_dtype="float32")
    torch.save(vars(peers.true_slices(points.make_inputs(point, "cpu"))), tmp_path / "truth.pt")
    right = peers.PEERS["eager torch"]
    for factor, note in ((2.0, "not timed: its gradient is wrong"), (float("nan"), "not timed: its gradient is wrong")):
        peer = replace(right, loss=lambda inputs, at, x=factor: x * right.loss(inputs, at))
        monkeypatch.setitem(peers.PEERS, "eager torch", peer)
        numbers = peers.measure("eager torch", point, tmp_path, "cpu")
        assert numbers["note"] == note
        assert "median_ms" not in numbers

    def refuse(inputs, at):
        raise NotImplementedError("V must be a multiple of 256\nmore")

    monkeypatch.setitem(peers.PEERS, "eager torch", replace(right, loss=refuse))
    assert peers.measure("eager torch", point, tmp_path, "cpu") == {
        "note": "NotImplementedError: V must be a multiple of 256"
    }


def test_peers_are_tried_where_they_fit(scripts):
    tables, peers = scripts("points").PEERS, scripts("peer_losses").PEERS
    points = [point for table in tables.values() for point in table]
    assert len({point.name for point in points}) == len(points)
    assert all(peers["ours"].wants(point) for point in points)
    tried = {point.name for point in points if peers["quack"].wants(point)}
    assert {"beauty-256", "30music-256", "v176450"} <= tried
    assert not {"beauty", "30music"} & tried
    assert not peers["eager torch"].wants(next(point for point in points if point.name == "zvuk"))


def test_points_are_told_apart_and_tables_that_cannot_fit_are_left_out(scripts):
    points, losses = scripts("points"), scripts("losses")
    names = [(point.op, point.name) for point in points.FULL + points.SAMPLED]
    assert len(set(names)) == len(names)
    full = {point.name: point for point in points.FULL}
    assert losses.wanted("eager torch", full["beauty"])
    assert not losses.wanted("eager torch", full["zvuk"])
    assert all(losses.wanted("ours", point) for point in points.FULL)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_tuner_tries_what_is_entered_and_makes_lookups_return_it(scripts, dtype, monkeypatch):
    tuner = scripts("tune_sampled")
    tuning = tuner.tuning
    tables = {name for name in vars(tuning) if name.startswith("SHARED")}
    assert tables == set(tuner.SHARED_TABLES)
    for name in (*tables, "PER_TOKEN"):  # copies: what is tried must not stay
        monkeypatch.setattr(tuning, name, dict(getattr(tuning, name)))
    entered = tuning.SHARED_FP32 if dtype == "float32" else tuning.SHARED
    forward, backward = (set(side) for side in zip(*tuner.candidates("tile", dtype), strict=True))
    assert entered[256][0] in forward
    assert entered[256][1] in backward
    for architecture in (80, 89, 90):
        monkeypatch.setattr(hardware, "device_properties", lambda _, x=architecture: (x, 132))
        for pair in tuner.candidates("tile", dtype)[-2:]:
            tuner.use("tile", pair)
            found = tuning.shared_tiles(torch.device("cuda", 0), getattr(torch, dtype), 200, 64)
            assert found == pair
    tuning.shared_tiles.cache_clear()


def test_a_picture_is_of_one_gpu(scripts, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    rows, render = scripts("rows"), scripts("render")
    row = rows.Row(
        "A", "1", "2.11", "3.6", "abc", "full", "ours", "beauty", "flat", 1, 2, 3, 0, "bfloat16", "float32", both_ms=1.0
    )
    others = [replace(row, gpu="B", variant=name, both_ms=ms) for name, ms in (("ours", 2.0), ("eager torch", 3.0))]
    drawn = []
    monkeypatch.setattr(render, "bars", lambda axis, chosen, *_: drawn.extend(chosen))
    render.draw([row, *others], tmp_path / "x.png")
    assert {x.gpu for x in drawn} == {"B"}


def test_tiles_of_the_full_loss_are_among_those_that_are_tried(scripts):
    from cce_kernels.full import tuning

    tuner = scripts("tune_full")
    for dtype, table in (("bfloat16", tuning._FULL_SM90), ("float32", tuning._FULL_FP32_SM90)):
        tried = tuner.candidates(dtype)
        for dim, pair in table.items():
            for direction, tiles in zip(("forward", "backward"), pair, strict=True):
                assert tiles in [tuning.FullTiles(*candidate) for candidate in tried[direction][dim]], (dtype, dim)


@pytest.mark.parametrize("sharing", ["tile", "none"])
def test_errors_of_the_sampled_losses_are_against_the_same_negatives(scripts, sharing, monkeypatch):
    run = scripts("run")
    make_inputs = run.make_inputs
    monkeypatch.setattr(run, "make_inputs", lambda point: make_inputs(point, "cpu"))
    monkeypatch.setattr(run, "SMALL", {"tokens": 64, "items": 50, "negatives": 20})
    (point,) = (x for x in run.SAMPLED if x.name == "beauty-fp32")
    monkeypatch.setitem(run.SAMPLED_OPTIONS[f"ours, sharing {sharing}"], "impl", "reference")
    for variant in (f"ours, sharing {sharing}", "eager torch"):
        found = run.sampled_errors(variant, point)
        assert 0 < max(found.values()) < 1e-5, (variant, found)


@pytest.mark.parametrize("script", ["run", "peers", "tune_full", "tune_sampled", "profile_sampled"])
def test_without_a_gpu_a_script_ends_in_one_line(scripts, script, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [script, "twins"] if script == "peers" else [script])
    with pytest.raises(SystemExit, match=r"^no GPU: found none"):
        scripts(script).main()


def test_without_nvidia_smi_there_is_one_line(scripts, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^nvidia-smi, which tells"):
        scripts("rows").environment()


def test_loops_are_measured_between_their_label_and_their_jump(scripts):
    sass = """
    .L_x_0:
            /*0010*/  FADD R1, R1, R2 ;
            /*0020*/  FADD R1, R1, R2 ;
            /*0030*/  @P0 BRA `(.L_x_0) ;
            /*0040*/  EXIT ;
    """
    assert scripts("registers").longest_loop(sass) == 3


def test_every_kernel_was_compiled_for_every_gpu(scripts):
    """And results/gpus.csv sums up results/architectures.csv."""
    architectures = scripts("architectures")
    kernels = architectures.read_kernels(architectures.RESULTS / "architectures.csv")
    sources = "".join(path.read_text() for path in FOLDER.parents[1].glob("*/src/*/**/*.py"))
    launched = set(re.findall(r"@triton\.jit(?:\(.*\))?\ndef (\w+_kernel)\(", sources))
    assert len(launched) > 10
    for architecture in architectures.SHARED_KIB:
        mine = [kernel for kernel in kernels if kernel.architecture == architecture]
        # Older GPUs rank in plain torch, run the plain network, and have no bf16, of which chunks are.
        ranking = ("_filter", "_merge", "_order", "_blocks", "_reduce", "_finish")
        newer = (*ranking, "norm", "attention", "activation", "column")
        chunks = ("bases", "numerators", "merge_tiles", "finish", "dhidden", "targets")
        unused = {name for name in launched if architecture < 80 and name.startswith((*newer, *chunks))}
        assert {kernel.kernel for kernel in mine} >= launched - unused
        assert architecture < 80 or all(kernel.fits for kernel in mine)
    with (architectures.RESULTS / "gpus.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [{name: str(x) for name, x in row.items()} for row in architectures.summary(kernels)] == written
