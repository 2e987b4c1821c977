"""Split a log into train, validation and test sequences over dense ids."""

import sys
from pathlib import Path
from typing import Any

from cutrec.checksums import checksum, verified, write_checksums
from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, unchanged, write_json
from cutrec.reporting.remarks import split_remarks
from rec_data.splits.split import split_log


def split(config: Config, log: Path, out: Path) -> None:
    """Filter and split a parquet of user_id, item_id, timestamp into sequences, items, users and ``summary.json``.

    The summary has the SHA-256 of the log as ``log_sha256``, by which a later command recognizes it.

    Prints what the reader of the metrics must know, such as ties in time and targets that no list can hold.

    Raises:
        DataError: the filters leave too little.
        StageError: a missing or damaged log, one that another process replaced while it was read, or a temporal split
            of a log whose times are positions.
    """
    with atomic_folder(out) as folder, unchanged(log):
        summary = split_log(
            verified(log),
            folder,
            config.split,
            seed=config.seed,
            filter_seen=config.evaluate.filter_seen,
            paper_faithful=config.paper_faithful and config.split.strategy == "temporal",
            tie_seed=config.download.tie_seed(config.seed),
        )
        complete(config, folder, summary | {"log_sha256": checksum(log)})


def complete(config: Config, folder: Path, summary: dict[str, Any]) -> None:
    """Add the checksums to a split that was made by the settings, check it and print the remarks on it.

    Raises:
        StageError: it is a temporal split of a log whose times are positions.
    """
    write_json(folder / "summary.json", summary)
    write_checksums(folder)
    # Positions in each user's sequence cannot be compared between users, so their temporal split is meaningless.
    if summary["strategy"] == "temporal" and not summary["clock"]:
        raise StageError(
            f"split.strategy: found temporal with times around {summary['boundary_time']}, which are positions and "
            "not Unix times after 1990, allowed: leave_one_out, a timestamp column that holds a clock, or "
            "download.time_format if it holds dates in another form"
        )
    for remark in split_remarks(config, summary):
        print(f"note: {remark.line}", file=sys.stderr)
