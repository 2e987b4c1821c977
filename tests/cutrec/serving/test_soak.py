"""A server in a process of its own: load, reloads, clients that hang up, and SIGTERM."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "packages/cutrec/benchmarks/serve_soak.py"


@pytest.mark.slow
def test_no_answer_is_wrong_or_lost_with_reloads_and_clients_that_hang_up(tmp_path: Path):
    command = [sys.executable, SCRIPT, "--folder", tmp_path, "--minutes", "0.1", "--items", "300", "--clients", "4"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)
    assert found["wrong or lost"] == found["tracebacks"] == 0
    assert found["reloaded"] >= 2
    assert found["answered while stopping"] == 3
    assert len([name for name in found if name.startswith("by ")]) == 2  # both models
    assert min(found["answered"], found["refused"], found["hung up"]) > 0
