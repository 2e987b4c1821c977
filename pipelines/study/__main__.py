"""The accuracy study: search, final seeds and step times, resumable, several trainings at once. No DVC, no polars.

    python -m pipelines.study.__main__ prepare --data FOLDER NAME=LOG.parquet ...   # splits, leave-one-out
    python -m pipelines.study.__main__ run --data FOLDER --rows study.jsonl --minutes 9 --jobs 8 [--datasets ml_1m] ...
    python -m pipelines.study.__main__ summarise --rows study.jsonl --out FOLDER    # tables, the picture, presets

`pipelines.study.trials` says what is run. A run is a process of its own, so that many small trainings share a GPU
and one that dies takes no other with it. Rows that are there are not run again: delete one to repeat it. Search looks
at validation targets only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cutrec.console import prepare_output_file, prepare_output_folder, run_and_exit
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder
from cutrec.paths import live_checkout
from pipelines.study import runs
from pipelines.study.trials import KINDS, SEARCHES, Row, Trial, pending

DATASETS = tuple(search.dataset for search in SEARCHES)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the verb says."""
    options = _parse(arguments)
    if options.verb in ("run", "trial"):
        prepare_output_file("--rows", options.rows)
    if options.verb == "prepare":
        prepare(options.logs, options.data)
    elif options.verb == "run":
        for name in options.datasets:
            if not (options.data / name / "items.parquet").is_file():
                allowed = "allowed: what `prepare` made; --datasets names a part"
                raise StageError(f"--data: found no split of {name} in {options.data}, {allowed}")
        which = (options.kinds, options.datasets, options.contenders)
        Runner(options.data, options.rows, options.minutes, options.jobs, *which).run()
    elif options.verb == "trial":
        row = runs.run(_trial(options.trial), options.data)
        runs.append(options.rows, row)
    else:
        from pipelines.study.summary import summarise

        if not options.rows.is_file():
            raise StageError(
                f"--rows: found no {options.rows}, allowed: what `python -m pipelines.study.__main__ run` wrote"
            )
        prepare_output_folder("--out", options.out)
        for path in summarise(runs.read(options.rows), options.out):
            print(path)


def prepare(logs: Sequence[str], data: Path) -> None:
    """Split logs leave-one-out, each into a folder of its name.

    Args:
        logs: ``NAME=LOG``, anything that ``dataset`` of params.yaml takes.
        data: the folder of the folders.

    Raises:
        StageError: no ``NAME=LOG``.
    """
    from rec_data.sources.fetch import fetch_log
    from rec_data.splits.split import split_log

    for text in logs:
        name, equals, log = text.partition("=")
        if not name or not equals:
            raise StageError(f"prepare: found {text!r}, allowed: NAME=LOG")
        with atomic_folder(data / name) as out, tempfile.TemporaryDirectory() as folder:
            fetch_log(log, Path(folder) / "log.parquet", root=live_checkout())
            summary = split_log(Path(folder) / "log.parquet", out, strategy="leave_one_out")
            for part in ("train", "validation", "test"):
                (out / f"{part}.parquet").unlink()  # the export for other readers: this folder travels
            print(f"{name}: {summary['users']:,} users, {summary['items']:,} items")


