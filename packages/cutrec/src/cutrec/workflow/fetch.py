"""The raw log that a point names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cutrec import config
from cutrec.workflow import outputs as stage


def fetch(point: config.Config, path: Path) -> dict[str, Any]:
    """Fetch a log and write it as one parquet of user_id, item_id, timestamp[, rating].

    Args:
        point: ``dataset`` and ``download`` say which log, and how to read it; its ``seed`` changes no log, that of the
            demo and the twins neither: they are data sets as others are.
        path: the parquet.

    Returns:
        What was read, as `rec_data.sources.fetch.fetch_log` tells it.

    Raises:
        DataError: no such log, or one that cannot be read.
    """
    from rec_data.schema import Columns
    from rec_data.sources.fetch import fetch_log

    names = point.download.columns
    return fetch_log(
        point.dataset,
        path,
        root=stage.checkout(),
        columns=Columns(names.user, names.item, names.timestamp, names.rating),
        min_rating=point.download.min_rating,
        mirror=stage.mirror(point),
    )
