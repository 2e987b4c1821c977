"""Commands that are killed at any moment, and several at once: no output is lost, mixed or left half-written.

Every two commands that write what others read are at work at once in one of the groups of four. Those that only hand a
model over write to folders of their own: they run beside each other, and beside two that replace models and a server of
one. Those that only print do not run beside themselves: they leave every file as it is. `dvc exp run`, whose stages are
those of here, is at work beside all others in one test; beside one more `dvc exp run`, and beside what changes its
parameters, as `cutrec reset` does, in test_stage.py.
"""

import hashlib
import json
import multiprocessing
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from cutrec.checksums import verify_folder
from cutrec.config import read_yaml
from cutrec.workflow.checkpoints import COMPLETE
from cutrec.workflow.tune_study import MOST_STARTS
from tests.e2e.conftest import copy_repository
from tests.small_log import naming, small_log, write_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMALL = {
    "dataset": "log.parquet", "batch_size": 16, "max_seq_len": 8, "num_negatives": 8, "backbone.hidden": 16,
    "train.max_epochs": 4, "train.patience": 20, "evaluate.k": [1, 10],
}  # fmt: skip
STAGES = ("source", "download", "split", "train", "evaluate", "report")
PRINT = {
    "user": ["cutrec.cli", "recommend", "--user", "3"],
    "compare": ["cutrec.cli", "compare", "workspace", "kept"],
    "plan": ["cutrec.cli", "plan"],
    "serve": ["cutrec.cli", "serve", "--port", "0"],
}
"""Commands that write nothing."""
COMMANDS = {
    **{name: [f"pipelines.{name}"] for name in STAGES},
    "recommend": ["cutrec.cli", "recommend", "--k", "5"],
    "refit": ["cutrec.cli", "recommend", "--k", "5", "--refit", "--out", "data/recommend/refit.parquet"],
    "describe": ["cutrec.cli", "describe"],
    "histories": ["cutrec.cli", "recommend", "--histories", "log.parquet", "--out", "data/recommend/histories.csv"],
    "tune": ["cutrec.cli", "tune", "--trials", "2", "--name", "shop", "--overwrite", "-S", "train.max_epochs=2"],
    "backtest": ["cutrec.cli", "backtest", "--windows", "2", "-S", "train.max_epochs=1"],
    "reset": ["cutrec.cli", "reset"],
    "update": ["cutrec.cli", "update", "--log", "new_days.parquet"],
    **{name: command for name, command in PRINT.items() if name not in ("plan", "serve")},
}
HAND_OVER = {
    "index": ["cutrec.cli", "index", "--histories", "20"],
    "drift": ["cutrec.cli", "drift", "log.parquet", "later.parquet", "--model", "data/train"],
    "promote": ["cutrec.cli", "promote", "data/train", "data/running"],
    "export": ["cutrec.cli", "export", "--out", "data/export/encoder.pt2"],
}
"""Commands that write what no other command reads."""
KILLED = ("update", "tune", "backtest", "recommend", "refit", "describe", *STAGES)
PRODUCTS = ((0, 0, 0, 0), (0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2))
"""Of the field of four elements, whose sums are those of bits without carry."""
GROUPS = [
    *(range(4 * x, 4 * x + 4) for x in range(4)),
    *([4 * x + (PRODUCTS[slope][x] ^ start) for x in range(4)] for slope in range(4) for start in range(4)),
]
"""The lines of the affine plane of order 4: each two of the 16 commands are in one group."""
USER = "user 3!"
FORGET = {"forget": ["cutrec.cli", "forget", "--user", USER]}
TIMES = re.compile("second|waited|peak|measured_at")
KILLS = 4
"""Of each command."""
RUN_AGAIN = "found that another process wrote it while it was read; run this again"
TRIES = 2
"""Of each command that reads what `cutrec forget` rewrites."""


