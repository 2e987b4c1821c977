"""The raw log of a configuration: its identity, and its events as one parquet."""

import sys
from pathlib import Path
from typing import Any

from cutrec.checksums import write_checksums
from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, write_json
from cutrec.paths import LOG
from rec_data.raw.finding import looks_like_path
from rec_data.sources.fetch import fetch_log, fingerprint
from rec_data.sources.registry import is_name
from rec_data.stated import stated


def identify(config: Config, *, root: Path) -> dict[str, Any]:
    """The identity of the log that ``dataset`` and ``download`` name: the hash of its files.

    Relative paths start from `root`.

    Raises:
        DataError: there is no such log.
    """
    return fingerprint(config.dataset, root=root, settings=config.download)


def refuse_no_file(option: str, name: str, *, root: Path) -> None:
    """Refuse a word that names neither a file or folder nor a data set, where a file is what users mean.

    Raises:
        StageError: naming the option.
    """
    if not (looks_like_path(name) or is_name(name) or (root / name).exists()):
        allowed = "a path of parquet or CSV files, or the name of a data set"
        raise StageError(f"{option}: found {name!r}, which is no file or folder, allowed: {allowed}")


def fetch(config: Config, path: Path, *, root: Path) -> dict[str, Any]:
    """Fetch a log and write it as one parquet of user_id, item_id, timestamp[, rating].

    ``dataset`` and ``download`` say which log, and how to read it; relative paths start from `root`. ``seed`` has no
    influence: the demo and the synthetic logs are data sets like others.

    Returns:
        The summary of what was read, as returned by `rec_data.sources.fetch.fetch_log`.

    Raises:
        DataError: there is no such log, or it cannot be read.
    """
    return fetch_log(config.dataset, path, root=root, settings=config.download)


def download(config: Config, out: Path, *, root: Path) -> None:
    """Fetch a log into a folder: ``log.parquet`` and ``summary.json``. Prints what was left out.

    Raises:
        DataError: as `fetch`.
    """
    with atomic_folder(out) as folder:
        summary = fetch(config, folder / LOG.name, root=root)
        write_json(folder / "summary.json", summary)
        write_checksums(folder)
    for line in read_remarks(config, summary):
        print(f"note: {line}", file=sys.stderr)


def read_remarks(config: Config, summary: dict[str, Any]) -> list[str]:
    """Remarks on the rows that `fetch` left out, on times after today and on a setting without effect; a line each."""
    counts = {
        "of other kinds of events": summary.get("rows_of_other_events", 0),
        "duplicates": summary.get("duplicates_dropped", 0),
        "without user, item or time": summary.get("rows_incomplete", 0),
    }
    counts["with a rating that is too low"] = summary["rows_read"] - summary["rows"] - sum(counts.values())
    dropped = {reason: count for reason, count in counts.items() if count}
    lines = []
    if dropped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        lines.append(f"{sum(dropped.values()):,} of {summary['rows_read']:,} rows are left out: {reasons}")
    if later := summary.get("rows_after_today"):
        lines.append(
            f"{later:,} of {summary['rows']:,} rows have times after today; a temporal split tests on the latest ones: "
            "remove them if such a time stands for an unknown one"
        )
    if config.download.duplicates == "drop" and config.download.columns.timestamp is None:
        lines.append(drop_without_effect())
    return lines


def drop_without_effect() -> str:
    """The remark on ``download.duplicates`` with rows that have no times."""
    return f"{stated({'download.duplicates': 'drop'})} has no effect on rows without times, which may be repetitions"
