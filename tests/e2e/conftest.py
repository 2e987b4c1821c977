"""A fresh clone with its own environment, as a new user has it: `uv run` there does everything from nothing.

Its params.yaml is made small (a log of 150 users, two short epochs), so that a whole pipeline takes seconds.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from tests.small_log import small_log

ROOT = Path(__file__).parents[2]
SMALL = {
    "dataset: demo": "dataset: {logs}/events.parquet",
    "batch_size: auto": "batch_size: 32",
    "max_seq_len: auto": "max_seq_len: 16",
    "num_negatives: auto": "num_negatives: 16",
    "hidden: auto": "hidden: 16",
    "max_epochs: auto": "max_epochs: 2",
}
HIDDEN = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST"}


@dataclass
class Clone:
    """A working copy of the repository in a folder of its own."""

    root: Path

    @property
    def data(self) -> Path:
        """Where the stages write."""
        return self.root / "data"

    def start(self, command: str, **options: object) -> subprocess.Popen[str]:
        """Start a shell command in the clone, without the environment variables that the tests themselves run with."""
        environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
        # DVC runs a stage through $SHELL. bash replaces itself by the stage's process; sh, the harder case, does not.
        environment |= {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", "SHELL": "/bin/sh"}
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.root,
            env=environment,
            text=True,
            **options,  # type: ignore[call-overload]
        )

    def run(self, command: str, *, fails: bool = False) -> str:
        """Run a shell command to its end and return what it printed, both streams together."""
        process = self.start(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        printed, _ = process.communicate(timeout=550)
        assert (process.returncode != 0) == fails, f"{command}\n{printed}"
        return printed

    def edit(self, name: str, replacements: dict[str, str]) -> None:
        """Replace words in a file."""
        text = (self.root / name).read_text()
        for before, after in replacements.items():
            text, found = re.subn(rf"\b{before}\b", after, text, count=1)
            assert found, before
        (self.root / name).write_text(text)

    def restore(self) -> None:
        """Bring every tracked file back as committed, except for the outputs.

        The index is deleted because git can miss an edit by DVC that keeps the length of a file within a second.
        """
        self.run("rm .git/index && git reset --quiet && git checkout --quiet -- . ':!data'")


def copy_repository(target: Path) -> None:
    """Copy what git tracks and what it does not ignore: the state that is being tested, committed or not."""
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
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the README calls /data."""
    folder = tmp_path_factory.mktemp("logs")
    small_log().write_parquet(folder / "events.parquet")
    small_log().head(200).write_csv(folder / "users.csv")
    write_visits(folder / "visits.csv", small_log(users=80))
    positions = pl.int_range(pl.len()).over("user_id")
    small_log().with_columns(timestamp=positions).write_parquet(folder / "ml-1m-seq.parquet")
    return folder


def write_visits(path: Path, log: pl.DataFrame) -> None:
    """A log with other names of columns and ids that are strings."""
    names = {"visitor": pl.format("v{}", "user_id"), "page": pl.format("/{}.html", "item_id")}
    log.with_columns(**names).drop("user_id", "item_id").write_csv(path)


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Clone:
    """Made once: files, environment, small params, first commit."""
    clone = Clone(tmp_path_factory.mktemp("clone") / "cutrec")
    clone.root.mkdir()
    copy_repository(clone.root)
    clone.edit("params.yaml", {before: after.format(logs=logs) for before, after in SMALL.items()})
    (clone.root / "dvc.lock").unlink(missing_ok=True)
    clone.run(
        "git init --quiet --initial-branch main && git config user.name test && git config user.email test@localhost"
        " && git add --all && git commit --quiet --message start && uv sync --quiet"
    )
    return clone
