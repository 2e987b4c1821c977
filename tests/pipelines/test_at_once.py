"""Commands that are killed at any moment, and two of them at once: no output is lost, mixed or left half-written."""

import hashlib
import json
import multiprocessing
import os
import re
import runpy
import shutil
import sys
import time
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from cutrec.workflow.checkpoints import COMPLETE
from tests.small_log import naming, small_log, write_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMALL = {
    "dataset": "log.parquet", "batch_size": 16, "max_seq_len": 8, "num_negatives": 8, "backbone.hidden": 16,
    "train.max_epochs": 12, "train.patience": 20, "evaluate.k": [1, 10],
}  # fmt: skip
STAGES = ("source", "download", "split", "train", "evaluate", "report")
COMMANDS = {
    **{name: [f"pipelines.{name}"] for name in STAGES},
    "recommend": ["cutrec.cli", "recommend", "--k", "5"],
    "refit": ["cutrec.cli", "recommend", "--k", "5", "--refit", "--out", "data/recommend/refit.parquet"],
    "describe": ["cutrec.cli", "describe"],
}
USER = "user 3!"
FORGET = {"forget": ["cutrec.cli", "forget", "--user", USER]}
TIMES = re.compile("seconds|second|peak|measured_at")
KILLS = 5
"""Of each command."""
TRIES = 2
"""Of each command that reads what `cutrec forget` rewrites."""


FORKS = multiprocessing.get_context("forkserver")
"""Commands start in a copy of a process that has imported the libraries: they spend their time on their work."""
FORKS.set_forkserver_preload(
    ["cutrec.workflow.evaluate", "cutrec.workflow.refit", "cutrec.workflow.report", "cutrec.workflow.split",
     "cutrec.workflow.train", "cutrec.workflow.user_copies", "rec_data.raw.normalise", "torch.utils.tensorboard"]
)  # fmt: skip


