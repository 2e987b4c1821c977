"""The user's own files, wherever they lie: local ones as they are, those behind an address copied first.

Addresses are read through the file systems of pyarrow (s3, gs, abfs, hdfs), through our own downloads (http, https), or
through fsspec (the extra ``remote``). Credentials come from the environment, as each system's own tools find them.
"""

import re
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import fs

from rec_data.errors import DataError, writing
from rec_data.progress import progress
from rec_data.raw import finding
from rec_data.sources.cache import cache_folder

_CHUNK = 1 << 22
_PATIENCE = {"gs": "retry_limit_seconds=30", "gcs": "retry_limit_seconds=30"}
"""Options of addresses without any: Google's client would try for 15 minutes if there is no network."""

ACCESS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, and the bucket's region as "
    "?region=eu-west-1 at the end of the address",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS in the environment",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS in the environment",
}
"""What reading from the usual stores takes."""


class Address(NamedTuple):
    """An address ``scheme://authority/path?options``."""

    scheme: str
    authority: str
    path: str
    options: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}/{self.path}"


def parse(dataset: str) -> Address | None:
    """Take an address apart; None if ``dataset`` is none, or that of a local file.

    Raises:
        DataError: It holds a password, or leaves its own folder.
    """
    if not finding.is_address(dataset):
        return None
    scheme, _, rest = dataset.strip().partition("://")
    rest, _, options = rest.partition("?")
    authority, _, path = rest.partition("/")
    address = Address(scheme.lower(), authority, path.lstrip("/"), options)
    if ":" in address.authority.rpartition("@")[0]:
        raise DataError(f"dataset {address.scheme}://... holds a password; allowed: credentials in the environment")
    if ".." in PurePosixPath(address.authority, address.path).parts:
        raise DataError(f"dataset {dataset!r} holds '..'; allowed: an address without it")
    return address


@contextmanager
def located(dataset: str, *, root: Path, folder: Path | None = None) -> Iterator[dict[str, Path]]:
    """Find the files of a path, a glob or an address: a dictionary of their names and the local files to read.

    Files behind an address are copied to a temporary folder in ``folder``, by default that of downloads, and deleted
    afterwards. Errors that are raised meanwhile name them by their address.

    Raises:
        DataError: There is no such file, it cannot be copied, or what ``rec_data.raw.finding.find`` raises.
    """
    address = parse(dataset)
    if address is None:
        yield {str(path): path for path in finding.find(dataset, root=root)}
        return
    if folder is None:
        folder = cache_folder()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="raw-") as work:
        try:
            copies = (
                _download(address, Path(work)) if address.scheme in ("http", "https") else _copy(address, Path(work))
            )
            kept = finding.check(list(copies.values()), dataset)
            yield {name: path for name, path in copies.items() if path in kept}
        except DataError as error:
            raise DataError(str(error).replace(f"{work}/", f"{address.scheme}://")) from error


def _download(address: Address, work: Path) -> dict[str, Path]:
    from rec_data.sources import http

    target = work / address.authority / address.path
    finding.check_suffix(target)
    url = f"{address}?{address.options}" if address.options else str(address)
    return {str(address): http.download(url, target)}


def _copy(address: Address, work: Path) -> dict[str, Path]:
    """Copy one or more objects: their addresses in order, and the copies."""
    with reading(address):
        system, base = open_system(address)
        found = _list(system, base, address)
    copies = {}
    for info in found:
        name = address._replace(path=info.path.removeprefix(base).lstrip("/"))
        target = work / name.authority / name.path
        finding.check_suffix(target)
        copy_object(system, info, target, name)
        copies[str(name)] = target
    return copies


def copy_object(system: fs.FileSystem, info: fs.FileInfo, target: Path, name: Address) -> None:
    """Copy an object to a file.

    Raises:
        DataError: It cannot be read, ends before its size, or the file cannot be written.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("wb")
    with (
        file,
        reading(name),
        system.open_input_stream(info.path, compression=None) as source,
        progress(f"copy {target.name}", info.size, "B") as bar,
    ):
        while block := source.read(_CHUNK):
            with writing(target):
                file.write(block)
            bar.update(len(block))
    if info.size is not None and target.stat().st_size != info.size:
        raise DataError(f"{name} ended after {target.stat().st_size} of {info.size} bytes")


def open_system(address: Address) -> tuple[fs.FileSystem, str]:
    """Open the file system of an address, and return the path of its authority there, such as the bucket."""
    options = address.options or _PATIENCE.get(address.scheme, "")
    try:
        system, base = fs.FileSystem.from_uri(f"{address.scheme}://{address.authority}/{options and '?' + options}")
        return system, str(base)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if "Unrecognized filesystem" not in str(error) and not isinstance(error, pa.ArrowNotImplementedError):
            raise
    try:
        from fsspec.core import url_to_fs

        system, base = url_to_fs(f"{address.scheme}://{address.authority}/")
    except (ImportError, ValueError) as error:  # fsspec, or what it needs for this scheme, is missing
        raise DataError(
            f"dataset {str(address)!r} cannot be read: pyarrow knows no {address.scheme}://, and fsspec says: {error}; "
            "install the extra rec-data[remote] and what it names, or copy the file here"
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), str(base)


def _list(system: fs.FileSystem, base: str, address: Address) -> list[Any]:
    """Find the objects of an address, which may hold ``*`` and ``[`` or be a folder, in natural order."""
    path = f"{base.rstrip('/')}/{address.path}".rstrip("/") or "/"
    [info] = system.get_file_info([path])
    if info.type == fs.FileType.File:
        return [info]
    parts = PurePosixPath(path).parts
    fixed = next((place for place, part in enumerate(parts) if re.search(r"[*\[]", part)), len(parts))
    if info.type == fs.FileType.NotFound and fixed == len(parts):
        raise DataError(f"dataset {str(address)!r}: no such file")
    if "**" in parts:
        raise DataError(f"dataset {str(address)!r} holds '**'; allowed: * within the name of a file or folder")
    selector = fs.FileSelector(
        str(PurePosixPath(*parts[:fixed])), allow_not_found=True, recursive=len(parts) > fixed + 1
    )
    found = system.get_file_info(selector)
    below = sorted((info for info in found if info.is_file), key=lambda info: finding.natural_order(info.path))
    if info.type == fs.FileType.Directory:
        folders = {info.base_name for info in found} - {info.base_name for info in below}
        names = finding.parts_of(
            str(address), [info.base_name for info in below], folders, _below(system, path), recursive=False
        )
        return [info for info in below if info.base_name in names]
    matching = [info for info in below if PurePosixPath("/", info.path).match(str(PurePosixPath("/", path)))]
    if not matching:
        raise DataError(f"dataset {str(address)!r}: no file matches")
    return matching


def _below(system: fs.FileSystem, path: str) -> Iterator[str]:
    """Paths of all files in a folder and its sub-folders, relative to it."""
    for info in system.get_file_info(fs.FileSelector(path, recursive=True)):
        if info.is_file:
            yield info.path.removeprefix(path).lstrip("/")


@contextmanager
def reading(address: Address) -> Iterator[None]:
    """Turn errors of the file systems, of which some are long and some bare, into a ``DataError`` of one line."""
    try:
        yield
    except (pa.ArrowException, OSError, ImportError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 400, placeholder=" ...")
        cure = ACCESS.get(address.scheme, "credentials, if it needs any, in the environment")
        raise DataError(f"dataset {str(address)!r} cannot be read; needed: {cure}. Found: {reason}") from error
