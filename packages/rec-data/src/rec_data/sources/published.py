"""From the name of a published data set to its log."""

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import requests

from rec_data.errors import DataError
from rec_data.raw import files
from rec_data.raw.archives import extract, is_litter
from rec_data.raw.formats import READERS
from rec_data.raw.normalise import Normalised, write_log
from rec_data.sources import http as download
from rec_data.sources import kaggle as kaggle_files
from rec_data.sources.registry import RS_SETS, SOURCES, VERSION, Raw, Source
from rec_data.sources.rs_datasets import find_raw, read_cached, read_mirrored

YANDEX_DISK = "https://cloud-api.yandex.net/v1/disk/public/resources/download?public_key="


def write_published(name: str, out: Path, *, mirror: Path | None, min_rating: float | None) -> Normalised:
    """Fetches a published data set, unless it is here already, and writes its log.

    Args:
        name: A key of ``SOURCES`` or ``RS_SETS``.
        out: The parquet to write.
        mirror: A folder that already holds the raw file; nothing is downloaded then.
        min_rating: Keep ratings of at least this, in place of the published filter.

    Returns:
        Counts and the unit of time.

    Raises:
        DataError: The raw file cannot be had or read.
    """
    if name in RS_SETS:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix="raw-") as work:
            if mirror is not None:
                frame, columns = read_mirrored(name, mirror=mirror, work=Path(work))
            else:
                frame, columns = read_cached(name, cache=cache_folder() / "rs_datasets", work=Path(work))
            return write_log(frame, out, columns=columns, min_rating=min_rating, origin=f"dataset {name!r}")
    source = SOURCES[name]
    raw, path = _from_mirror(name, source, mirror) if mirror is not None else _fetch(source)
    origin = f"dataset {name!r} ({path.name})"
    above = source.above if min_rating is None else None
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="raw-") as work, files.reading(origin):
        frame = READERS[raw.reader](path, Path(work))
        if raw.keep is not None:
            column, value = raw.keep
            present = frame.collect_schema().names()
            if column not in present:
                raise DataError(f"{origin} has no column {column!r}; its columns are: {', '.join(present)}")
            frame = frame.filter(pl.col(column) == value)
        return write_log(frame, out, columns=raw.columns, min_rating=min_rating, above=above, origin=origin)


def identity(name: str, *, mirror: Path | None) -> dict[str, Any]:
    """What the log of a published data set is made from, ready for JSON.

    Args:
        name: A key of ``SOURCES`` or ``RS_SETS``.
        mirror: As ``write_published`` takes it.

    Raises:
        DataError: The mirror does not hold the raw file, or a damaged one.
    """
    if name in RS_SETS:
        made: dict[str, Any] = {"kind": "rs_datasets", "name": name, "version": VERSION}
        if mirror is not None:
            made["files"] = {path.name: files.sha256(path) for path in find_raw(name, mirror)}
        return made
    source = SOURCES[name]
    if mirror is not None:
        _, path = _from_mirror(name, source, mirror)
        return {"kind": "mirror", "name": name, "version": VERSION, "file": path.name, "sha256": files.sha256(path)}
    raw = source.raws[0]
    return {"kind": "published", "name": name, "version": VERSION, "address": raw.address, "checksum": raw.checksum}


def cache_folder() -> Path:
    """Where downloads are kept: ``$REC_DATA_CACHE``, or ``rec_data`` in the user's cache folder."""
    if folder := os.environ.get("REC_DATA_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rec_data"


def _from_mirror(name: str, source: Source, mirror: Path) -> tuple[Raw, Path]:
    if not mirror.is_dir():
        raise DataError(f"download.mirror {mirror} is no folder")
    for raw in source.raws:
        path = mirror / raw.file
        if path.is_file():
            advice = "put the published file in its place"
            if raw.checksum is None:
                advice += f", or correct {path.name}.sha256"
            download.check(path, raw.checksum, advice=advice)
            return raw, path
    for raw in source.raws:
        if (mirror / raw.file).is_dir():
            raise DataError(f"download.mirror {mirror}: {raw.file} is a folder; expected the file of this name")
    wanted = " or ".join(raw.file for raw in source.raws)
    raise DataError(f"download.mirror {mirror} holds no {wanted}, which dataset {name!r} is read from")


def _fetch(source: Source) -> tuple[Raw, Path]:
    raw = source.raws[0]
    path = cache_folder() / raw.file
    if raw.fetcher == "http":
        download.download(raw.address, path, checksum=raw.checksum)
    elif raw.fetcher == "kaggle":
        kaggle_files.download(raw.address, raw.file, path)
    elif raw.fetcher == "yandex_disk":
        _from_yandex_disk(raw, path)
    return raw, path


def _from_yandex_disk(raw: Raw, path: Path) -> None:
    """A public file: its address changes from day to day, and has to be asked for. A public folder comes as a zip."""
    question = YANDEX_DISK + quote(raw.address, safe="")
    with download.locked(path):
        if path.exists():
            download.check(path, raw.checksum)
            return
        try:
            answer = requests.get(question, timeout=download.TIMEOUT)
            answer.raise_for_status()
            href = str(answer.json()["href"])
        except (requests.RequestException, KeyError, ValueError) as error:
            raise DataError(f"{raw.address}: its disk gives no download address: {error}") from error
        shared = download.download(href, path.with_name(path.name + ".shared"), checksum=raw.checksum)
        found = shared
        if zipfile.is_zipfile(shared):
            folder = extract(shared, path.with_name(path.name + ".unpacked"))
            inside = sorted(found for found in folder.rglob("*" + path.suffix) if not is_litter(found, folder))
            if len(inside) != 1:
                raise DataError(f"{raw.address} holds {len(inside)} {path.suffix} files; expected one")
            found = inside[0]
        try:
            download.keep(found, path)
        except DataError:
            shared.unlink()
            raise
