"""The raw formats of the published data sets, each opened as a lazy frame.

Errors inside a file appear when the frame is read; ``rec_data.raw.files.reading`` turns them into a ``DataError``.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from rec_data.errors import DataError
from rec_data.raw import files
from rec_data.raw.archives import extract, is_litter
from rec_data.raw.rows import PLACE, placed

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


def read_amazon(path: Path, work: Path) -> pl.LazyFrame:
    """Read ratings of the Amazon reviews of 2018: item, user, rating and Unix time, separated by commas, no header.

    rs_datasets 0.5.1 takes the first column for the user, as it is in the release of 2014.

    Raises:
        DataError: The first line has the user before the item, as the files of 2014.
    """
    names = ("item_id", "user_id", "rating", "timestamp")
    frame = _fields(path, ",", names)
    with files.reading(f"file {path}"):
        first = frame.select(names).head(1).collect().rows()
    if first and None not in first[0] and first[0][0].startswith("A") and not first[0][1].startswith("A"):
        raise DataError(
            f"file {path}: line 1 is {','.join(first[0])}, with the user before the item, as in the release of 2014; "
            "allowed: item,user,rating,timestamp, as in the release of 2018"
        )
    return frame


def read_checkins(path: Path, work: Path) -> pl.LazyFrame:
    """Read SNAP check-ins: user, ISO time with Z, latitude, longitude and location, separated by tabs, no header."""
    return _fields(path, "\t", ("user", "time", "latitude", "longitude", "location"))


def read_idomaar(path: Path, work: Path) -> pl.LazyFrame:
    """Read Idomaar play events: type, id, Unix time, JSON of properties, JSON of the linked user and track.

    The fields are extracted from the whole line, because releases differ in the separator before the last one.
    """
    line = pl.col("line")

    def linked(kind: str) -> pl.Expr:
        return line.str.extract(rf'"type"\s*:\s*"{kind}"\s*,\s*"id"\s*:\s*"?([0-9]+)')

    return (
        _lines(path)
        .filter(line.str.starts_with("event.play"))
        .select(
            linked("user").alias("user"),
            linked("track").alias("track"),
            line.str.extract(r"^event\.play\s+[0-9]+\s+([0-9]+)").alias("time"),
            PLACE,
        )
    )


def read_movielens(path: Path, work: Path) -> pl.LazyFrame:
    """Read a MovieLens archive of any release: ``user_id``, ``item_id``, ``rating``, ``timestamp``.

    rs_datasets reads it, from the layout that its own downloader would have created. If rs_datasets is not installed,
    or if the archive lacks one of the other files that it requires, the ratings are read directly, to the same result.
    """
    release = path.name.removesuffix(".zip")
    names = _MOVIELENS_FILES.get(release, _LATER_FILES)
    folder = _lay_out(path, release, work, names)
    if find_spec("rs_datasets") is None or not all((folder / name).is_file() for name in names):
        return read_ratings(folder / names[0], work)
    for name in names:
        if name.endswith(".dat"):
            (folder / name).write_bytes((folder / name).read_bytes().replace(b"::", b"\t"))
    from rs_datasets import MovieLens

    version = release.removeprefix("ml-").removeprefix("latest-")
    try:
        ratings = MovieLens(version, path=str(folder.parent)).ratings
    except Exception as error:  # its readers raise errors of many types
        reason = " ".join(str(error).replace(f"{folder}/", "").split())[:300]
        raise DataError(f"archive {path}: rs_datasets cannot read it: {reason}") from error
    return pl.from_pandas(ratings).lazy()


def read_ratings(path: Path, work: Path) -> pl.LazyFrame:
    """Read the file of ratings of an unpacked MovieLens archive (``_MOVIELENS_FILES``) without rs_datasets."""
    if path.suffix == ".csv":
        return files.scan([path]).rename({"userId": "user_id", "movieId": "item_id"}, strict=False)
    return _fields(path, "::" if path.suffix == ".dat" else "\t", ("user_id", "item_id", "rating", "timestamp"))


READERS: dict[str, Reader] = {
    "parquet": read_table,
    "csv": read_table,
    "amazon": read_amazon,
    "checkins": read_checkins,
    "idomaar": read_idomaar,
    "movielens": read_movielens,
    "ratings": read_ratings,
}


def _lines(path: Path) -> pl.LazyFrame:
    """Open a text file as a column ``line``, without line ends and empty lines; quotes mean nothing."""
    lines = pl.scan_csv(
        path,
        has_header=False,
        separator="\x01",
        quote_char=None,
        infer_schema=False,
        new_columns=["line"],
        glob=False,
        row_index_name=PLACE,
    )
    lines = placed(lines.with_columns(pl.col("line").str.strip_chars_end("\r")), f"{path}, line ")
    return lines.filter(pl.col("line") != "")


def _fields(path: Path, separator: str, names: tuple[str, ...]) -> pl.LazyFrame:
    """Open a text file without header and quotes as columns of strings; a line with more fields has only nulls."""
    split = _lines(path).with_columns(pl.col("line").str.split_exact(separator, len(names)))
    fits = pl.col("line").struct.field(f"field_{len(names)}").is_null()
    return split.select(
        *(
            pl.when(fits).then(pl.col("line").struct.field(f"field_{place}")).alias(name)
            for place, name in enumerate(names)
        ),
        PLACE,
    )


def _lay_out(archive: Path, release: str, work: Path, names: tuple[str, ...]) -> Path:
    """Unpack a MovieLens archive to the folder ``ml-<version>``, where rs_datasets expects it."""
    raw = extract(archive, work / "raw")
    inside = [found for found in raw.iterdir() if found.is_dir() and not is_litter(found, raw)]
    if len(inside) != 1:
        raise DataError(f"archive {archive} holds {len(inside)} folders; allowed: one, as in every MovieLens release")
    if not (inside[0] / names[0]).is_file():
        raise DataError(f"archive {archive} holds no {inside[0].name}/{names[0]}, the ratings of this release")
    return inside[0].rename(work / release)