FORKS = multiprocessing.get_context("forkserver")
"""Commands start in a copy of a process that has imported the libraries: they spend their time on their work."""
FORKS.set_forkserver_preload(
    ["cutrec.arguments", "cutrec.reporting.compare", "cutrec.reporting.drift", "cutrec.serving.build_index",
     "cutrec.serving.run", "cutrec.workflow.backtest", "cutrec.workflow.drift", "cutrec.workflow.evaluate",
     "cutrec.workflow.plan", "cutrec.workflow.promote", "cutrec.workflow.refit", "cutrec.workflow.report",
     "cutrec.workflow.split", "cutrec.workflow.train", "cutrec.workflow.tune", "cutrec.workflow.update",
     "cutrec.workflow.user_copies", "pandas", "pipelines.stage", "rec_data.raw.normalise", "torch.export",
     "torch.utils.tensorboard"]
)  # fmt: skip


def execute(root: Path, printed: tuple[Path, Path], arguments: list[str]) -> None:
    """Run ``python -m ARGUMENTS`` in this process, in a folder, with stdout and stderr in files."""
    for stream, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(root)
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__")


class Project:
    """A folder with a log and small parameters, where commands run as processes."""

    def __init__(self, root: Path, printed: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.printed = printed
        self.seconds: dict[str, float] = {}
        """How long each command took alone."""

    def streams(self, place: int) -> tuple[Path, Path]:
        """What the command at a place writes to stdout and stderr."""
        return self.printed / f"{place}.out", self.printed / f"{place}.err"

    def start(self, name: str, place: int = 0) -> Any:
        """Start a command, which trains if it does at all; of those that run at once, each has a place."""
        self.remove_complete()
        self.streams(place)[1].write_text("")  # of the last one here
        arguments = (self.root, self.streams(place), (COMMANDS | PRINT | HAND_OVER | FORGET)[name])
        process = FORKS.Process(target=execute, args=arguments, name=name)
        process.start()
        return process

    def wait(self, process: Any, place: int = 0) -> tuple[int, str]:
        """The exit status of a command and what it wrote to stderr; a server is stopped as soon as it answers."""
        while process.name == "serve" and process.is_alive():
            if "running on" in self.streams(place)[1].read_text():
                process.terminate()
                break
            time.sleep(0.02)
        process.join()
        return process.exitcode, self.streams(place)[1].read_text()

    def run(self, *names: str) -> None:
        """Run commands one after another."""
        for name in names:
            started = time.monotonic()
            status, error = self.wait(self.start(name))
            assert status == 0, error
            self.seconds.setdefault(name, time.monotonic() - started)

    def start_again(self, *names: str) -> None:
        """Remove what commands would go on with."""
        for name, folder in (("tune", self.root / ".tune"), ("backtest", self.data / "backtest")):
            if name in names:
                shutil.rmtree(folder)

    def remove_complete(self) -> None:
        """Remove the states of complete trainings, which the same training would take."""
        for path in self.root.glob(f".checkpoints/*/{COMPLETE}"):
            shutil.rmtree(path.parent)

    def left(self) -> list[str]:
        """Files that only a process at work needs."""
        self.remove_complete()
        names = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*"))
        names = (name for name in names if not name.startswith((".git/", ".tune/")) and not name.endswith("/.complete"))
        return [name for name in names if re.search(r"/\.|\.part|\.tmp|\.lock$|^\.checkpoints/", name)]

    def outputs(self) -> dict[str, Any]:
        """What the commands wrote, by name and without times."""
        found = (path for path in self.data.rglob("*") if path.is_file() and "tensorboard" not in path.parts)
        files = {path.relative_to(self.data).as_posix(): content(path) for path in sorted(found)}
        return files | {"params.yaml": read_yaml(self.root / "params.yaml")}


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
    if path.name in ("history.csv", "results.csv", "training.csv"):
        table = pl.read_csv(path)
        return table.select(name for name in table.columns if not TIMES.search(name)).to_dicts()
    if path.suffix == ".safetensors":
        return {name: tensor.tolist() for name, tensor in load_file(path).items()}
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pydict()
    return path.suffix if path.suffix in (".html", ".png", ".usearch", ".pt2") else path.read_bytes()


def write_logs(root: Path) -> None:
    """The log, and events of the days after it."""
    log = small_log()
    log.write_parquet(root / "log.parquet")
    days = log.filter(pl.col("user_id") < 50).with_columns(pl.col("timestamp") + 300 * 86_400)
    days.write_parquet(root / "new_days.parquet")
    begin = log["timestamp"].max() - 100 * 86_400
    later = log.filter(pl.col("timestamp").is_between(begin, begin + 10 * 86_400))
    later.with_columns(pl.col("timestamp") + 101 * 86_400).write_parquet(root / "later.parquet")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("errors"))
    write_params(project.root, SMALL)
    write_logs(project.root)
    commit = "git init -q && git add -A && git -c user.name=t -c user.email=t@localhost commit -qm start"
    subprocess.run(commit, shell=True, cwd=project.root, check=True)
    project.run("source")  # starts what the commands are copies of
    project.seconds.clear()
    project.run(*STAGES)
    (project.root / "kept").mkdir()
    shutil.copy2(project.data / "evaluate/per_user.parquet", project.root / "kept")
    project.run(*(name for name in (*COMMANDS, *HAND_OVER, "serve") if name not in STAGES))
    assert project.left() == []
    return project


