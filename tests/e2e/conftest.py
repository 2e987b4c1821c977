"""A fresh clone with its own environment, as a new user has it: `uv run` there does everything from nothing.

Its params.yaml is made small (a log of 150 users, two short epochs), so that a whole pipeline takes seconds.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.small_log import small_log

ROOT = Path(__file__).parents[2]
SMALL = {
    "dataset: demo": "dataset: {log}",
    "batch_size: 128": "batch_size: 32",
    "max_seq_len: 64": "max_seq_len: 16",
    "num_negatives: 512": "num_negatives: 16",
    "hidden: 64": "hidden: 16",
    "max_epochs: 20": "max_epochs: 2",
}


HIDDEN = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST"}


@dataclass
class Clone:
    """A working copy of the repository in a folder of its own."""

    root: Path

    def start(self, command: str, **options: object) -> subprocess.Popen[str]:
        """Start a shell command in the clone, free of the environment that the tests themselves run in."""
        environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
        # DVC runs a stage through $SHELL. bash makes way for the stage's process; sh, the harder case, stays.
        environment |= {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", "SHELL": "/bin/sh"}
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.root,
            env=environment,
            text=True,
            **options,  # type: ignore[call-overload]
        )

    def run(self, command: str, *, fails: bool = False) -> str:
        """Run a shell command to its end; return what it printed, both streams together."""
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        printed, _ = process.communicate(timeout=550)
        assert (process.returncode != 0) == fails, f"{command}\n{printed}"
        return printed


def copy_repository(target: Path) -> None:
    """What git tracks and what it does not ignore: a clone of the state that is being tested, committed or not."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@pytest.fixture(scope="session")
def whole_clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Made once: files, environment, small params, first commit."""
    folder = tmp_path_factory.mktemp("clone")
    log = folder / "small.parquet"
    small_log().write_parquet(log)
    clone = Clone(folder / "cutrec")
    clone.root.mkdir()
    copy_repository(clone.root)
    params = clone.root / "params.yaml"
    text = params.read_text()
    for before, after in SMALL.items():
        text, found = re.subn(rf"\b{before}\b", after.format(log=log), text, count=1)
        assert found, before
    params.write_text(text)
    (clone.root / "dvc.lock").unlink(missing_ok=True)
    clone.run(
        "git init --quiet --initial-branch main && git config user.name test && git config user.email test@localhost"
        " && git add --all && git commit --quiet --message start && uv sync --quiet"
    )
    return clone


@pytest.fixture
def clone(whole_clone: Clone) -> Iterator[Clone]:
    """The clone as it was committed, without outputs; its environment and DVC's cache stay.

    The index goes: DVC writes it so that git can miss an edit of the same length made within a second.
    """
    whole_clone.run("git checkout --quiet --force main && rm .git/index && git reset --quiet --hard && git clean -fdq")
    shutil.rmtree(whole_clone.root / "data", ignore_errors=True)
    shutil.rmtree(whole_clone.root / ".checkpoints", ignore_errors=True)
    whole_clone.run("git checkout --quiet -- .")
    return whole_clone
