"""Two and three processes with a part of the batch each, through gloo, are one process with the whole: in float64."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rec_models.training.batch import StepBatch
from rec_models.training.ranks import RankTokens

SCRIPT = Path(__file__).parent / "ranks_processes.py"
FAST = ["cce", "sce-ties", "cce_neg-in_batch-none", "filled-in_batch", "a-rank-ends"]


def test_processes_together_are_one():
    reports = run(FAST)
    assert set(reports["1"]) == set(FAST)
    assert_equal(reports)


@pytest.mark.slow
def test_processes_together_are_one_with_every_loss_sampler_and_sharing():
    reports = run([])
    assert len(reports["1"]) > 35
    assert_equal(reports)


def run(names):
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *names],
        check=False, capture_output=True, text=True, timeout=500, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)


def assert_equal(reports):
    for ranks in ("2", "3"):
        for name, expected in reports["1"].items():
            found = reports[ranks][name]
            if name == "a-rank-ends":
                assert found.startswith("devices: found that another process of this run has ended")
                continue
            assert (found["step"], found["tokens"]) == (4, expected["tokens"]), name
            assert found["loss"] == pytest.approx(expected["loss"], rel=1e-10), name
            for parameter, values in expected["weights"].items():
                assert found["weights"][parameter] == pytest.approx(values, abs=1e-10), (ranks, name, parameter)


def test_the_place_of_tokens_is_that_of_one_process():
    """Two micro-batches on three ranks: of the first all ranks' tokens come first."""
    counts = ((3, 4), (5, 0), (2, 6))
    offsets = {(0, 0): 0, (0, 1): 10, (1, 0): 3, (1, 1): 14, (2, 0): 8, (2, 1): 14}
    for (rank, position), expected in offsets.items():
        batch = StepBatch(torch.zeros(0), None, None, None, torch.zeros(0), counts[rank], position, 0, rank, counts)
        assert (batch.row_offset, batch.step_tokens) == (expected, 20)
        tokens = RankTokens(batch.micro_counts, rank)
        assert tokens.total == (10, 10)[position]
        assert tokens.counts[rank] == batch.num_targets == counts[rank][position]
