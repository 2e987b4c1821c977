"""The script for a Spark cluster, in local mode: the lists of `cutrec recommend`, for the same users in each part."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from cutrec.cli import execute
from tests.docs.pages import ROOT, commands
from tests.small_model import write_trained

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed (cutrec[spark])"),
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, and there is no java here"),
]


def test_the_command_of_the_page_gives_the_lists_of_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (command,) = [line for line in commands(ROOT / "docs/score-all-users.md", "sh") if line.startswith("spark-submit")]
    folder = write_trained(tmp_path)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    words = command.replace('"', "").replace("docs/score_on_spark.py", str(ROOT / "docs/score_on_spark.py")).split()
    place = Path(sys.executable).with_name("spark-submit")
    done = subprocess.run([str(place), *words[1:], "--part", "1/2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    execute(["recommend", "--part", "1/2", "--out", "ours"])
    found, expected = (pl.read_parquet(f"{name}/*.parquet").sort("user_id", "rank") for name in ("lists", "ours"))
    assert len(found)
    assert found.drop("score").equals(expected.drop("score").cast(found.drop("score").schema))
    assert found["score"].to_numpy() == pytest.approx(expected["score"].to_numpy(), rel=1e-4, abs=1e-4)
