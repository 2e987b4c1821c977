"""The raw log of a configuration: its identity, and its events as one parquet."""

from pathlib import Path
from typing import Any

from cutrec.config import Config
from rec_data.sources.fetch import fetch_log, fingerprint


def identify(config: Config, *, root: Path) -> dict[str, Any]:
    """The identity of the log that ``dataset`` and ``download`` name: the hash of its files.

    Relative paths start from `root`.

    Raises:
        DataError: there is no such log.
    """
    return fingerprint(config.dataset, root=root, settings=config.download)


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
