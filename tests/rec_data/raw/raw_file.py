"""A small raw file, and the log that is read from it."""

import datetime as dt

import polars as pl

from rec_data.config import Columns, Download
from rec_data.sources.fetch import fetch_log

NOON = dt.datetime(2024, 1, 31, 12)
SECONDS = 1706702400


def fetch(tmp_path, columns=None, *, name="raw.parquet", names=Columns(), min_rating=None):  # noqa: B008
    """Writes a raw file, fetches it, returns rows and summary."""
    if columns is not None:
        filled = {"user_id": [1, 2], "item_id": [3, 4], "timestamp": [5, 6], **columns}
        frame = pl.DataFrame(filled, strict=False)
        frame.write_parquet(tmp_path / name)
    settings = Download(columns=names, min_rating=min_rating)
    summary = fetch_log(name, tmp_path / "log.parquet", root=tmp_path, settings=settings)
    return pl.read_parquet(tmp_path / "log.parquet"), summary
