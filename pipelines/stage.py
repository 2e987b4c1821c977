"""How a stage of the pipeline runs as a process, and how it notices that params.yaml changed meanwhile.

DVC checks params.yaml when it decides which stages to run, and reads it again when a stage has ended, to record what
the stage ran with. A second ``dvc exp run`` writes to the file before DVC refuses it. So a stage refuses to run with
other parameters than those that the run began with, and to end if those that it read have changed.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import psutil

from cutrec.arguments import make_parser, parse
from cutrec.config import Config, load, read_yaml
from cutrec.console import run_and_exit
from cutrec.errors import ConfigError, StageError
from cutrec.nested import as_yaml, flatten
from cutrec.outputs import atomic_file, read_json, write_json
from cutrec.paths import DATA

STAGE = "DVC_STAGE"
"""The environment variable that DVC sets for a stage."""
FIRST = "source"
"""The stage that every run of the pipeline begins with."""
RECORD = ".run-{}.json"
"""In `cutrec.paths.DATA`, by the process of DVC: the parameters that its run began with."""


PATIENCE = 10.0
"""Seconds in which a changed params.yaml may change back."""


def run(name: str, description: str, main: Callable[[Config], None]) -> NoReturn:
    """Run a stage with the settings of params.yaml and end the process. It takes no argument except ``--help``."""

    def checked() -> None:
        parse(make_parser(description, prog=f"python -m pipelines.{name}"), None)
        settings = load() if name == FIRST else load_of_run()
        if name == FIRST:
            begin(settings)
        main(settings)
        refuse_edit(name, settings)

    run_and_exit(checked)


def begin(settings: Config) -> None:
    """Record the parameters that a run of the pipeline by DVC begins with, and remove the records of ended runs."""
    if (dvc := _dvc()) is None:
        return
    for path in DATA.glob(RECORD.format("*")):
        if not psutil.pid_exists(int(path.stem.rpartition("-")[2])):
            path.unlink(missing_ok=True)
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
    if abs(record["started"] - dvc.create_time()) > 5:  # seconds: another process with this number
        return load()
    return _load_unchanged(record["parameters"], "this run")


def refuse_edit(name: str, settings: Config) -> None:
    """Refuse to end a stage if parameters that it read, as dvc.yaml lists them, have changed: DVC would record them.

    Raises:
        StageError: naming the parameters that changed.
    """
    if STAGE in os.environ and os.environ.get("LOCAL_RANK", "0") == "0":  # once, with train.devices
        read = tuple(f"{key}." for key in read_yaml(Path("dvc.yaml"))["stages"][name]["params"])
        began = {key: value for key, value in _flat(settings).items() if f"{key}.".startswith(read)}
        _load_unchanged(began, "this stage")


def _dvc() -> psutil.Process | None:
    """The process of DVC that runs this stage: the first one above that has not the variable of its stages."""
    if STAGE not in os.environ:
        return None
    try:
        return next((process for process in psutil.Process().parents() if STAGE not in process.environ()), None)
    except psutil.Error:  # a system that hides other processes
        return None


def _flat(settings: Config) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(flatten(asdict(settings))))
    return values


def _load_unchanged(began: dict[str, Any], what: str) -> Config:
    """Read params.yaml, and wait for some seconds if it has changed: ``dvc exp run --queue`` puts it back."""
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
