"""Losses over a table that is sharded over 2 and 3 processes, through gloo, against one process in float64."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sharded_cases import CASES, WEIGHTED_CASES

SCRIPT = Path(__file__).parents[1] / "sharded_processes.py"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What every process of two and of three found; all of it in one start, because that takes seconds."""
    return run(tmp_path_factory.mktemp("processes"), "cpu")


def run(folder, kind):
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), kind],
        check=False, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    return {int(ranks): found for ranks, found in json.loads(ran.stdout).items()}


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_together_are_one(reports, ranks):
    """Loss, dH, dW and db of every process, for every loss, sampler and sharing."""
    names = [str(case) for case in CASES + WEIGHTED_CASES] + ["token weights", "log-sum-exp", "no tokens"]
    for found in reports[ranks]:
        assert list(found["differences"]) == names
        assert {name: error for name, error in found["differences"].items() if not error < 1e-10} == {}


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_second_run_has_the_same_bits(reports, ranks):
    assert all(found["same"] for found in reports[ranks])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rows", "weight: found 100 rows, allowed: the 64 rows of this process, of 100"),
        ("type", "shard: found int, allowed: a Shard or None"),
        ("sparse", "sparse_grad: found True with shard, allowed: False"),
        ("lse", "return_lse: found True with shard, allowed: False with sampled negatives"),
        ("predicted", "return_predicted: found True with shard, allowed: False"),
        ("tokens", "targets: found 3, 4 tokens in the processes, allowed: as many in each"),
        ("smoothing", "label_smoothing: found 0.1 with shard, allowed: 0"),
        ("items", "item_weights: found the shape [64], allowed: [V], [100]"),
        ("sets", "targets: found 1 per token with shard, allowed: one"),
        ("target", "targets: found an id out of range, allowed: [0, 100)"),
        ("offset", "row_offset: found a tensor [2] of torch.int64"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(reports, name, message):
    first, second = (found["errors"] for found in reports[2])
    assert first[name].startswith(message)
    assert second[name].split(",")[-1] == first[name].split(",")[-1] or name == "rows"


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_together_are_one_launched_and_recorded(tmp_path):
    """Differences are in units of the bound of each dtype; most sums by atomics are not compared to the bit."""
    for found in run(tmp_path, "cuda")[2]:
        assert {name: error for name, error in found["differences"].items() if not error < 1} == {}
        assert all(same for name, same in found["recorded"].items() if name.startswith("full") or "determin" in name)
