"""Copies of a user's data that `cutrec.workflow.forget` does not rewrite, and the commands that remove them."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import polars as pl

from cutrec.config_point import Config
from cutrec.paths import DATA, MODEL, OLD_MODEL
from cutrec.workflow.forget import made_again, tables_outside_stages
from cutrec.workflow.user_ids import Users
from rec_data.raw import files, finding
from rec_data.schema import USER
from rec_data.sources.cache import cache_folder
from rec_data.sources.registry import SOURCES, is_generated

_TRAIN_AGAIN = " && ".join(f"uv run python -m pipelines.{stage}" for stage in ("train", "evaluate", "report"))


class Copies(NamedTuple):
    """What still holds data of users, and what to do about it; one line each."""

    where: list[str]
    cures: list[str]
    """In the order in which they have to be done."""


def find_copies(config: Config, users: Users, root: Path) -> Copies:
    """Look for copies of users' data in the checkout `root` (the current directory) and the source of its log."""
    where = []
    names = (MODEL.name, OLD_MODEL)
    refits = sorted(path.relative_to(root) for name in names for path in (root / DATA).rglob(f"*.refit/{name}"))
    models = [*(MODEL.with_name(name) for name in names), *refits]
    if found := [str(path) for path in models if (root / path).is_file()]:
        where.append(f"models that may be trained on their events: {', '.join(found)}")
    if found := sorted(path.name for path in (root / ".checkpoints").glob("*") if path.is_dir()):
        where.append(f"states of trainings: .checkpoints/ ({', '.join(found)})")
    source, cures = _source(config, users, root)
    where.append(source)
    if found:
        cures.append("rm -r .checkpoints   # when no training runs")
    if refits:
        folders = " ".join(shlex.quote(str(folder)) for folder in dict.fromkeys(path.parent for path in refits))
        cures.append(f"rm -r {folders}   # uv run cutrec recommend --refit trains again")
    for folder, command in made_again(root / DATA).items():
        name = folder.relative_to(root)
        where.append(f"the splits, models and lists of cutrec {command}: {name}/")
        cures.append(f"rm -r {shlex.quote(str(name))}   # uv run cutrec {command} makes it again")
    known = _own_files(config, root)
    others = [path for path in tables_outside_stages(root / DATA)[1] if path.resolve() not in known]
    if others:
        listed = ", ".join(str(path.relative_to(root)) for path in others)
        where.append(f"files that were not searched: {listed}")
        cures.append(f"remove their rows from these files, or delete the files: {listed}")
    if (root / ".dvc").is_dir():
        more, commands = _in_dvc(root)
        where, cures = where + more, cures + commands
    where.append(
        "what this checkout does not know: other clones and backups, lists and models that were written or copied "
        "elsewhere"
    )
    return Copies(where, cures)


def _source(config: Config, users: Users, root: Path) -> tuple[str, list[str]]:
    """What the next run would read again, and how to go on without the users."""
    dataset = config.dataset
    if is_generated(dataset):
        return f"dataset {dataset!r} is generated with them", _without_the_source()
    if dataset in SOURCES and not (root / dataset).exists():
        place = config.download.mirror or f"its publisher's, and in {cache_folder()}"
        return f"the raw file of dataset {dataset!r} ({place})", _without_the_source()
    if finding.is_address(dataset):
        return f"{dataset} (not searched)", [f"remove their rows from {dataset}", _RUN_AGAIN]
    try:
        rows = _rows_by_file(config, users, root)
    except ValueError as error:
        return f"dataset {dataset!r}, which was not searched: {error}", [
            f"remove their rows from {dataset}",
            _RUN_AGAIN,
        ]
    if not rows:
        return f"dataset {dataset!r} no longer holds them", [_RUN_AGAIN]
    listed = ", ".join(f"{path} ({count:,} rows)" for path, count in rows.items())
    return f"the source, which the next run reads again: {listed}", [f"remove their rows from {listed}", _RUN_AGAIN]


def _rows_by_file(config: Config, users: Users, root: Path) -> dict[Path, int]:
    """The rows of the users in each file of the log that has some."""
    column = str(config.download.columns.user)
    rows = {}
    for path in finding.find(config.dataset, root=root):
        frame, names = files.scan([path], [column], config.download.format), pl.col(column)
        files.require_columns(frame.collect_schema(), {USER: column}, str(path))
        if (kind := frame.collect_schema()[column]).is_float() or kind.is_decimal():
            names = names.cast(pl.Int64, strict=False)
        texts = names.cast(pl.String).str.strip_chars()
        texts = pl.when(texts.str.contains(r"^-?[0-9]+\.0+$")).then(texts.str.replace(r"\.0+$", "")).otherwise(texts)
        rows[path] = int(frame.select(texts.is_in(sorted(users.ids)).sum()).collect(engine="streaming").item())
    return {path: count for path, count in rows.items() if count}


def _own_files(config: Config, root: Path) -> set[Path]:
    """The files of the log, which are searched."""
    try:
        return {path.resolve() for path in finding.find(config.dataset, root=root)}
    except ValueError:
        return set()


_RUN_AGAIN = "uv run dvc repro   # reads the source, splits and trains without them"


def _without_the_source() -> list[str]:
    return [
        _TRAIN_AGAIN,
        "uv run dvc commit --force   # dvc repro then keeps these files; when dataset, download or their code change, "
        "the users are read again: forget them again",
    ]


def _in_dvc(root: Path) -> tuple[list[str], list[str]]:
    """The copies that DVC keeps, and the commands that delete them."""
    cache = "".join(_dvc("cache", "dir", root=root)) or ".dvc/cache"
    where = [f"DVC's cache, which holds every earlier version of these files: {cache}"]
    cures = []
    if experiments := _dvc("exp", "list", "--all-commits", "--name-only", root=root):
        names = ", ".join(experiments[:5]) + (", ..." if len(experiments) > 5 else "")
        where.append(f"experiments: {len(experiments):,} ({names})")
        cures.append("uv run dvc exp remove --all-commits   # and --git-remote NAME, where they were pushed")
    if copies := sorted(path.parent for path in (root / ".dvc/tmp/exps").glob("**/dvc.yaml")):
        where.append(f"copies of queued experiments: {', '.join(str(path.relative_to(root)) for path in copies)}")
        cures.append(f"rm -r {' '.join(str(path.relative_to(root)) for path in copies)}   # when none of them runs")
    cures.append("uv run dvc gc --workspace   # deletes what is not in the workspace, also that of other commits")
    for remote in (line.split()[0] for line in _dvc("remote", "list", root=root)):
        where.append(f"DVC's remote {remote!r}, if anything was pushed")
        cures.append(f"uv run dvc gc --workspace --cloud --remote {remote}   # the same there; then uv run dvc push")
    return where, cures


def _dvc(*arguments: str, root: Path) -> list[str]:
    """The lines that a command of DVC prints; none if it fails, or if DVC is not installed."""
    command = [sys.executable, "-m", "dvc", *arguments]
    unwrapped = os.environ | {"COLUMNS": "10000"}  # DVC breaks lines at the width of the terminal
    done = subprocess.run(command, cwd=root, env=unwrapped, capture_output=True, text=True, check=False)  # noqa: S603
    return [line for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
