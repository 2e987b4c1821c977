"""A row of the paper's tables with one flag: `dvc exp run` in a copy of the repository, on a small synthetic log."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import copy_repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GIT = "git init -q -b main && git add -A && git -c user.name=test -c user.email=test@localhost commit -qm start"


def test_one_flag_trains_a_row_and_rows_of_a_data_set_share_its_split(tmp_path: Path):
    def run(command: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ran(printed: str) -> list[str]:
        return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage ")]

    copy_repository(tmp_path)
    (tmp_path / "dvc.lock").unlink(missing_ok=True)
    run(GIT)
    printed = run("dvc exp run -n changed -S row=3/beauty -S row_data=twin@0.0001 -S train.max_epochs=1 split")
    assert ran(printed) == ["source", "download", "split"]
    assert "note: beside row=3/beauty: train.max_epochs=1" in printed
    run("git show HEAD:params.yaml > params.yaml")
    printed = run("dvc exp run -n plain -S row=4/beauty -S row_data=twin@0.0001")
    assert ran(printed) == ["source", "train", "evaluate", "report"]
    assert "note: beside row" not in printed
    metrics = json.loads((tmp_path / "data/train/metrics.json").read_text())
    assert metrics["epochs"] > 1
    assert "results are of no point of the paper's tables, or of a twin of another scale" in run(
        "python -m pipelines tables --table 4"
    )
