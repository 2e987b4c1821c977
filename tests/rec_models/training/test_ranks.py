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
FAST = [
    "cce", "sce-ties", "cce_neg-in_batch-none", "cce_neg-mixed-tile", "filled-mixed", "a-rank-ends", "sharded-cce",
    "sharded-cce_neg-mixed-tile", "sharded-two-micro-batches", "sharded-filled-uniform", "sharded-adam_lazy",
]  # fmt: skip


def test_processes_together_are_one():
    reports, _ = run(FAST)
    assert set(reports["1"]) == set(FAST)
    assert_equal(reports)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_another_number_of_processes():
    """Over 1, 2, 3 and 1 processes, the table sharded and at last whole: the weights are those of one process."""
    report, said = run(["resumed", "cce"])
    found, ended = report["resumed"], "devices: found that another process of this run has ended"
    assert found["0"] is None
    assert found["1"].startswith(ended)
    assert found["2"].startswith(ended)
    assert_same(found["whole"], found["3"], "resumed")
    lines = [line.partition(": ")[2] for line in said.splitlines() if line.startswith("resuming")]
    assert lines == [
        "epoch 1, batch 1; 2 processes of 3 sequences after 1 process of 6 sequences: exact",
        "epoch 1, batch 2; 3 processes of 2 sequences after 2 processes of 3 sequences: exact",
        "epoch 1, batch 3; 1 process of 6 sequences after 3 processes of 2 sequences: exact",
        "epoch 1, batch 0; 1 process of 6 sequences after 2 processes of 6 sequences read other batches: "
        "the epoch starts again",
    ]
    assert found["other"]["step"] == 2 + 4


@pytest.mark.slow
def test_processes_together_are_one_with_every_loss_sampler_and_sharing():
    reports, _ = run([])
    assert len(reports["1"]) > 50
    assert_equal(reports)


def run(names):
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *names],
        check=False, capture_output=True, text=True, timeout=500, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout), ran.stderr


def assert_equal(reports):
    for ranks in ("2", "3"):
        for name, expected in reports["1"].items():
            found = reports[ranks][name]
            if name == "a-rank-ends":
                assert found.startswith("devices: found that another process of this run has ended")
                continue
            assert_same(expected, found, (ranks, name))


def assert_same(expected, found, name):
    assert (found["step"], found["tokens"]) == (4, expected["tokens"]), name
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-10), name
    for parameter, values in expected["weights"].items():
        assert found["weights"][parameter] == pytest.approx(values, abs=1e-10), (name, parameter)


def test_a_process_ends_when_the_one_that_started_it_has_ended():
    script = (
        "import os, time; from rec_models.training.ranks import end_with_parent\n"
        "if os.fork() == 0: end_with_parent(); time.sleep(60)\n"
        "else: time.sleep(0.5); os._exit(0)"
    )
    ran = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=50)
    assert ran.stderr == "devices: found that the first process of this run has ended; its own message says why\n"


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