@pytest.fixture(scope="module")
def undisturbed(project: Project) -> dict[str, Any]:
    return project.outputs()


def test_commands_that_print_write_nothing(project: Project):
    def state() -> dict[Path, tuple[int, int]]:
        return {path: ((at := path.stat()).st_ino, at.st_mtime_ns) for path in project.root.rglob("*")}

    for name in PRINT:
        before = state()
        project.run(name)
        assert state() == before


def test_kills_at_random_moments_change_nothing(project: Project, undisturbed: dict[str, Any]):
    random = np.random.default_rng(0)
    killed = 0
    for name in KILLED:
        project.start_again(name)
        # A trial that is killed MOST_STARTS times in one epoch has failed, as if it needed too much memory.
        kills = MOST_STARTS - 1 if name == "tune" else KILLS
        for moment in (np.arange(kills) + random.uniform(0.0, 1.0, kills)) / kills * project.seconds[name]:
            process = project.start(name)
            time.sleep(moment)
            process.kill()
            killed += project.wait(process)[0] < 0
            verify_folder(project.data / "update/train")  # what is being served
        project.run(name)
    # Where other work has slowed down the measured run, commands end before their moment. Even if that took four times
    # as long, the first moment of each command, in the first quarter (of tune: half), is not too late.
    assert killed >= len(KILLED) - 1
    assert project.outputs() == undisturbed
    assert project.left() == []


@pytest.mark.parametrize(
    "names",
    [
        *([list(COMMANDS)[place] for place in group] for group in GROUPS),
        *([name, name] for name in COMMANDS if name not in PRINT),
        ["train", "update", "serve", *HAND_OVER],
        [*HAND_OVER, *HAND_OVER],
    ],
    ids="+".join,
)
def test_commands_at_once_end_well_or_are_refused_in_a_line(
    project: Project, undisturbed: dict[str, Any], names: list[str]
):
    """They begin at once, or end at about the same time."""
    project.start_again(*names)
    names.sort(key=project.seconds.__getitem__, reverse=True)
    processes = []
    for place, name in enumerate(names):
        processes.append(project.start(name, place))
        if "source" in names or "train" in names:
            time.sleep(project.seconds[name] - project.seconds[names[min(place + 1, len(names) - 1)]])
    refused = []
    for place, (name, process) in enumerate(zip(names, processes, strict=True)):
        status, text = project.wait(process, place)
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in text, text
        assert (status, len(errors)) in ((0, 0), (1, 1)), text
        assert all(line.endswith(RUN_AGAIN) for line in errors), (name, text)
        refused += [name] * status
    assert len(refused) < len(names)
    assert not (refused and names[0] == names[1])
    project.run(*refused)
    assert project.outputs() == undisturbed
    assert project.left() == []


