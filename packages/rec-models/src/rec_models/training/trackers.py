"""Experiment trackers: a run there gets the settings and, epoch by epoch, the curves that TensorBoard gets.

Their libraries are optional; a library is imported when a training with its tracker starts. Each tracker keeps its
files where its own variables of the environment say, or else in a folder: ``dvclive/``, ``mlflow.db``, ``wandb/``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rec_models.errors import TrainingError

if TYPE_CHECKING:
    from rec_models.training.run_state import RunState

PROJECT = "cutrec"
"""The experiment of MLflow and the project of Weights & Biases, unless their variables name another one."""


class TrackedRun(Protocol):
    """A run of a tracker, open for writing."""

    name: str
    """By which it can be opened again."""
    last: int | None
    """The last epoch that it has, from 1; 0 for none, None if the tracker does not say."""

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Add the values of an epoch."""

    def close(self, *, complete: bool) -> None:
        """Close the run, which is over if it is complete; otherwise it may be opened again."""


class Tracker:
    """Follows a training in a tracker. If the training is resumed, its run in the tracker goes on.

    Only `start`, `log` and `close` reach the tracker; the first rank alone calls them.

    Args:
        name: dvclive, mlflow or wandb.
        folder: for the tracker's files.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._run: TrackedRun | None = None
        self._logged = 0
        self._has_failed = False

    def follow(self, state: RunState, settings: Mapping[str, Any]) -> None:
        """Follow a training, whose state may be a resumed one; settings may be nested."""
        self._state, self._settings = state, _flat(settings)
        kind, _, name = state.tracked.partition(":")
        self._known = name if kind == self._name else ""
        self._logged = len(state.history) if self._known else 0

    def start(self) -> None:
        """Open the run.

        Raises:
            TrainingError: its library is not installed, or the tracker does not answer, or refuses.
        """
        try:
            self._run = _OPEN[self._name](self._folder, self._known, self._settings)
        except Exception as error:  # each library has its own
            reason = " ".join(str(error).split())[:300]
            raise TrainingError(
                f"tracker: {self._name} cannot start ({reason}), allowed: none trains without"
            ) from error
        if self._run.last is not None:
            self._logged = self._run.last
        self._state.tracked = f"{self._name}:{self._run.name}"

    def log(self, curves: Callable[[Mapping[str, float]], Mapping[str, float]]) -> None:
        """Log the epochs that the run does not have yet, by their `curves`. If that fails, training goes on without."""
        history = self._state.history
        if self._has_failed or len(history) <= self._logged:
            return
        try:
            if self._run is None:
                self.start()
            assert self._run is not None
            for row in history[self._logged :]:
                self._run.log(curves(row), int(row["epoch"]))
        except Exception as error:
            self._has_failed = True
            reason = " ".join(str(error).split())[:300]
            sys.stderr.write(f"warning: {self._name} takes no more metrics, training goes on without it: {reason}\n")
        self._logged = len(history)

    def close(self) -> None:
        """Close the run, if it is open."""
        run, self._run = self._run, None
        if run is not None and not self._has_failed:
            try:
                run.close(complete=self._state.finished)
            except Exception as error:
                sys.stderr.write(
                    f"warning: {self._name} could not close its run: {' '.join(str(error).split())[:300]}\n"
                )


class _DvcLive:
    """Files of DVCLive, in a folder of their own if this is an experiment of DVC."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name or str(folder / "dvclive" / os.environ.get("DVC_EXP_NAME", ""))
        self._live: Any = import_module("dvclive").Live(
            self.name, resume=bool(name), report=None, save_dvc_exp=False, dvcyaml=None
        )
        self.last: int | None = self._live.step - 1 if name and self._live.step else 0
        self._live.log_params(dict(settings))

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self._live.step = epoch
        for key, value in values.items():
            self._live.log_metric(key, value)
        self._live.make_summary()

    def close(self, *, complete: bool) -> None:
        self._live.end()


class _MlFlow:
    """A run of MLflow."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        mlflow: Any = import_module("mlflow")
        self._entities: Any = import_module("mlflow.entities")
        here = None if mlflow.tracking.is_tracking_uri_set() else f"sqlite:///{folder / 'mlflow.db'}"
        self._client = mlflow.MlflowClient(here)
        self.name = name
        self.last: int | None = 0
        if name:
            self._client.update_run(name, status="RUNNING")
            steps = [point.step for point in self._client.get_metric_history(name, "train/loss")]
            self.last = max(steps, default=0)
            return
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(project)
        place = self._client.create_experiment(project) if found is None else found.experiment_id
        self.name = self._client.create_run(place, run_name=os.environ.get("DVC_EXP_NAME")).info.run_id
        self._client.log_batch(
            self.name, params=[self._entities.Param(key, str(value)) for key, value in settings.items()]
        )

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        now = round(1000 * time.time())
        metrics = [self._entities.Metric(key, value, now, epoch) for key, value in values.items()]
        self._client.log_batch(self.name, metrics=metrics)

    def close(self, *, complete: bool) -> None:
        self._client.set_terminated(self.name, "FINISHED" if complete else "FAILED")


class _WandB:
    """A run of Weights & Biases."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        wandb: Any = import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=os.environ.get("WANDB_DIR", str(folder)),
            id=name or None,
            name=os.environ.get("WANDB_NAME", os.environ.get("DVC_EXP_NAME")),
            resume="allow",
            reinit="create_new",  # a run that the caller has open stays as it is
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off", save_code=False),
        )
        self.name = self._run.id
        self.last: int | None = None  # offline it does not know what another process has logged

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self._run.log(dict(values), step=epoch)

    def close(self, *, complete: bool) -> None:
        self._run.finish(exit_code=0 if complete else 1)


_OPEN: dict[str, Callable[[Path, str, Mapping[str, Any]], TrackedRun]] = {
    "dvclive": _DvcLive,
    "mlflow": _MlFlow,
    "wandb": _WandB,
}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
