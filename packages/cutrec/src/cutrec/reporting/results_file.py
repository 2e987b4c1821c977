"""One schema for everything that is measured: a CSV file with a row a point and kind.

Whoever measures appends `Result`s with `append`, one at a time: a killed run keeps the rows it has, and the next one
asks `done` what is left. `pipelines.tables` merges any number of such files with the experiments that DVC knows.

    result = Result.of(point, "training", **environment(), status="ok", steps_timed=30, step_ms=3.4, ...)
    append(Path("results/h100.csv"), result)

A field that was not measured stays None: an empty cell. Needs the standard library only, so that it runs on a machine
that has no DVC; `cutrec.device` looks at the device.
"""

from __future__ import annotations

import csv
import fcntl
import io
import math
import os
import types
import typing
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from cutrec.environment import now, revision, versions
from cutrec.reporting.result import COLUMNS, KEY, RANGES, Kind, Result, Status, as_text, of_run, point_fields

__all__ = [
    "COLUMNS", "KEY", "RANGES", "Kind", "Result", "ResultsError", "Status", "append", "done", "merge",
    "now", "of_run", "point_fields", "read", "revision", "versions",
]  # fmt: skip


SCHEMA = "cutrec.reporting.result.Result"


class ResultsError(ValueError):
    """A results file that cannot be read; the text is one line with the file, the line and the column."""


def append(path: Path, result: Result) -> None:
    """Add one row; the file and its folder are made if missing.

    The row is one write to the end of the file under a lock, so several processes can share a file, and a process
    killed at any moment leaves whole rows. A last line that a power cut broke off is removed.

    Raises:
        ResultsError: the file has other columns, or has them in another order.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        present = file.read()
        whole = present[: present.rfind(b"\n") + 1]
        if whole != present:
            file.truncate(len(whole))
        if whole:
            header = next(csv.reader(io.StringIO(whole.decode())))
            _check_columns(path, header)
            if header != list(COLUMNS):
                raise ResultsError(f"{path}: columns: found another order, allowed: that of {SCHEMA}")
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        if not whole:
            writer.writerow(COLUMNS)
        writer.writerow([as_text(value) for value in asdict(result).values()])
        file.write(lines.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Result]:
    """The results of a file, in its order; none if there is no such file. A last line that broke off is left out.

    Raises:
        ResultsError: other columns, or a cell that is not of its column's type or outside of its `RANGES`.
    """
    if not path.exists():
        return []
    try:
        whole = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path}: is no text in UTF-8, allowed: a CSV file with the columns of {SCHEMA}") from error
    if "\n" in whole:
        whole = whole[: whole.rindex("\n") + 1]
    reader = csv.reader(io.StringIO(whole, newline=""))
    header = next(reader, [])
    _check_columns(path, header)
    return [_parse(path, number, header, row) for number, row in enumerate(reader, start=2)]


def merge(groups: Iterable[Iterable[Result]]) -> list[Result]:
    """One result for each key, device and kind of outcome: the one measured last.

    Args:
        groups: results of several files; of two without a date, the later in order counts.

    Returns:
        In order of first appearance.
    """
    kept: dict[tuple[object, ...], Result] = {}
    for group in groups:
        for result in group:
            key = (*result.key, result.device)
            if key not in kept or (result.measured_at or "") >= (kept[key].measured_at or ""):
                kept[key] = result
    return list(kept.values())


def done(path: Path, device: str) -> set[tuple[object, ...]]:
    """Keys that a file already holds for a device; a row that failed counts, delete it to try again.

    Args:
        path: the file.
        device: as in `Result.device`.
    """
    return {result.key for result in read(path) if result.device == device}


def _check_columns(path: Path, found: list[str]) -> None:
    missing, unknown = set(COLUMNS) - set(found), set(found) - set(COLUMNS)
    if not set(COLUMNS) & set(found):
        raise ResultsError(f"{path}: is no results file, allowed: a CSV file with the columns of {SCHEMA}")
    twice = {name for name in found if found.count(name) > 1}
    if missing or unknown or twice:
        what = ", ".join(sorted(missing or unknown or twice))
        what = f"missing {what}" if missing else f"unknown {what}" if unknown else f"{what} twice"
        raise ResultsError(f"{path}: columns: {what}; allowed: those of {SCHEMA}, each once")


def _parse(path: Path, number: int, header: list[str], row: list[str]) -> Result:
    if len(row) != len(header):
        raise ResultsError(f"{path} line {number}: found {len(row)} cells, allowed: {len(header)}")
    hints = typing.get_type_hints(Result)
    values = {}
    for name, text in zip(header, row, strict=True):
        try:
            values[name] = _value(name, hints[name], _semicolons(text) if name == "options" else text)
        except ValueError:
            wanted = _words(name, hints[name])
            raise ResultsError(f"{path} line {number}: {name}: found {text!r}, allowed: {wanted}") from None
    return Result(**values)


def _semicolons(text: str) -> str:
    """Options as they are written now: earlier files have blanks between them."""
    parts = text.split()
    return ";".join(sorted(parts)) if all("=" in part for part in parts) else text


def _kind(hint: Any) -> tuple[Any, bool]:
    """A column's type without None, and whether its cells may be empty."""
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    (kind,) = (choice for choice in choices if choice is not types.NoneType)
    return kind, types.NoneType in choices


def _words(name: str, hint: Any) -> str:
    """What a column may hold, in words."""
    kind, may_be_empty = _kind(hint)
    if typing.get_origin(kind) is Literal:
        words = " | ".join(typing.get_args(kind))
    else:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[kind]
    words += RANGES[name].words if name in RANGES else ""
    return f"{words}, or nothing" if may_be_empty else words


def _value(name: str, hint: Any, text: str) -> Any:
    """The value of a cell; ValueError if it is not of the column's type or out of its range."""
    kind, may_be_empty = _kind(hint)
    if text == "":
        if may_be_empty:
            return None
        raise ValueError
    if typing.get_origin(kind) is Literal:
        if text not in typing.get_args(kind):
            raise ValueError
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError
        return text == "true"
    value = kind(text)
    if name in RANGES and not (math.isfinite(value) and RANGES[name].low <= value <= RANGES[name].high):
        raise ValueError
    return value
