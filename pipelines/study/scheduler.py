"""The study's scheduler: keeps several runs going, each in a process of its own.

Small trainings share a GPU that way, and one that dies does not affect the others.
"""

import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipelines.study import runs
from pipelines.study.trials import Kind, Row, Trial, key_of, pending


@dataclass
class Scheduler:
    """Runs what is pending until nothing is left or the time is over.

    A trial that failed in an earlier call is tried again, once per call: another run may have used up the memory.
    """

    data: Path
    rows: Path
    minutes: float
    jobs: int
    kinds: Sequence[Kind]
    datasets: Sequence[str]
    contenders: Sequence[str] = ()
    running: dict[Trial, subprocess.Popen[bytes]] = field(default_factory=dict)
    tried: set[tuple[object, ...]] = field(default_factory=set)
    """Keys of the trials that this call has started."""
    before: int = 0
    """Number of rows from earlier calls."""

    def run(self) -> None:
        """Start runs and wait for them; at the end of the time, or on an error, those still running are killed."""
        started, minutes = time.perf_counter(), 0.0
        self.before = len(runs.read(self.rows))
        try:
            while minutes < self.minutes:
                self._collect(minutes)
                left = self._left()
                while left and self._may_start(left[0]):
                    trial = left.pop(0)
                    self.tried.add(trial.key)
                    self.running[trial] = self._start(trial)
                if not self.running:
                    print(f"[{minutes:.1f} min] nothing is left to run", flush=True)
                    return
                time.sleep(0.2)
                minutes = (time.perf_counter() - started) / 60
        finally:
            lost = len(self.running)
            while self.running:
                _, process = self.running.popitem()
                process.kill()
                process.wait()
        print(f"{self.minutes:g} minutes are over: {lost} runs were cut off, {len(self._left()) + lost} are left")

    def _left(self) -> list[Trial]:
        todo = pending(runs.read(self.rows), self.kinds, self.datasets, self.contenders)
        return [trial for trial in todo if trial.key not in self.tried]

    def _may_start(self, trial: Trial) -> bool:
        """Steps are timed with nothing else running; other runs share the machine."""
        if any(other.kind == "time" for other in self.running):
            return False
        return not self.running if trial.kind == "time" else len(self.running) < self.jobs

    def _start(self, trial: Trial) -> subprocess.Popen[bytes]:
        self._log(trial).parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pipelines.study", "trial", json.dumps(asdict(trial))]
        command += ["--data", str(self.data), "--rows", str(self.rows)]
        with self._log(trial).open("wb") as log:
            environment = {"OMP_NUM_THREADS": "1", **os.environ}
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603

    def _collect(self, minutes: float) -> None:
        """Take runs that have ended off the list, and add a row for each that ended without one."""
        for trial, process in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[trial]
            ended = [row for row in runs.read(self.rows)[self.before :] if key_of(row) == trial.key]
            row = ended[-1] if ended else None
            if row is None and process.returncode:
                note = f"the process ended with {process.returncode}, see {self._log(trial)}"
                row = trial.row | {"status": "failed", "note": note}
                runs.append(self.rows, row)
            print(f"[{minutes:.1f} min] {_describe(trial, row)}", flush=True)

    def _log(self, trial: Trial) -> Path:
        number = zlib.crc32(trial.settings.encode())
        name = f"{trial.kind}-{trial.dataset}-{trial.contender}-{trial.seed}-{number}.log".replace(" ", "_")
        return self.rows.with_suffix(".logs") / name


def _describe(trial: Trial, row: Row | None) -> str:
    label = f"{trial.kind} {trial.dataset} {trial.contender} seed {trial.seed}"
    if row is None or row["status"] != "ok":
        return f"{label}: {row['note'] if row else 'no row of it was found'}"
    names = ("validation_ndcg_at_10", "ndcg_at_10", "best_epoch", "step_ms", "seconds")
    return f"{label}: " + ", ".join(f"{name} {row[name]:.4g}" for name in names if name in row)
