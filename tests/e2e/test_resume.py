"""A training stage killed in mid-epoch goes on at the next `dvc repro` and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import time

import polars as pl
import pytest

from tests.e2e.conftest import Clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TIMES = ("epoch_seconds", "whole_epoch_seconds", "tokens_per_second", "peak_memory_gib", "loop_peak_memory_gib")


def outcome(clone: Clone) -> tuple[dict, dict, pl.DataFrame]:
    """Everything a run ends with, but for times and memory."""
    training = json.loads((clone.root / "data/train/metrics.json").read_text())
    evaluation = json.loads((clone.root / "data/evaluate/metrics.json").read_text())
    history = pl.read_csv(clone.root / "data/train/history.csv")
    return (
        {key: value for key, value in training.items() if key not in TIMES},
        {key: value for key, value in evaluation.items() if not key.endswith(("seconds", "second"))},
        history.select(pl.exclude("^.*(seconds|per_second)$")),
    )


def test_a_killed_training_goes_on_where_it_was(clone: Clone):
    params = clone.root / "params.yaml"
    for before, after in {
        "max_epochs: 2": "max_epochs: 12",
        "patience: 4": "patience: 30",
        "batch_size: 32": "batch_size: 2",
    }.items():
        params.write_text(params.read_text().replace(before, after))
    clone.run("uv run dvc repro")
    whole = outcome(clone)

    clone.run("rm -rf .dvc/cache data dvc.lock")  # nothing may come back from a cache
    process = clone.start("exec uv run dvc repro", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        trainer = wait_for_checkpoint(clone)
        os.kill(trainer, signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode != 0
    finally:
        process.kill()
    assert list((clone.root / ".checkpoints").rglob("*.ckpt"))
    printed = clone.run("uv run dvc repro")
    assert "resuming" in printed, printed
    resumed = outcome(clone)
    assert resumed[0] == whole[0]
    assert resumed[1] == whole[1]
    assert resumed[2].equals(whole[2])
    assert not list((clone.root / ".checkpoints").rglob("*.ckpt"))


def wait_for_checkpoint(clone: Clone, seconds: float = 300) -> int:
    """Wait until training has kept a state; return the process id of the training."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if list((clone.root / ".checkpoints").rglob("last.ckpt")):
            found = subprocess.run(  # Python itself, not a shell that runs it: a shell's end would leave training alive
                ["pgrep", "-f", "^[^ ]*python[^ ]* -m pipelines.train$"], capture_output=True, text=True, check=False
            )
            for pid in found.stdout.split():
                if os.path.realpath(f"/proc/{pid}/cwd") == str(clone.root.resolve()):
                    time.sleep(0.3)  # into the next epoch
                    return int(pid)
        time.sleep(0.05)
    raise AssertionError("training kept no state")
