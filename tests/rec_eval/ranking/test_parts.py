"""Rankings of a catalogue whose rows are spread over processes are those of one process, ties included."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_processes_rank_as_one():
    script = Path(__file__).with_name("parts_processes.py")
    ran = subprocess.run(
        [sys.executable, str(script)],
        check=False, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    report = json.loads(ran.stdout)
    assert list(report) == ["1", "2", "3", "5"]
    for everyone in report.values():
        for same in everyone:
            assert len(same) == 2
            assert all(same.values()), report
