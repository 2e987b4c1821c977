"""What DVC knows about experiments: finished, running, queued and failed ones, with their parameters and metrics.

Needs DVC; `pipelines.measure` does not use this module.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from cutrec import config
from cutrec.config_point import Config
from cutrec.decide import with_decisions
from cutrec.environment import WRITTEN
from cutrec.errors import ConfigError, StageError
from cutrec.paths import SETTINGS
from cutrec.reporting.results_file import Result, of_run

if TYPE_CHECKING:
    from dvc.repo import Repo

STATES = ("finished", "running", "queued", "failed")
"""In order of precedence for one name: a failed task stays listed after its experiment has been run again."""


@dataclass(frozen=True)
class Experiment:
    """One experiment."""

    name: str
    state: str
    """One of `STATES`."""
    baseline: str
    """The full hash of the commit whose code it runs."""
    params: dict[str, Any] = field(hash=False)
    """The mapping of its params.yaml."""
    training: dict[str, Any] = field(hash=False, default_factory=dict)
    """``data/train/metrics.json``; empty until the experiment has finished."""
    evaluation: dict[str, Any] = field(hash=False, default_factory=dict)
    """``data/evaluate/metrics.json``; empty until the experiment has finished."""
    finished_at: str | None = None
    commit: str = ""
    """The full hash of the commit that holds the experiment."""
    edited: bool = False
    """Whether its code is known to differ from the baseline's because it was run or queued from an edited tree."""

    @property
    def has_metrics(self) -> bool:
        """Whether it has the metrics of a finished experiment."""
        return "epoch_seconds" in self.training and "users" in self.evaluation


@contextmanager
def repository() -> Iterator[Repo]:
    """DVC's repository in the current directory; errors of DVC become one line that says what to do.

    Raises:
        StageError: there is no repository, or another DVC command holds its lock.
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
    """The experiments of all commits, one per name and commit: the first of `STATES` if there are several."""
    from dvc.repo.experiments.utils import exp_refs_by_baseline

    queue = repo.experiments.celery_queue
    entries = [*queue.iter_queued(), *queue.iter_active(), *queue.iter_failed()]
    queued = {str(getattr(entry, "entry", entry).baseline_rev) for entry in entries}
    baselines = {repo.scm.get_rev(), *exp_refs_by_baseline(repo.scm), *queued}
    shown = repo.experiments.show(revs=sorted(baselines), hide_workspace=True)
    best: dict[tuple[str, str], Experiment] = {}
    found = parse([commit.dumpd() for commit in shown])
    for experiment in sorted(found, key=lambda experiment: STATES.index(experiment.state)):
        best.setdefault((experiment.name, experiment.baseline), experiment)
    return [replace(found, edited=found.state == "finished" and is_edited(found)) for found in best.values()]


def is_edited(experiment: Experiment) -> bool:
    """Whether the code in an experiment's commit differs from its baseline's; False if git has only one of them."""
    if not experiment.commit:
        return False
    command = ["git", "diff", "--quiet", experiment.baseline, experiment.commit, "--", ".", *WRITTEN]
    return subprocess.run(command, capture_output=True, check=False).returncode == 1  # noqa: S603


def parse(shown: Sequence[dict[str, Any]]) -> list[Experiment]:
    """The experiments in what ``dvc exp show`` lists, in its order.

    The metrics of an experiment that has not succeeded are left out: they are those of the commit it started from.
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
                    finished_at=data["timestamp"].isoformat() if done and data.get("timestamp") else None,
                    commit=last["rev"],
                )
            )
    return found


def results_of(experiments: Iterable[Experiment]) -> tuple[list[Result], list[str]]:
    """Results of the finished experiments, and a line for each finished one that gives none."""
    results: list[Result] = []
    remarks = []
    for experiment in (experiment for experiment in experiments if experiment.state == "finished"):
        if not experiment.has_metrics:
            remarks.append(f"{experiment.name}: finished without metrics, `uv run dvc exp remove {experiment.name}`")
            continue
        try:
            point = _trained_point(experiment)
        except ConfigError as error:
            remarks.append(f"{experiment.name}: of a commit with other parameters ({error})")
            continue
        revision = experiment.baseline[:7] + ("+" if experiment.edited else "")
        where = {"revision": revision, "measured_at": experiment.finished_at}
        results += of_run(point, experiment.training, experiment.evaluation, **where)
    return results, remarks


def _trained_point(experiment: Experiment) -> Config:
    """The parameters of a finished experiment, with what its train stage decided.

    Raises:
        ConfigError: a parameter is not allowed, or the commit of the experiment does not hold the decisions.
    """
    point = config.from_mapping(experiment.params)
    if not point.undecided:
        return point
    name = f"{experiment.commit}:{SETTINGS.as_posix()}"
    found = subprocess.run(["git", "show", name], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if found.returncode != 0:
        raise ConfigError(f"{SETTINGS}: found none, allowed: what the train stage wrote")
    return with_decisions(point, YAML(typ="safe").load(found.stdout))


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]
