"""The raw formats of the published data sets, each opened as a lazy frame.

Errors inside a file appear when the frame is read; ``rec_data.raw.files.reading`` turns them into a ``DataError``.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl

from rec_data.config import Format
from rec_data.errors import DataError
from rec_data.raw import files
from rec_data.raw.archives import extract, is_litter

Reader = Callable[[Path, Path], pl.LazyFrame]
"""Takes a raw file and an empty work folder that lives as long as the frame. Columns of text files are strings."""

_MOVIELENS_FILES = {
    "ml-100k": ("u.data", "u.user", "u.item"),
    "ml-1m": ("ratings.dat", "movies.dat", "users.dat"),
    "ml-10m": ("ratings.dat", "movies.dat", "tags.dat"),
}
"""The files of a release that rs_datasets reads, the ratings first. Fields of .dat files are separated by "::"."""

_LATER_FILES = ("ratings.csv", "movies.csv", "tags.csv", "links.csv")
"""The same for all other releases."""


def read_table(path: Path, work: Path) -> pl.LazyFrame:
    """Read parquet, or CSV with a header."""
    return files.scan([path])


def read_checkins(path: Path, work: Path) -> pl.LazyFrame:
    """Read SNAP check-ins: user, ISO time with Z, latitude, longitude and location, separated by tabs, no header."""
    return _read_tabs(path, ["user", "time", "latitude", "longitude", "location"])


def read_idomaar(path: Path, work: Path) -> pl.LazyFrame:
    """Read Idomaar play events: type, id, Unix time, JSON of properties, JSON of the linked user and track.

    The fields are extracted from the whole line, because releases differ in the separator before the last one.
    """
    lines = pl.scan_csv(
        path, has_header=False, separator="\x01", quote_char=None, infer_schema=False, new_columns=["line"], glob=False
    )
    line = pl.col("line")

    def linked(kind: str) -> pl.Expr:
        return line.str.extract(rf'"type"\s*:\s*"{kind}"\s*,\s*"id"\s*:\s*"?([0-9]+)')

    return lines.filter(line.str.starts_with("event.play")).select(
        linked("user").alias("user"),
        linked("track").alias("track"),
        line.str.extract(r"^event\.play\s+[0-9]+\s+([0-9]+)").alias("time"),
    )


def read_movielens(path: Path, work: Path) -> pl.LazyFrame:
    """Read a MovieLens archive of any release: ``user_id``, ``item_id``, ``rating``, ``timestamp``.

    rs_datasets reads it, from the layout that its own downloader would have created. If rs_datasets cannot be installed
    (its dependency datatable has no wheel after Python 3.11), or if the archive lacks one of the other files that it
    requires, the ratings are read directly, with the same result.
    """
    release = path.name.removesuffix(".zip")
    names = _MOVIELENS_FILES.get(release, _LATER_FILES)
    folder = _lay_out(path, release, work, names)
    if sys.version_info >= (3, 12) or not all((folder / name).is_file() for name in names):
        return read_ratings(folder)
    from rs_datasets import MovieLens

    version = release.removeprefix("ml-").removeprefix("latest-")
    try:
        ratings = MovieLens(version, path=str(folder.parent)).ratings
    except Exception as error:  # its readers raise errors of many types
        reason = " ".join(str(error).replace(f"{folder}/", "").split())[:300]
        raise DataError(f"archive {path}: rs_datasets cannot read it: {reason}") from error
    return pl.from_pandas(ratings).lazy()


def read_ratings(folder: Path) -> pl.LazyFrame:
    """Read the ratings of an unpacked MovieLens archive without rs_datasets."""
    names = ["user_id", "item_id", "rating", "timestamp"]
    for name in ("u.data", "ratings.dat"):
        if (path := folder / name).exists():
            return _read_tabs(path, names)
    ratings = files.scan([folder / "ratings.csv"])
    return ratings.rename(dict(zip(ratings.collect_schema(), names, strict=True)))


READERS: dict[str, Reader] = {
    "parquet": read_table,
    "csv": read_table,
    "checkins": read_checkins,
    "idomaar": read_idomaar,
    "movielens": read_movielens,
}


def _read_tabs(path: Path, names: list[str]) -> pl.LazyFrame:
    """Read fields separated by tabs, without header and quotes."""
    table = files.scan([path], text_format=Format(separator="tab", quote="none", escape="none", header=False))
    return table.rename(dict(zip(table.collect_schema(), names, strict=True)))


def _lay_out(archive: Path, release: str, work: Path, names: tuple[str, ...]) -> Path:
    """Unpack a MovieLens archive as rs_datasets expects it: folder ``ml-<version>``, fields separated by tabs."""
    raw = extract(archive, work / "raw")
    inside = [found for found in raw.iterdir() if found.is_dir() and not is_litter(found, raw)]
    if len(inside) != 1:
        raise DataError(f"archive {archive} holds {len(inside)} folders; allowed: one, as in every MovieLens release")
    if not (inside[0] / names[0]).is_file():
        raise DataError(f"archive {archive} holds no {inside[0].name}/{names[0]}, the ratings of this release")
    folder = inside[0].rename(work / release)
    for name in names:
        if name.endswith(".dat") and (folder / name).is_file():
            (folder / name).write_bytes((folder / name).read_bytes().replace(b"::", b"\t"))
    return folder