def test_an_experiment_ends_as_alone_beside_other_commands(
    project: Project, undisturbed: dict[str, Any], tmp_path: Path
):
    """Each of them ends well too, or is refused in a line: DVC removes the outputs of a stage before it runs."""
    alone, kept = of_stages(undisturbed), project.root / "kept"
    project = Project(tmp_path / "project", tmp_path)
    copy_repository(project.root)
    (project.root / "dvc.lock").unlink(missing_ok=True)
    write_params(project.root, SMALL)
    write_logs(project.root)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    commit = "git init -q && git add -A && git -c user.name=t -c user.email=t@localhost commit -qm start"
    subprocess.run(commit, shell=True, cwd=project.root, check=True)
    shutil.copytree(kept, project.root / "kept")
    for name in STAGES:  # what the others read before the experiment has made its own
        shutil.copytree(kept.parent / "data" / name, project.data / name, dirs_exist_ok=True)
    with (tmp_path / "dvc").open("w") as printed:
        experiment = subprocess.Popen(
            ["dvc", "exp", "run"], cwd=project.root, env=environment, stdout=printed, stderr=printed
        )
        others = cycle(name for name in (*HAND_OVER, "serve", *COMMANDS) if name not in (*STAGES, "reset"))
        while experiment.poll() is None:
            name = next(others)
            status, text = project.wait(project.start(name))
            errors = [line for line in text.splitlines() if line.startswith("error: ")]
            assert "Traceback" not in text, text
            assert (status, len(errors)) in ((0, 0), (1, 1)), (name, text)
    assert experiment.returncode == 0, (tmp_path / "dvc").read_text()
    assert of_stages(project.outputs()) == alone


def of_stages(outputs: dict[str, Any]) -> dict[str, Any]:
    """Of these outputs those that the stages wrote, without what names the checkout."""
    others = (".gitignore", "source/fingerprint.json", "report/results.csv")
    return {path: held for path, held in outputs.items() if path.startswith(STAGES) and not path.endswith(others)}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose users are called ``user <number>!``, who are all tested; its data are kept in ``whole`` too."""
    project = Project(tmp_path_factory.mktemp("named"), tmp_path_factory.mktemp("errors"))
    write_params(project.root, SMALL | {"split.strategy": "leave_one_out", "batch_size": 128, "train.max_epochs": 1})
    log = small_log(users=1500).with_columns(pl.format("user {}!", "user_id").alias("user_id"))
    log.write_parquet(project.root / "log.parquet")
    project.run(*STAGES, "recommend")
    shutil.copytree(project.data, project.root / "whole")
    assert naming(project.data, USER)
    project.run("forget")
    return project


@pytest.mark.parametrize("name", ["split", "train", "evaluate", "report", "recommend"])
def test_nothing_names_a_user_who_was_forgotten_while_another_command_worked(named: Project, name: str):
    for part in np.random.default_rng(0).uniform(-1.0, 1.0, TRIES):
        shutil.rmtree(named.data)
        shutil.copytree(named.root / "whole", named.data)
        first, second = (name, "forget") if part > 0 else ("forget", name)
        processes = {first: named.start(first, 0)}
        time.sleep(abs(part) * named.seconds[first])
        processes[second] = named.start(second, 1)
        for place, each in enumerate((first, second)):
            status, text = named.wait(processes[each], place)
            errors = [line for line in text.splitlines() if line.startswith("error: ")]
            assert "Traceback" not in text, text
            assert (status, len(errors)) in ((0, 0), (1, 1)), text
            if status:
                assert each != "forget", text
                assert errors[0].endswith(RUN_AGAIN)
        assert naming(named.data, USER) == []
        assert named.left() == []
