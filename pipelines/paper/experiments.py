"""What DVC knows of experiments: those run, running, queued and failed, with their parameters and metrics.

Needs DVC; `pipelines.measure` does without it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cutrec.environment import WRITTEN
from cutrec.errors import StageError

if TYPE_CHECKING:
    from dvc.repo import Repo

STATES = ("finished", "running", "queued", "failed")
"""In this order one of a name hides the others: a failed task stays listed when its experiment has been run again."""


@dataclass(frozen=True)
class Experiment:
    """One experiment."""

    name: str
    state: str
    """One of `STATES`."""
    baseline: str
    """The commit whose code it runs, in full."""
    params: dict[str, Any] = field(hash=False)
    """The mapping of its params.yaml."""
    training: dict[str, Any] = field(hash=False, default_factory=dict)
    """``data/train/metrics.json``; empty until it has finished."""
    evaluation: dict[str, Any] = field(hash=False, default_factory=dict)
    """``data/evaluate/metrics.json``; likewise."""
    finished_at: str | None = None
    commit: str = ""
    """The commit that holds it, in full."""
    edited: bool = False
    """Whether its code is known to differ from the baseline's: it was run, or queued, from an edited tree."""

    @property
    def has_metrics(self) -> bool:
        """Whether it left what a finished experiment leaves."""
        return "epoch_seconds" in self.training and "users" in self.evaluation


@contextmanager
def repository() -> Iterator[Repo]:
    """DVC's repository at the current directory; its errors become one line and a way out.

    Raises:
        StageError: no repository, or one that another command of DVC holds.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        with Repo() as repo:
            yield repo
    except LockError as error:
        raise StageError(
            f"another command of DVC is at work here ({_line(error)}): wait for it; `dvc queue status` shows tasks"
        ) from error
    except (DvcException, SCMError) as error:
        raise StageError(f"DVC: {_line(error)}") from error


def list_experiments(repo: Repo) -> list[Experiment]:
    """Every experiment of any commit, one a name and commit: finished hides running hides queued hides failed."""
    queue = repo.experiments.celery_queue
    entries = [*queue.iter_queued(), *queue.iter_active(), *queue.iter_failed()]
    baselines = {
        _head(),
        *_finished_baselines(),
        *(str(getattr(entry, "entry", entry).baseline_rev) for entry in entries),
    }
    best: dict[tuple[str, str], Experiment] = {}
    for experiment in parse(_show(sorted(baselines))):
        key = (experiment.name, experiment.baseline)
        other = best.get(key)
        if other is None or STATES.index(experiment.state) < STATES.index(other.state):
            best[key] = experiment
    return [replace(found, edited=found.state == "finished" and is_edited(found)) for found in best.values()]


def is_edited(experiment: Experiment) -> bool:
    """Whether the code in an experiment's commit differs from its baseline's; False where git lacks one of the two."""
    if not experiment.commit:
        return False
    command = ["git", "diff", "--quiet", experiment.baseline, experiment.commit, "--", ".", *WRITTEN]
    return subprocess.run(command, capture_output=True, check=False).returncode == 1  # noqa: S603


def parse(shown: Sequence[dict[str, Any]]) -> list[Experiment]:
    """The experiments in what ``dvc exp show --json`` prints, in its order.

    Metrics of an experiment that has not succeeded are those of the commit it started from: they are left out.
    """
    found = []
    for commit in shown:
        for entry in commit.get("experiments") or []:
            last = entry["revs"][0]
            data = last.get("data") or {}
            state = (entry.get("executor") or {}).get("state") or "success"
            done = state == "success" and not last.get("error")
            metrics = data.get("metrics") or {} if done else {}
            found.append(
                Experiment(
                    name=entry.get("name") or last["rev"][:7],
                    state="finished" if done else state if state in STATES else "failed",
                    baseline=commit["rev"],
                    params=((data.get("params") or {}).get("params.yaml") or {}).get("data") or {},
                    training=(metrics.get("data/train/metrics.json") or {}).get("data") or {},
                    evaluation=(metrics.get("data/evaluate/metrics.json") or {}).get("data") or {},
                    finished_at=data.get("timestamp") if done else None,
                    commit=last["rev"],
                )
            )
    return found


def queue(repo: Repo, name: str, overrides: Sequence[str]) -> None:
    """``dvc exp run --queue --name NAME -S ...``, without starting DVC anew for each."""
    repo.experiments.run(queue=True, name=name, params=list(overrides))


def forget_failed(repo: Repo, name: str) -> None:
    """``dvc queue remove NAME`` of a task that failed, so that it can be queued again."""
    repo.experiments.celery_queue.remove([name])


def _show(baselines: Sequence[str]) -> list[dict[str, Any]]:
    arguments = [part for baseline in baselines for part in ("--rev", baseline)]
    ran = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "dvc", "exp", "show", "--json", *arguments], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise StageError(f"dvc exp show: {_line(ran.stderr)}")
    shown: list[dict[str, Any]] = json.loads(ran.stdout)
    return [commit for commit in shown if commit["rev"] != "workspace"]


def _head() -> str:
    return _git("rev-parse", "HEAD")[0]


def _finished_baselines() -> set[str]:
    """Commits that have experiments: refs/exps/<two hex digits>/<38 more>/<name>."""
    parts = [line.split("/") for line in _git("for-each-ref", "--format=%(refname)", "refs/exps")]
    return {part[2] + part[3] for part in parts if len(part) >= 5 and len(part[2]) == 2}


def _git(*arguments: str) -> list[str]:
    ran = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if ran.returncode:
        raise StageError(f"git {arguments[0]}: {_line(ran.stderr)}")
    return ran.stdout.split()


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]
