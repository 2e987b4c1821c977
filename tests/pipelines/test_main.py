"""``python -m pipelines STAGE``: the code of the folder that it is started in runs, whatever is installed."""

import os
import subprocess
import sys
from pathlib import Path

from pipelines.__main__ import PACKAGES
from tests.small_log import ROOT

PROBE = """
import json, os, cutrec, pipelines, rec_models
print(cutrec.__file__, rec_models.__file__, pipelines.__file__, os.environ["OMP_WAIT_POLICY"])
"""


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "packages/cutrec/src")}
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_stage_runs_with_the_packages_of_the_copy_that_it_is_started_in(tmp_path: Path):
    names = ["pipelines", *(f"packages/{name}/src/{name.replace('-', '_')}" for name in PACKAGES)]
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "pipelines/__main__.py").write_text((ROOT / "pipelines/__main__.py").read_text())
    (tmp_path / "pipelines/probe.py").write_text(PROBE)
    ran = start(tmp_path, "probe")
    *files, policy = ran.stdout.split()
    assert all(Path(file).is_relative_to(tmp_path) for file in files), ran
    assert policy == "passive"


def test_all_packages_of_the_repository_are_on_the_path():
    assert sorted(PACKAGES) == sorted(path.name for path in (ROOT / "packages").iterdir())


def test_without_a_stage_it_says_which_there_are():
    for arguments, code in (([], 2), (["--help"], 0)):
        ran = start(ROOT, *arguments)
        assert "source, download, split, train, evaluate and report" in ran.stdout
        assert ran.returncode == code
