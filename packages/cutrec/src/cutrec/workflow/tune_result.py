"""What a search has found: its best trials, how sure the gain is, and the preset that repeats the best one."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from optuna.trial import TrialState

from cutrec.config import PRESET_KEYS
from cutrec.config_point import AUTO_KEYS, Config, as_written
from cutrec.workflow.tune_space import Settings, Space
from cutrec.workflow.tune_study import Study
from rec_models.encoders.registry import ENCODERS
from rec_models.losses.registry import LOSSES

K = 10
"""Trials are compared by NDCG at this k, as epochs are."""
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.RUNNING: "unfinished"}


class Tried(NamedTuple):
    """A trial that validated at least once."""

    number: int
    """From 1, which has the decided defaults."""
    settings: Settings
    ndcg: float
    """The best validation NDCG@10."""
    epochs: int
    seconds: float
    """Of training and validation."""
    state: str
    """``complete``, ``pruned`` (ended early, because others were better at its epoch) or ``unfinished``."""


class Gain(NamedTuple):
    """How much better the best trial is than the defaults, over the same validation users."""

    ndcg: float
    standard_error: float
    """Of the mean difference, paired by user; NaN with a single user."""
    users: int

    @property
    def is_noise(self) -> bool:
        """Whether the gain is below two standard errors."""
        return not self.ndcg > 2 * self.standard_error


@dataclass(frozen=True)
class Tuning:
    """What a search has found so far."""

    space: Space
    tried: list[Tried]
    """The best trial first."""
    gain: Gain | None
    """None if the defaults themselves are the best, or were not validated."""
    not_tried: dict[int, str]
    """Why trials failed and proposals were skipped, by their number."""
    left: int
    """Trials that the time was too short for."""
    folder: Path

    @property
    def best(self) -> Tried:
        """The best trial; the first one of several."""
        return self.tried[0]

    @property
    def default(self) -> Tried | None:
        """The trial with the decided defaults."""
        return next((trial for trial in self.tried if trial.number == 1), None)


def read_result(folder: Path, space: Space, *, wanted: int = 0) -> Tuning:
    """What all processes of a search have found so far; `wanted` is the number of trials that should have ended."""
    study = Study(folder, space)
    tried = [
        Tried(
            trial.number + 1,
            trial.user_attrs["settings"],
            max(trial.intermediate_values.values()),
            len(trial.intermediate_values),
            trial.user_attrs["seconds"],
            _STATES[trial.state],
        )
        for trial in study.trials
        if trial.intermediate_values and trial.state in _STATES
    ]
    tried.sort(key=lambda trial: (-trial.ndcg, trial.number))
    gain = None
    if tried and tried[0].number > 1 and any(trial.number == 1 for trial in tried):
        best, default = (gains(np.load(ranks_file(folder, number))) for number in (tried[0].number, 1))
        difference, users = best - default, len(best)
        error = float(difference.std(ddof=1)) / math.sqrt(users) if users > 1 else math.nan
        gain = Gain(float(difference.mean()), error, users)
    ended = sum(trial.state.is_finished() for trial in study.trials)
    return Tuning(space, tried, gain, study.reasons, max(0, wanted - ended), folder)


def ranks_file(folder: Path, number: int) -> Path:
    """The file with the ranks, as `gains` takes them, of the validation targets in the best epoch of a trial."""
    return folder / f"trial-{number}.npy"


def keep_best_ranks(path: Path, ranks: npt.NDArray[np.int64]) -> None:
    """Write ranks, as `gains` takes them, unless those in the file are as good."""
    if path.is_file() and gains(np.load(path)).mean() >= gains(ranks).mean():
        return
    part = path.with_suffix(".part.npy")
    np.save(part, ranks)
    part.replace(path)


def gains(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """NDCG at `K` of each user [U] from the rank [U] of their only target, as `rec_eval.rank_metrics` averages it.

    Of users with several targets, from [T, 2] ranks and users.
    """
    if ranks.ndim == 1:
        return np.where(ranks <= K, 1 / np.log2(ranks + 1.0), 0.0)
    _, users = np.unique(ranks[:, 1], return_inverse=True)
    return np.bincount(users, weights=gains(ranks[:, 0])) / np.bincount(users)


def preset_of(space: Space, settings: Settings) -> dict[str, Any]:
    """The preset that repeats a trial, as_written: it means the same when defaults and rules for ``auto`` have changed.

    It holds what was searched, what the rules decided, and what params.yaml states itself; keys that the network, the
    loss or the model has no use for are left out.
    """
    point = space.at(settings)
    values, usual = as_written(point), as_written(Config())
    unused = {"train.tracker"} | (set() if ENCODERS[point.model].masked else {"backbone.mask_prob"})
    if not LOSSES[point.loss].sampled or LOSSES[point.loss].fixed_negatives:
        unused.add("num_negatives")
    return {
        key: value
        for key, value in values.items()
        if key.split(".")[0] in PRESET_KEYS
        and key not in unused
        and (key in AUTO_KEYS or key in settings or value != usual[key])
    }
