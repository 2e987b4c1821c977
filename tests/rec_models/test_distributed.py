"""Two processes with half a batch each against one with the whole: on the CPU through gloo, on GPUs through NCCL."""

import json
import os
import subprocess
import sys

import pytest
import torch

from rec_models.training.checkpoint import ModelCheckpoint
from rec_models.training.loop import TrainingModule

TILES = {"sharing": "tile", "tile_tokens": 8}  # that span ranks
SHARED = pytest.mark.parametrize("loss_options", [{"sharing": "none"}, TILES], ids=["none", "tiles"])
needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@pytest.mark.slow
@SHARED
def test_two_ranks_with_half_a_batch_are_one_with_the_whole(tiny, tiny_script, tmp_path, loss_options):
    assert_two_ranks_are_one(tiny, tiny_script, tmp_path, loss_options=loss_options)


UNEVEN = [
    ([6, 5], "train_batches: found 6, 5 batches on the ranks, allowed: equally many on each"),
    ([6, 0], "train_batches: found no batch, allowed: at least one"),
]


@pytest.mark.parametrize(("counts", "message"), UNEVEN)
def test_ranks_with_other_numbers_of_batches_are_refused(tiny, tmp_path, monkeypatch, counts, message):
    gathered = []
    monkeypatch.setattr(
        TrainingModule, "all_gather", lambda self, ours: gathered.append(ours.tolist()) or torch.tensor(counts)[:, None]
    )
    with pytest.raises(ValueError, match=message):
        tiny.run(tmp_path / "out", tmp_path / "kept")
    assert gathered == [[6]]


def test_no_batch_at_all_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match=UNEVEN[1][1]):
        tiny.run(tmp_path / "out", tmp_path / "kept", counts=[0])


@pytest.mark.gpu
@needs_two_gpus
@pytest.mark.parametrize(("counts", "message"), UNEVEN)
def test_gpus_with_other_numbers_of_batches_are_refused(tiny_script, tmp_path, counts, message):
    ran = start_two_ranks(tiny_script, tmp_path, timeout=120, max_epochs=1, counts=counts, accelerator="cuda")
    assert ran.returncode != 0
    assert f"ValueError: {message}" in ran.stderr


@pytest.mark.gpu
@needs_two_gpus
@pytest.mark.parametrize("loss", ["cce_neg", "bce"])
@SHARED
def test_two_gpus_with_half_a_batch_are_one_with_the_whole(tiny, tiny_script, tmp_path, loss, loss_options):
    on = {"accelerator": "cuda", "precision": "32-true"}  # 16-bit products would differ by the size of a batch
    assert_two_ranks_are_one(tiny, tiny_script, tmp_path, loss=loss, loss_options=loss_options, **on)


@pytest.mark.gpu
@needs_two_gpus
@pytest.mark.parametrize("paper_faithful", [False, True])  # which trains padded places too
def test_two_gpus_with_half_a_batch_are_one_with_the_whole_without_negatives(
    tiny, tiny_script, tmp_path, paper_faithful
):
    options = {"paper_faithful": paper_faithful}
    on = {"accelerator": "cuda", "precision": "32-true"}
    assert_two_ranks_are_one(tiny, tiny_script, tmp_path, loss="cce", loss_options=options, **on)


@pytest.mark.gpu
@needs_two_gpus
def test_two_gpus_train_in_mixed_precision(tiny, tiny_script, tmp_path):
    """bf16 on both sides: close, as the roundings differ."""
    whole = tiny.run(tmp_path / "a", tmp_path / "a-kept", dropout=0.0, max_epochs=2, accelerator="cuda")
    halves = run_two_ranks(tiny_script, tmp_path, dropout=0.0, max_epochs=2, accelerator="cuda")
    found = [epoch["train_loss"] for epoch in halves["history"]]
    assert found == pytest.approx([epoch["train_loss"] for epoch in whole.history], rel=0.02)
    assert found[-1] < found[0]


def assert_two_ranks_are_one(tiny, script, tmp_path, **options):
    """Losses, steps and weights; each optimiser step also accumulates two batches a rank."""
    options = {"loss": "cce_neg", "dropout": 0.0, "max_epochs": 2, "micro": 2} | options
    whole = tiny.run(tmp_path / "a", tmp_path / "a-kept", **options)
    halves = run_two_ranks(script, tmp_path, **options)
    assert len(halves["history"]) == 2
    for ours, expected in zip(halves["history"], whole.history, strict=True):
        assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)
        assert (ours["step"], ours["tokens"]) == (expected["step"], expected["tokens"])
    first, second = (ModelCheckpoint.read(tmp_path / name / "model.ckpt").weights for name in "ab")
    for name, expected in first.items():
        found = second[name]
        if name.endswith("query_key_value.bias"):  # softmax cancels the keys' bias: its gradient is rounding alone
            found, expected = (torch.cat((bias.chunk(3)[0], bias.chunk(3)[2])) for bias in (found, expected))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5)


def run_two_ranks(script, tmp_path, **options):
    """What rank 0 prints at the end; its files are in ``b``."""
    ran = start_two_ranks(script, tmp_path, **options)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)


def start_two_ranks(script, tmp_path, *, timeout=500, **options):
    """The whole run, done."""
    arguments = [f"{key}={json.dumps(value)}" for key, value in options.items()]
    return subprocess.run(
        [sys.executable, str(script), str(tmp_path / "b"), str(tmp_path / "b-kept"), *arguments, "devices=2"],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
