"""Every command of the README, letter by letter and in its order, in a fresh clone.

Commands stand in the README's ``bash`` blocks. Two kinds of block without that mark are not run here: Docker's, which
need an engine, and the CPU build of PyTorch, which needs PyTorch's own package index.
"""

import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import polars as pl
import pytest

from tests.e2e.conftest import ROOT, Clone
from tests.e2e.test_experiments import wait_for_queue
from tests.small_log import small_log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the README calls /data."""
    folder = tmp_path_factory.mktemp("logs")
    small_log().write_parquet(folder / "events.parquet")
    small_log().head(200).write_csv(folder / "users.csv")
    names = {"visitor": pl.format("v{}", "user_id"), "page": pl.format("/{}.html", "item_id")}
    small_log().with_columns(**names).drop("user_id", "item_id").write_csv(folder / "visits.csv")
    positions = pl.int_range(pl.len()).over("user_id")
    small_log().with_columns(timestamp=positions).write_parquet(folder / "ml-1m-seq.parquet")
    return folder


def test_the_readme_has_the_commands_that_ci_runs():
    assert commands()[:2] == ["pip install uv && uv run dvc repro", "pip install uv && uv run pytest"]
    assert "uv run pytest" in (ROOT / ".ci/run").read_text()


def test_every_command_of_the_readme(clone: Clone, logs: Path):
    for command in commands():
        here = command.replace("/data/", f"{logs}/")
        if command.endswith("uv run pytest"):
            continue  # that is what runs this
        if "tensorboard" in command:
            serves(clone, here)
            continue
        if command == "uv run dvc queue start":
            done = clone.run("uv run dvc queue status").count("Success")  # other tests queue in this clone too
            clone.run(here)
            wait_for_queue(clone)
            assert clone.run("uv run dvc queue status").count("Success") == done + 4
            continue
        printed = clone.run(here)
        if "metrics diff" in command:
            assert re.search(r"data/evaluate/metrics.json +ndcg@10 +[\d.]+ +[\d.]+ +-?[\d.]+", printed), printed
        elif "plots" in command:
            page = Path(re.search(r"file://(\S+)", printed).group(1)).read_text()
            assert "Validation NDCG@10" in page
        elif "exp show" in command:
            assert all(name in printed for name in ("exact", "sampled", "ndcg@10", "peak_memory_gib"))
            assert "grid" not in printed


def serves(clone: Clone, command: str) -> None:
    """TensorBoard answers and knows the runs; on a free port, since 6006 may be somebody's."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    process = clone.start(f"exec {command} --port {port}", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        give_up = time.monotonic() + 90
        while time.monotonic() < give_up:
            try:
                with urllib.request.urlopen(f"http://localhost:{port}/data/runs", timeout=5) as answer:
                    runs = answer.read().decode()
            except OSError:
                runs = ""
            if "train" in runs and "evaluate" in runs:
                return
            time.sleep(1)
        raise AssertionError(f"TensorBoard does not serve the runs: {runs!r}")
    finally:
        process.kill()
        process.wait()