def execute(root: Path, errors: Path, arguments: list[str]) -> None:
    """Run ``python -m ARGUMENTS`` in this process, in a folder, with stderr in a file."""
    for path, stream in ((os.devnull, 1), (errors, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(root)
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__")


class Project:
    """A folder with a log and small parameters, where commands run as processes."""

    def __init__(self, root: Path, errors: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.errors = errors

    def start(self, name: str, place: int = 0) -> Any:
        """Start a command, which trains if it does at all; of those that run at once, each has a place."""
        self.remove_complete()
        process = FORKS.Process(target=execute, args=(self.root, self.errors / str(place), (COMMANDS | FORGET)[name]))
        process.start()
        return process

    def wait(self, process: Any, place: int = 0) -> tuple[int, str]:
        """The exit status of a command and what it wrote to stderr."""
        process.join()
        return process.exitcode, (self.errors / str(place)).read_text()

    def run(self, *names: str) -> None:
        """Run commands one after another."""
        for name in names:
            status, error = self.wait(self.start(name))
            assert status == 0, error

    def remove_complete(self) -> None:
        """Remove the states of complete trainings, which the same training would take."""
        for path in self.root.glob(f".checkpoints/*/{COMPLETE}"):
            shutil.rmtree(path.parent)

    def left(self) -> list[str]:
        """Files that only a process at work needs."""
        self.remove_complete()
        names = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*"))
        return [name for name in names if re.search(r"/\.|\.part|\.tmp|\.lock$|^\.checkpoints/", name)]

    def outputs(self) -> dict[str, Any]:
        """What the commands wrote, by name and without times."""
        found = (path for path in self.data.rglob("*") if path.is_file() and "tensorboard" not in path.parts)
        return {path.relative_to(self.data).as_posix(): content(path) for path in sorted(found)}


def content(path: Path) -> Any:
    """What a file holds, without times and memory; of a list of checksums the names, if the checksums are right."""
    if path.name == "SHA256SUMS":
        known = dict(reversed(line.split("  ")) for line in path.read_text().splitlines())
        assert known == {name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest() for name in known}
        return sorted(known)
    if path.suffix == ".json":
        values = json.loads(path.read_text())
        return (
            {key: value for key, value in values.items() if not TIMES.search(key)}
            if isinstance(values, dict)
            else values
        )
    if path.name in ("history.csv", "results.csv"):
        table = pl.read_csv(path)
        return table.select(name for name in table.columns if not TIMES.search(name)).to_dicts()
    if path.suffix == ".ckpt":
        weights = torch.load(path, weights_only=True)["weights"]
        return {name: tensor.tolist() for name, tensor in weights.items()}
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pydict()
    return path.suffix if path.suffix in (".html", ".png") else path.read_bytes()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("errors"))
    write_params(project.root, SMALL)
    small_log().write_parquet(project.root / "log.parquet")
    project.run(*COMMANDS)
    assert project.left() == []
    return project


@pytest.fixture(scope="module")
def undisturbed(project: Project) -> dict[str, Any]:
    return project.outputs()


def test_kills_at_random_moments_change_nothing(project: Project, undisturbed: dict[str, Any]):
    random = np.random.default_rng(0)
    killed = 0
    for name in COMMANDS:
        started = time.monotonic()
        project.run(name)
        seconds = time.monotonic() - started
        for moment in random.uniform(0.0, 1.0, KILLS) * seconds:
            process = project.start(name)
            time.sleep(moment)
            process.kill()
            killed += project.wait(process)[0] < 0
        project.run(name)
    assert killed >= 30
    assert project.outputs() == undisturbed
    assert project.left() == []


@pytest.mark.parametrize(("one", "two"), list(combinations_with_replacement(COMMANDS, 2)))
def test_two_at_once_end_well_or_one_is_refused_in_a_line(
    project: Project, undisturbed: dict[str, Any], one: str, two: str
):
    processes = [project.start(name, place) for place, name in enumerate((one, two))]
    refused = 0
    for place, process in enumerate(processes):
        status, text = project.wait(process, place)
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in text, text
        assert (status, len(errors)) in ((0, 0), (1, 1)), text
        refused += status
    assert not (refused and one == two)
    assert refused < 2
    assert project.outputs() == undisturbed
    assert project.left() == []


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose users are called ``user <number>!``, who are all tested; its data are kept in ``whole`` too."""
    project = Project(tmp_path_factory.mktemp("named"), tmp_path_factory.mktemp("errors"))
    write_params(project.root, SMALL | {"split.strategy": "leave_one_out", "batch_size": 128, "train.max_epochs": 1})
    log = small_log(users=1500).with_columns(pl.format("user {}!", "user_id").alias("user_id"))
    log.write_parquet(project.root / "log.parquet")
    project.run(*(name for name in COMMANDS if name not in ("refit", "describe")))
    shutil.copytree(project.data, project.root / "whole")
    assert naming(project.data, USER)
    return project


@pytest.mark.parametrize("name", ["split", "train", "evaluate", "report", "recommend"])
def test_nothing_names_a_user_who_was_forgotten_while_another_command_worked(named: Project, name: str):
    seconds = {}
    for each in (name, "forget"):
        started = time.monotonic()
        named.run(each)
        seconds[each] = time.monotonic() - started
    for part in np.random.default_rng(0).uniform(-1.0, 1.0, TRIES):
        shutil.rmtree(named.data)
        shutil.copytree(named.root / "whole", named.data)
        first, second = (name, "forget") if part > 0 else ("forget", name)
        processes = {first: named.start(first, 0)}
        time.sleep(abs(part) * seconds[first])
        processes[second] = named.start(second, 1)
        for place, each in enumerate((first, second)):
            status, text = named.wait(processes[each], place)
            errors = [line for line in text.splitlines() if line.startswith("error: ")]
            assert "Traceback" not in text, text
            assert (status, len(errors)) in ((0, 0), (1, 1)), text
            if status:
                assert each != "forget", text
                assert errors[0].endswith("found that another process wrote it while it was read; run this again")
        assert naming(named.data, USER) == []
        assert named.left() == []
