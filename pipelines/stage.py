"""How a stage of the pipeline runs as a process, and how it notices that params.yaml has changed during the run.

DVC reads params.yaml to decide which stages to run. When a stage has ended, DVC reads the file again and records these
values as those that the stage ran with. A second ``dvc exp run`` changes the file before DVC refuses to start it.
Therefore a stage refuses to start if a parameter has changed since the run began, and it refuses to end if one of the
parameters that it read has changed.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil

from cutrec.arguments import make_parser, parse
from cutrec.committed import changed_keys
from cutrec.config import load, read_yaml
from cutrec.config_point import Config, as_written
from cutrec.console import is_first_process, run_and_exit
from cutrec.errors import ConfigError, StageError
from cutrec.nested import as_yaml
from cutrec.outputs import atomic_file, read_json, write_json
from cutrec.paths import DATA, live_checkout

STAGE = "DVC_STAGE"
"""The environment variable that DVC sets for a stage."""
FIRST = "source"
"""The first stage of every run of the pipeline."""
LAST = "report"
"""The last stage of a run of the whole pipeline."""
RECORD = ".run-{}.json"
"""The file in `cutrec.paths.DATA`, named by DVC's process, that holds the parameters at the start of its run."""
KEPT_SECONDS = 86_400.0
"""How long the record of an unfinished run is kept: DVC may run in another container, whose processes are not seen."""
PATIENCE = 10.0
"""How many seconds a stage waits for a changed params.yaml to change back."""
_SHOWN = 5


def run(name: str, description: str, main: Callable[[Config], None]) -> NoReturn:
    """Run a stage with the settings of params.yaml and end the process. It takes no argument except ``--help``.

    If it fails, it also prints how to bring back the committed parameters, unless params.yaml holds them.
    """

    def checked() -> None:
        examples = f"\nExample:\n    uv run dvc repro {name}"
        parse(make_parser(description + examples, prog=f"python -m pipelines {name}"), None)
        settings = load() if name == FIRST else load_of_run()
        if name == FIRST:
            begin(settings)
        main(settings)
        refuse_edit(name, settings)
        if name == LAST and (dvc := _dvc()) is not None:
            (DATA / RECORD.format(dvc.pid)).unlink(missing_ok=True)

    try:
        run_and_exit(checked)
    except SystemExit as ended:
        if ended.code and is_first_process():
            _note_changed_parameters()
        raise


def _note_changed_parameters() -> None:
    """Print which parameters an experiment left in params.yaml; a queued experiment has a copy of its own."""
    if live_checkout() == Path.cwd().resolve() and (keys := changed_keys()):
        listed = ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
        print(
            f"note: params.yaml is not as committed ({listed}): `uv run cutrec reset` brings back the committed one",
            file=sys.stderr,
        )


def begin(settings: Config) -> None:
    """Record the parameters at the start of a run of the pipeline by DVC, and remove old records of ended runs."""
    if (dvc := _dvc()) is None:
        return
    for path in DATA.glob(RECORD.format("*")):
        with suppress(OSError):  # another process has removed it
            if time.time() - path.stat().st_mtime > KEPT_SECONDS and not _in_progress(path):
                path.unlink()
    with atomic_file(DATA / RECORD.format(dvc.pid)) as path:
        write_json(path, {"started": dvc.create_time(), "parameters": _flat(settings)})


def load_of_run() -> Config:
    """Read params.yaml, which must hold the parameters that this run of the pipeline began with.

    A stage that is run by hand, or by a DVC command that leaves out the first stage, belongs to no run.

    Raises:
        ConfigError: params.yaml is wrong.
        StageError: naming the parameters that changed.
    """
    if (dvc := _dvc()) is None or not (path := DATA / RECORD.format(dvc.pid)).is_file():
        return load()
    record = read_json(path)
    if not _runs(dvc.pid, record["started"]):  # the record of an earlier process with this number
        return load()
    return _load_unchanged(record["parameters"], "this run")


def refuse_edit(name: str, settings: Config) -> None:
    """Refuse to end a stage if parameters that it read, as dvc.yaml lists them, have changed: DVC would record them.

    Raises:
        StageError: naming the parameters that changed.
    """
    if STAGE in os.environ and is_first_process():
        read = tuple(f"{key}." for key in read_yaml(Path("dvc.yaml"))["stages"][name]["params"])
        began = {key: value for key, value in _flat(settings).items() if f"{key}.".startswith(read)}
        _load_unchanged(began, "this stage")


def _in_progress(path: Path) -> bool:
    """Whether the run that wrote a record goes on; a damaged record belongs to none."""
    try:
        return _runs(int(path.stem.rpartition("-")[2]), float(read_json(path)["started"]))
    except (ValueError, KeyError, TypeError):
        return False


def _runs(pid: int, started: float) -> bool:
    """Whether the process with this number is the one that started at this Unix time, within five seconds."""
    try:
        return bool(abs(psutil.Process(pid).create_time() - started) <= 5)
    except psutil.Error:
        return False


def _dvc() -> psutil.Process | None:
    """The process of DVC that runs this stage: the nearest parent process that is not a stage itself.

    DVC sets the variable `STAGE` for the processes of a stage; its own process does not have it.
    """
    if STAGE not in os.environ:
        return None
    try:
        return next((process for process in psutil.Process().parents() if STAGE not in process.environ()), None)
    except psutil.Error:  # a system that hides other processes
        return None


def _flat(settings: Config) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(as_written(settings)))
    return values


def _load_unchanged(began: dict[str, Any], what: str) -> Config:
    """Read params.yaml; if it has changed, wait up to `PATIENCE`, because ``dvc exp run --queue`` restores it."""
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            settings = load()
            now = _flat(settings)
            if changed := [key for key, value in began.items() if now[key] != value]:
                found = ", ".join(f"{key}={as_yaml(now[key])} (was {as_yaml(began[key])})" for key in changed)
                raise StageError(
                    f"params.yaml: found {found}, allowed: what {what} began with; an edit or another `dvc exp run` "
                    "changed it (during a run use `dvc exp run --queue`): set the parameters and start again, what is "
                    "finished is kept"
                )
            return settings
        except (ConfigError, StageError):
            if time.monotonic() > give_up:
                raise
        time.sleep(0.2)