@dataclass
class Runner:
    """Keeps a few runs going until nothing is left or the time is over.

    What failed in an earlier call is tried again, once a call: a neighbour may have taken the memory.
    """

    data: Path
    rows: Path
    minutes: float
    jobs: int
    kinds: Sequence[str]
    datasets: Sequence[str]
    contenders: Sequence[str] = ()
    running: dict[Trial, subprocess.Popen[bytes]] = field(default_factory=dict)
    tried: set[tuple[object, ...]] = field(default_factory=set)
    """Keys of what this process started."""
    before: int = 0
    """Rows of earlier calls."""

    def run(self) -> None:
        """Start, wait, start; at the end of the time, or of this process, what runs is killed and left to run."""
        started = time.perf_counter()
        minutes = 0.0
        self.before = len(runs.read(self.rows))
        try:
            while minutes < self.minutes:
                self._reap(minutes)
                left = self._left()
                while left and self._may_start(left[0]):
                    self.tried.add(left[0].key)
                    self._start(left.pop(0))
                if not self.running:
                    print(f"[{minutes:.1f} min] nothing is left to run", flush=True)
                    return
                time.sleep(0.2)
                minutes = (time.perf_counter() - started) / 60
        finally:
            lost = self._stop()
        print(f"{self.minutes:g} minutes are over: {lost} runs were cut off, {len(self._left()) + lost} are left")

    def _stop(self) -> int:
        """Kill what runs; how many there were."""
        lost = len(self.running)
        for process in self.running.values():
            process.kill()
            process.wait()
        self.running.clear()
        return lost

    def _left(self) -> list[Trial]:
        rows = runs.read(self.rows)
        todo = pending(rows, self.kinds, self.datasets, self.contenders)  # type: ignore[arg-type]  # checked by the parser
        return [trial for trial in todo if trial.key not in self.tried]

    def _may_start(self, trial: Trial) -> bool:
        """Times are taken alone; everything else shares the machine."""
        if any(other.kind == "time" for other in self.running):
            return False
        return not self.running if trial.kind == "time" else len(self.running) < self.jobs

    def _start(self, trial: Trial) -> None:
        self._log(trial).parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pipelines.study.__main__", "trial", json.dumps(asdict(trial))]
        command += ["--data", str(self.data), "--rows", str(self.rows)]
        with self._log(trial).open("wb") as log:
            environment = {"OMP_NUM_THREADS": "1", **os.environ}
            self.running[trial] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603

    def _reap(self, minutes: float) -> None:
        for trial, process in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[trial]
            if process.returncode and self._row(trial) is None:
                note = f"the process ended with {process.returncode}, see {self._log(trial)}"
                row = {name: value for name, value in asdict(trial).items() if name != "settings"}
                row |= {"settings": json.loads(trial.settings), "status": "failed", "note": note}
                runs.append(self.rows, row)
            print(f"[{minutes:.1f} min] {self._describe(trial)}", flush=True)

    def _describe(self, trial: Trial) -> str:
        row = self._row(trial) or {"status": "failed", "note": "no row of it was found"}
        names = ("validation_ndcg_at_10", "ndcg_at_10", "best_epoch", "step_ms", "seconds")
        found = ", ".join(f"{name} {row[name]:.4g}" for name in names if name in row)
        label = f"{trial.kind} {trial.dataset} {trial.contender} seed {trial.seed}"
        return f"{label}: {found if row['status'] == 'ok' else row['note']}"

    def _row(self, trial: Trial) -> Row | None:
        """The last row of a trial that this process started."""
        of_trial = (trial.kind, trial.dataset, json.loads(trial.settings), trial.seed)
        for row in reversed(runs.read(self.rows)[self.before :]):
            if (row["kind"], row["dataset"], row["settings"], row["seed"]) == of_trial:
                return row
        return None

    def _log(self, trial: Trial) -> Path:
        number = zlib.crc32(trial.settings.encode())
        name = f"{trial.kind}-{trial.dataset}-{trial.contender}-{trial.seed}-{number}.log".replace(" ", "_")
        return self.rows.with_suffix(".logs") / name


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.study.__main__", description=str(__doc__).splitlines()[0]
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    given = {name: verbs.add_parser(name) for name in ("prepare", "run", "trial", "summarise")}
    given["prepare"].add_argument("logs", nargs="+", metavar="NAME=LOG")
    given["trial"].add_argument("trial", help="JSON of a Trial")
    for name in ("prepare", "run", "trial"):
        given[name].add_argument("--data", type=Path, required=True, help="a folder with a split a data set")
    for name in ("run", "trial", "summarise"):
        given[name].add_argument("--rows", type=Path, required=True, help="the file of rows, JSON lines")
    given["run"].add_argument("--minutes", type=_minutes, default=math.inf, help="kill what still runs after this")
    given["run"].add_argument("--jobs", type=_jobs, default=1, help="trainings at once")
    given["run"].add_argument("--kinds", type=_some_of(KINDS), default=list(KINDS), help=",".join(KINDS))
    given["run"].add_argument("--datasets", type=_some_of(DATASETS), default=list(DATASETS), help=",".join(DATASETS))
    names = sorted({name for search in SEARCHES for name in search.contenders})
    given["run"].add_argument("--contenders", type=_some_of(names), default=[], help=",".join(names))
    given["summarise"].add_argument("--out", type=Path, required=True, help="a folder")
    return parser.parse_args(arguments)


def _trial(text: str) -> Trial:
    """The trial of its JSON.

    Raises:
        StageError: it is none.
    """
    try:
        trial = Trial(**json.loads(text))
        json.loads(trial.settings)
    except (TypeError, ValueError):
        raise StageError(f"trial: found {text!r}, allowed: JSON of a trial, as `run` passes it") from None
    return trial


def _minutes(text: str) -> float:
    """Minutes above 0; infinity too."""
    with suppress(ValueError):
        if (minutes := float(text)) > 0:
            return minutes
    raise argparse.ArgumentTypeError(f"found {text!r}, allowed: a number above 0")


def _jobs(text: str) -> int:
    with suppress(ValueError):
        if (jobs := int(text)) > 0:
            return jobs
    raise argparse.ArgumentTypeError(f"found {text!r}, allowed: a whole number from 1")


class _some_of:  # noqa: N801  # a converter, used as a function
    """Names by commas, all of them known."""

    def __init__(self, known: Sequence[str]) -> None:
        self._known = known

    def __call__(self, text: str) -> list[str]:
        names = text.split(",")
        if not set(names) <= set(self._known):
            raise argparse.ArgumentTypeError(f"found {text!r}, allowed: {', '.join(self._known)}, by commas")
        return names


if __name__ == "__main__":
    run_and_exit(main)
