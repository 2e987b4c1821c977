"""Stage ``split``: the log becomes train, validation and test sequences over dense ids.

    python -m pipelines.split

Reads ``split`` and ``seed`` of params.yaml and ``data/download/log.parquet``; writes ``data/split/``.
"""

from __future__ import annotations

from typing import Any

from cutrec import config
from cutrec.workflow import outputs as stage

YEAR = 365 * 86_400
"""Seconds."""


def main() -> None:
    """Filter and split the log."""
    point = config.load()

    from rec_data.splits.split import split_log

    with stage.output(stage.DATA / "split") as out:
        summary = split_log(
            stage.DATA / "download" / "log.parquet",
            out,
            strategy=point.split.strategy,
            test_fraction=point.split.test_fraction,
            validation_users=point.split.validation_users,
            min_item_count=point.split.min_item_count,
            min_user_count=point.split.min_user_count,
            seed=point.seed,
            filter_seen=point.evaluate.filter_seen,
            paper_faithful=point.paper_faithful and point.split.strategy == "temporal",
        )
        refuse_positions(summary)


def refuse_positions(summary: dict[str, Any]) -> None:
    """Refuse to cut a log in time where its times are positions in each user's sequence.

    Such numbers cannot be compared between users, so the split would mean nothing. They are told by their size: no log
    of interactions ends in 1970.

    Raises:
        StageError: naming the split that fits.
    """
    if summary["strategy"] == "temporal" and summary["timestamp_unit"] == "s" and summary["boundary_time"] < YEAR:
        raise stage.StageError(
            f"split.strategy: found temporal with times around {summary['boundary_time']}, which are positions and no "
            "Unix seconds, allowed: leave_one_out, or a timestamp column that holds a clock"
        )


if __name__ == "__main__":
    stage.run(main)
