"""Results files: CSV with one row per point and kind, and the fields of `cutrec.reporting.result.Result` as columns.

A program that measures appends each `Result` as soon as it has it, so a killed run keeps its rows and the next one asks
`done` what is left. `pipelines.paper.tables` merges any number of such files with the experiments that DVC knows.

    result = Result.of(point, "training", **cutrec.environment.environment(), steps_timed=30, step_ms=3.4)
    append(Path("results/h100.csv"), result)

A field that was not measured is an empty cell.
"""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from cutrec.environment import now, versions
from cutrec.errors import ResultsError
from cutrec.reporting.result import COLUMNS, Kind, Result, Status, of_run
from rec_data.locks import locked

__all__ = ["COLUMNS", "Kind", "Result", "Status", "append", "done", "merge", "now", "of_run",
           "read", "versions", "write"]  # fmt: skip

SCHEMA = f"{Result.__module__}.{Result.__qualname__}"
_ROW = TypeAdapter(Result)


def append(path: Path, result: Result) -> None:
    """Add one row; the file and its folder are made if missing.

    Several processes may append to one file. A process that is killed leaves whole rows: an incomplete last line, after
    a power failure for example, is removed by the next call.

    Raises:
        ResultsError: the file has other columns, or has them in another order.
    """
    with locked(path), path.open("a+b") as file:
        file.seek(0)
        present = file.read()
        whole = present[: present.rfind(b"\n") + 1]
        file.truncate(len(whole))
        if whole:
            header = next(csv.reader(io.StringIO(whole.decode())))
            _check_columns(path, header)
            if header != list(COLUMNS):
                raise ResultsError(f"{path}: columns: found another order, allowed: that of {SCHEMA}")
        file.write(_as_csv([*([] if whole else [COLUMNS]), _cells(result)]).encode())
        file.flush()
        os.fsync(file.fileno())


def write(path: Path, results: Iterable[Result]) -> None:
    """Write a file of its own, without a lock; replaces what is there."""
    path.write_text(_as_csv([COLUMNS, *map(_cells, results)]), encoding="utf-8")


def read(path: Path) -> list[Result]:
    """The results of a file, in its order; none if there is no such file. An incomplete last line is ignored.

    Raises:
        ResultsError: other columns, or a cell that its field of `Result` does not allow.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path}: not UTF-8 text, allowed: a CSV file with the columns of {SCHEMA}") from error
    if "\n" in text:
        text = text[: text.rindex("\n") + 1]
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, [])
    _check_columns(path, header)
    return [_parse(f"{path} line {number}", header, row) for number, row in enumerate(reader, start=2)]


def merge(groups: Iterable[Iterable[Result]]) -> list[Result]:
    """One result for each key and device, in order of first appearance: the one measured last.

    Of two without a date, the later in order counts.
    """
    kept: dict[tuple[object, ...], Result] = {}
    for group in groups:
        for result in group:
            key = (*result.key, result.device)
            if key not in kept or (result.measured_at or "") >= (kept[key].measured_at or ""):
                kept[key] = result
    return list(kept.values())


def done(path: Path, device: str) -> set[tuple[object, ...]]:
    """Keys that a file already holds for a device; a failed row counts as well, delete it to try again."""
    return {result.key for result in read(path) if result.device == device}


def _check_columns(path: Path, found: list[str]) -> None:
    missing, unknown = set(COLUMNS) - set(found), set(found) - set(COLUMNS)
    repeated = {name for name in found if found.count(name) > 1}
    if not set(COLUMNS) & set(found):
        raise ResultsError(f"{path}: not a results file, allowed: a CSV file with the columns of {SCHEMA}")
    for what, names in (("missing", missing), ("unknown", unknown), ("repeated", repeated)):
        if names:
            allowed = f"allowed: those of {SCHEMA}, each once"
            raise ResultsError(f"{path}: columns: {what} {', '.join(sorted(names))}; {allowed}")


def _parse(place: str, header: list[str], row: list[str]) -> Result:
    if len(row) != len(header):
        raise ResultsError(f"{place}: found {len(row)} cells, allowed: {len(header)}")
    try:
        return _ROW.validate_python({name: text for name, text in zip(header, row, strict=True) if text})
    except ValidationError as error:
        problem = error.errors()[0]
        missing = problem["type"] == "missing"
        found = "" if missing else problem["input"]
        allowed = "a value" if missing else problem["msg"].removeprefix("Input should be ")
        raise ResultsError(f"{place}: {problem['loc'][0]}: found {found!r}, allowed: {allowed}") from None


def _as_csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cells(result: Result) -> list[str]:
    """Empty for None, true and false as in YAML, text on one line."""
    cells = []
    for value in asdict(result).values():
        text = "" if value is None else " ".join(str(value).split())
        cells.append(text.lower() if isinstance(value, bool) else text)
    return cells
