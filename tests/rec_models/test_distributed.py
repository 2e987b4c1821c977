"""Two processes with half a batch each against one with the whole, on the CPU through gloo."""

import json
import os
import subprocess
import sys

import pytest
import torch

from rec_models.checkpoint import ModelCheckpoint


@pytest.mark.slow
def test_two_ranks_with_half_a_batch_are_one_with_the_whole(tiny, tiny_script, tmp_path):
    # micro: each optimiser step also accumulates two batches a rank. Negatives are shared by tiles that span ranks.
    options = {"loss": "cce_neg", "dropout": 0.0, "max_epochs": 2, "micro": 2}
    whole = tiny.run(tmp_path / "a", tmp_path / "a-kept", **options)
    arguments = [f"{key}={json.dumps(value)}" for key, value in options.items()]
    ran = subprocess.run(
        [sys.executable, str(tiny_script), str(tmp_path / "b"), str(tmp_path / "b-kept"), *arguments, "devices=2"],
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    halves = json.loads(ran.stdout)
    assert len(halves["history"]) == 2
    for ours, expected in zip(halves["history"], whole.history, strict=True):
        assert ours["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)
        assert (ours["step"], ours["tokens"]) == (expected["step"], expected["tokens"])
    first, second = (ModelCheckpoint.read(tmp_path / name / "model.ckpt").weights for name in "ab")
    for name, expected in first.items():
        torch.testing.assert_close(second[name], expected, rtol=1e-3, atol=2e-5)
