"""The commands of the pages about production run as they stand, and the script for the night does what it says."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cutrec.cli import execute
from cutrec.paths import LOG, MODEL
from rec_data.splits.split import split_log
from tests.docs.pages import ROOT, commands
from tests.small_log import small_log
from tests.small_model import write_model, write_trained

DAY = 86_400


def daily_log(days: int) -> pl.DataFrame:
    """The events of so many days, which later logs repeat."""
    random = np.random.default_rng(0)
    frame = small_log(users=60).select(pl.all().repeat_by(8).explode()).sort("user_id")
    times = 1_700_000_000 + random.integers(0, 30 * DAY, len(frame))
    return frame.with_columns(timestamp=pl.Series(times)).filter(pl.col("timestamp") < 1_700_000_000 + days * DAY)


@pytest.mark.parametrize("page", ["score-all-users.md", "watch.md"])
def test_the_commands_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(write_trained(tmp_path))
    daily_log(29).write_parquet("old.parquet")
    daily_log(30).write_parquet("new.parquet")
    found = commands(ROOT / "docs" / page, "bash")
    for command in found:
        assert command.startswith("uv run cutrec ")
        execute(shlex.split(command)[3:])
    assert len(found) >= 2
    expected = {"score-all-users.md": "data/recommend/lists/_SUCCESS", "watch.md": "data/drift/drift.html"}
    assert Path(expected[page]).is_file()


@pytest.mark.slow
def test_a_night_promotes_the_new_model_and_scores_everybody(tmp_path: Path):
    """`dvc repro` is replaced by a copy of what it would write."""
    checkout = write_trained(tmp_path / "checkout")
    old, new = daily_log(29), daily_log(30)
    old.write_parquet(checkout / LOG)
    (checkout / LOG).with_name("summary.json").write_text("{}")
    fresh = tmp_path / "fresh"
    for name in ("download", "split"):
        (fresh / "data" / name).mkdir(parents=True)
    shutil.copyfile(checkout / "params.yaml", fresh / "params.yaml")
    new.write_parquet(fresh / LOG)
    shutil.copyfile((checkout / LOG).with_name("summary.json"), (fresh / LOG).with_name("summary.json"))
    split_log(fresh / LOG, fresh / "data/split")
    write_model(fresh, seed=1)
    (tmp_path / "dvc.sh").write_text(f'rm -rf data/"${{2:-train}}"; cp -R {fresh}/data/. data/\n')
    (checkout / "docs").mkdir()
    script = shutil.copy(ROOT / "docs/retrain_nightly.sh", checkout / "docs")
    (tmp_path / "versions").mkdir()
    shutil.copytree(checkout / MODEL.parent, tmp_path / "versions/first")
    (tmp_path / "running").symlink_to("versions/first")
    environment = os.environ | {
        "RUNNING": str(tmp_path / "running"), "LISTS": str(tmp_path / "lists"), "RELOAD": "echo reloaded",
        "CUTREC": f"{sys.executable} -m cutrec.cli", "DVC": f"sh {tmp_path}/dvc.sh",
    }  # fmt: skip
    done = subprocess.run(["sh", script], env=environment, capture_output=True, text=True, check=False)
    decision = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])
    assert json.loads((checkout / "data/drift/drift.json").read_text())["b"] == "data/download"
    promoted = decision["decision"] == "promote"
    assert (done.returncode == 0) == promoted == ("reloaded" in done.stdout), done.stderr
    running = (tmp_path / "running").resolve().name
    assert (running == "first") != promoted
    (lists,) = (tmp_path / "lists").iterdir()
    assert lists.name.endswith(running)
    assert (lists / "_SUCCESS").is_file()
    assert pl.read_parquet(lists / "*.parquet")["user_id"].n_unique() == new["user_id"].n_unique()
