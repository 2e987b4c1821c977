"""The trials of a search in a file that several processes share, and that survives a kill of any of them.

The trials are an optuna study in optuna's journal file. A process holds a lock for each trial that it works on. The
operating system frees the lock when the process is killed, and the next process that looks for work resumes the trial
from its checkpoint.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.samplers import TPESampler
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from cutrec.workflow.tune_space import Settings, Space
from rec_models.randomness import mix_seed

STARTUP = 8
"""Trials that are drawn at random before the sampler and the pruner learn from them."""
WARMUP_EPOCHS = 10
"""Epochs that every trial gets: wide networks with a low learning rate start slowly."""
KEPT_PERCENT = 67.0
"""Of the trials at an epoch, those that go on; the others are ended."""
COMPARED = 4
"""Trials that must have reached an epoch before one is ended there."""
MOST_SKIPPED = 30
"""Proposals in a row that are repeated or too large, after which the search is over."""
MOST_STARTS = 3
"""Starts of a trial in the same epoch, after which it has failed: the system may kill it for its memory."""
SKIPPED, FAILED = "skipped", "failed"
"""The attributes of a trial that hold the reason."""


class JournalLock(JournalFileOpenLock):
    """The lock of a journal file: free as soon as its process is killed, unlike those of optuna.

    Whoever acquires it removes what a process that was killed left of its last line, which optuna could not read.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._lock = FileLock(f"{journal}.lock")

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire()
        with self._journal.open("r+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Free the lock."""
        self._lock.release()


@dataclass(frozen=True)
class Claim:
    """A trial that this process works on."""

    number: int
    """From 1, which has the decided defaults."""
    settings: Settings
    trial: optuna.Trial
    reported: frozenset[int]
    """Epochs, from 1, that an earlier process reported."""
    seconds: float
    """Of training and validation in earlier processes."""
    lock: FileLock


class Study:
    """The trials of a search in a folder."""

    def __init__(self, folder: Path, space: Space) -> None:
        self._folder, self._space = folder, space
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        journal = folder / "journal.log"
        journal.touch()
        pruner = optuna.pruners.PercentilePruner(
            KEPT_PERCENT, n_startup_trials=STARTUP, n_warmup_steps=WARMUP_EPOCHS, n_min_trials=COMPARED
        )
        self._study = optuna.create_study(
            study_name=folder.name,
            storage=JournalStorage(JournalFileBackend(str(journal), JournalLock(journal))),
            pruner=pruner,
            direction="maximize",
            load_if_exists=True,
        )

    @property
    def trials(self) -> list[FrozenTrial]:
        """The trials that were started by any process, in their order; without skipped proposals."""
        started = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        found = self._study.get_trials(deepcopy=False, states=started)
        return [trial for trial in found if SKIPPED not in trial.user_attrs]

    @property
    def reasons(self) -> dict[int, str]:
        """Why trials failed and proposals were skipped, by number."""
        found = {trial.number + 1: trial.user_attrs for trial in self._study.get_trials(deepcopy=False)}
        return {number: of[name] for number, of in found.items() for name in (FAILED, SKIPPED) if name in of}

    def claim(self, most: int, refused: Callable[[Settings], str | None]) -> Claim | None:
        """Take over a trial whose process was killed, or else start a new one.

        Args:
            most: trials that all processes start in total.
            refused: says why settings are not tried, such as for their memory; None where they are.

        Returns:
            None if there is nothing left to do.
        """
        with FileLock(self._folder / "claim.lock"):
            for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                lock = self._lock(frozen.number)
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    continue
                if (claim := self._start(frozen.number, lock, refused)) is not None:
                    return claim
            for _ in range(MOST_SKIPPED):
                if len(self.trials) >= most:
                    return None
                number = len(self._study.get_trials(deepcopy=False))
                if number == 0:
                    self._study.enqueue_trial(self._space.first)
                self._study.sampler = self._sampler(number)
                number = self._study.ask().number
                lock = self._lock(number)
                lock.acquire()
                if (claim := self._start(number, lock, refused)) is not None:
                    return claim
        return None

    def place(self, number: int) -> Path:
        """The folder of a trial in training, with its lock; numbers are from 1."""
        return self._folder / f"trial-{number}"

    def _lock(self, number: int) -> FileLock:
        place = self.place(number + 1)
        place.mkdir(exist_ok=True)
        return FileLock(place / "lock")

    def _sampler(self, number: int) -> TPESampler:
        """A sampler that proposes the same for a trial however often the search was interrupted before."""
        seed = mix_seed("tune", self._space.point.seed, number) % 2**32
        return TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)

    def _start(self, number: int, lock: FileLock, refused: Callable[[Settings], str | None]) -> Claim | None:
        """The claim of a running trial; None if it is skipped or has failed, and then the lock is free."""
        frozen = self._study.get_trials(deepcopy=False)[number]
        if frozen.state != TrialState.RUNNING:  # its process has just ended it
            lock.release()
            return None
        self._study.sampler = self._sampler(number)
        trial = optuna.Trial(self._study, frozen._trial_id)
        places = {name: trial.suggest_int(name, 0, len(values) - 1) for name, values in self._space.axes.items()}
        settings = self._space.settings(places)
        starts, epochs = frozen.user_attrs.get("starts", (0, 0))
        starts = starts + 1 if len(frozen.intermediate_values) == epochs else 1
        reason = refused(settings)
        if reason is not None:
            trial.set_user_attr(SKIPPED, reason)
            self._study.tell(trial, state=TrialState.PRUNED)  # the sampler takes it for bad, and proposes smaller ones
        elif any(other.user_attrs.get("settings") == settings for other in self.trials if other.number != number):
            trial.set_user_attr(SKIPPED, "another trial has these settings")
            self._study.tell(trial, state=TrialState.FAIL)  # the sampler passes over it
        elif starts > MOST_STARTS:
            self.fail(trial, f"its process was killed {MOST_STARTS} times in epoch {epochs + 1}")
        else:
            trial.set_user_attr("starts", (starts, len(frozen.intermediate_values)))
            trial.set_user_attr("settings", settings)
            seconds = frozen.user_attrs.get("seconds", 0.0)
            return Claim(number + 1, settings, trial, frozenset(frozen.intermediate_values), seconds, lock)
        lock.release()
        return None

    def pause(self, trial: optuna.Trial) -> None:
        """Leave a trial to the next process that looks for work."""
        trial.set_user_attr("starts", (0, 0))

    def complete(self, trial: optuna.Trial, ndcg: float) -> None:
        """End a trial with its best validation NDCG@10."""
        self._study.tell(trial, ndcg)

    def prune(self, trial: optuna.Trial) -> None:
        """End a trial that is worse than the others were at its epoch."""
        self._study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: optuna.Trial, error: str) -> None:
        """End a trial that cannot be trained."""
        trial.set_user_attr(FAILED, error)
        self._study.tell(trial, state=TrialState.FAIL)
