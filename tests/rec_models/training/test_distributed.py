"""Two processes with half a batch each against one with the whole: on the CPU through gloo, on GPUs through NCCL."""

import json
import os
import subprocess
import sys

import pytest
import torch
from lightning.fabric import Fabric

from rec_models.training.checkpoint import MODEL_NAME, ModelCheckpoint

NONE, TILES = {"sharing": "none"}, {"sharing": "tile", "tile_tokens": 8}  # tiles that span ranks
needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
UNEVEN = [
    ([6, 5], "train_batches: found 6, 5 batches on the ranks, allowed: equally many on each"),
    ([6, 0], "train_batches: found no batch, allowed: at least one"),
]


@pytest.mark.slow
def test_two_ranks_with_half_a_batch_are_one_with_the_whole(tiny, tiny_script, tmp_path):
    assert_two_ranks_are_one(tiny, tiny_script, tmp_path, [{"loss_options": TILES, "averaging": 0.5}])


@pytest.mark.parametrize(("counts", "message"), UNEVEN)
def test_ranks_with_other_numbers_of_batches_are_refused(tiny, folders, monkeypatch, counts, message):
    gathered = []
    monkeypatch.setattr(
        Fabric, "all_gather", lambda self, ours: gathered.append(ours.tolist()) or torch.tensor(counts)[:, None]
    )
    with pytest.raises(ValueError, match=message):
        tiny.run(**folders)
    assert gathered == [[6]]


def test_no_batch_at_all_is_refused(tiny, folders):
    with pytest.raises(ValueError, match=UNEVEN[1][1]):
        tiny.run(**folders, counts=[0])


@pytest.mark.gpu
@needs_two_gpus
@pytest.mark.parametrize(("counts", "message"), UNEVEN)
def test_gpus_with_other_numbers_of_batches_are_refused(tiny_script, tmp_path, counts, message):
    ran = start_two_ranks(
        tiny_script, tmp_path, [{"max_epochs": 1, "counts": counts, "accelerator": "cuda"}], timeout=120
    )
    assert ran.returncode != 0
    assert f"ValueError: {message}" in ran.stderr


@pytest.mark.gpu
@needs_two_gpus
def test_two_gpus_with_half_a_batch_are_one_with_the_whole(tiny, tiny_script, tmp_path):
    runs = [{"loss": loss, "loss_options": shared} for loss in ("cce_neg", "bce") for shared in (NONE, TILES)]
    runs += [{"loss": "cce", "loss_options": {"paper_faithful": faithful}} for faithful in (False, True)]
    runs += [run | {"table": "sharded", "items": 200} for run in runs[:5]]
    on = {"accelerator": "cuda", "precision": "32-true"}  # 16-bit products would differ by the size of a batch
    assert_two_ranks_are_one(tiny, tiny_script, tmp_path, [run | on for run in runs])


@pytest.mark.gpu
@needs_two_gpus
def test_two_gpus_train_in_mixed_precision(tiny, tiny_script, tmp_path):
    """bf16 on both sides: close, as the roundings differ."""
    options = {"dropout": 0.0, "max_epochs": 2, "accelerator": "cuda"}
    whole = tiny.run(tmp_path / "a", tmp_path / "a-kept", **options)
    (halves,) = run_two_ranks(tiny_script, tmp_path, [options])
    found = [epoch["train_loss"] for epoch in halves["history"]]
    assert found == pytest.approx([epoch["train_loss"] for epoch in whole.history], rel=0.02)
    assert found[-1] < found[0]


@pytest.mark.gpu
@needs_two_gpus
@pytest.mark.parametrize("table", ["replicated", "sharded"])
@pytest.mark.parametrize("loss", ["cce", "cce_neg"])
def test_two_gpus_record_what_they_launch(tiny_script, tmp_path, loss, table):
    """Collective operations inside CUDA graphs; bf16 sums by atomics differ from run to run."""
    options = {"loss": loss, "dropout": 0.0, "max_epochs": 6, "patience": 6, "accelerator": "cuda"}
    options |= {"table": table, "items": 200}
    runs = [options | {"cuda_graphs": recorded} for recorded in (False, True)]
    launched, recorded = run_two_ranks(tiny_script, tmp_path, runs)
    for ours, expected in zip(recorded["history"], launched["history"], strict=True):
        assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=2e-2)
        assert (ours["step"], ours["tokens"]) == (expected["step"], expected["tokens"])


def assert_two_ranks_are_one(tiny, script, tmp_path, runs):
    """Losses, steps and weights of each run; each optimizer step also accumulates two batches per rank."""
    usual = {"loss": "cce_neg", "dropout": 0.0, "max_epochs": 2, "micro": 2}
    runs = [usual | options for options in runs]
    for number, (halves, options) in enumerate(zip(run_two_ranks(script, tmp_path, runs), runs, strict=True)):
        whole = tiny.run(tmp_path / f"a{number}", tmp_path / f"a{number}-kept", **options)
        assert len(halves["history"]) == 2
        for ours, expected in zip(halves["history"], whole.history, strict=True):
            assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)
            assert (ours["step"], ours["tokens"]) == (expected["step"], expected["tokens"])
        assert_same_weights(tiny, tmp_path / f"a{number}", tmp_path / f"b{number}")


def assert_same_weights(tiny, expected_folder, found_folder):
    folders = (expected_folder, found_folder)
    first, second = (tiny.without_keys_bias(ModelCheckpoint.read(path / MODEL_NAME).weights) for path in folders)
    torch.testing.assert_close(second, first, rtol=1e-3, atol=2e-5)


def run_two_ranks(script, tmp_path, runs):
    """What rank 0 prints at the end, one entry per run; the files of the first run are in ``b0``."""
    ran = start_two_ranks(script, tmp_path, runs)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)


def start_two_ranks(script, tmp_path, runs, *, timeout=500):
    """Several runs in the same two processes, one after the other."""
    places = [{"out": str(tmp_path / f"b{n}"), "checkpoints": str(tmp_path / f"b{n}-kept")} for n in range(len(runs))]
    arguments = [{"devices": 2} | place | options for place, options in zip(places, runs, strict=True)]
    return subprocess.run(
        [sys.executable, str(script), json.dumps(arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
