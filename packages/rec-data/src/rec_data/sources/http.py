"""One file over HTTP: resumed, retried, checksummed, and never left looking whole when it is not."""

import fcntl
import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from rec_data.errors import DataError

ATTEMPTS = 6
CHUNK = 1 << 20
TIMEOUT = (15, 60)
"""Seconds to connect, and between two pieces of the answer."""

FIRST_WAIT = 1.0
"""Seconds before the second attempt; each further wait is twice as long."""

_FIRST_BYTES = {
    ".gz": (b"\x1f\x8b",),
    ".tgz": (b"\x1f\x8b",),
    ".bz2": (b"BZh",),
    ".zip": (b"PK",),
    ".zst": (b"\x28\xb5\x2f\xfd", *(bytes([mark]) + b"\x2a\x4d\x18" for mark in range(0x50, 0x60))),
    ".parquet": (b"PAR1",),
}
"""What a file of this suffix begins with; a file may begin with a zstandard frame that is to be skipped."""

_BROKEN = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)


class _AttemptError(Exception):
    """This attempt failed in a way that the next may not."""


def download(url: str, path: Path, *, checksum: str | None = None) -> Path:
    """Brings a file here, once.

    While it is incomplete it is called ``<name>.part``; a later call goes on where an earlier one stopped, if the
    server still has the same file. The SHA-256 of a complete file is kept in ``<name>.sha256`` and checked by every
    later call. TLS certificates are verified, proxies of the environment are used. Processes that want the same file
    wait for each other.

    Args:
        url: Where it is.
        path: Where it goes; the folder is made.
        checksum: ``md5:<hex>`` or ``sha256:<hex>`` that it must have, where known.

    Returns:
        ``path``.

    Raises:
        DataError: The server refuses or sends a web page, the network fails for good, the file does not begin as its
            suffix says, or the checksum differs.
    """
    with locked(path):
        if path.exists():
            check(path, checksum)
            return path
        part = path.with_name(path.name + ".part")
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
            try:
                _transfer(url, part, name=path.name)
                break
            except _AttemptError as error:
                if attempt + 1 == ATTEMPTS:
                    raise DataError(f"download of {url} failed {ATTEMPTS} times; at last: {error}") from error
        try:
            keep(part, path, checksum=checksum)
        except DataError:
            part.unlink()  # nothing to resume from
            raise
        finally:
            _state(part).unlink(missing_ok=True)
    return path


def check(path: Path, checksum: str | None, *, advice: str = "delete it to download it again") -> None:
    """Compares a file with the checksum that it must have, or had when it was downloaded.

    Args:
        path: The file.
        checksum: ``md5:<hex>`` or ``sha256:<hex>``; None: the SHA-256 recorded in ``<name>.sha256`` beside the file, if
            any, alone or as sha256sum writes it.
        advice: What to do where they differ, for the message.

    Raises:
        DataError: They differ, or ``<name>.sha256`` holds no SHA-256.
    """
    record = _record(path)
    if checksum is None and record.exists():
        recorded = re.match(r"\s*\\?([0-9a-fA-F]{64})(\s|$)", record.read_text(errors="replace"))
        if recorded is None:
            raise DataError(f"file {record} does not begin with a SHA-256 (64 hexadecimal digits)")
        checksum = "sha256:" + recorded[1]
    if checksum is None:
        return
    algorithm, _, expected = checksum.lower().partition(":")
    found = _digest(path, algorithm)
    if found != expected:
        raise DataError(
            f"file {path.name} in {path.parent} has {algorithm} {found}, expected {expected}: damaged or replaced; "
            + advice
        )


def keep(complete: Path, path: Path, *, checksum: str | None = None) -> None:
    """Gives a complete file its final name, and records its checksum beside it.

    Args:
        complete: The file, in the same folder as ``path`` or below it.
        path: Its final place.
        checksum: ``md5:<hex>`` or ``sha256:<hex>`` that it must have, where known.

    Raises:
        DataError: It does not begin as the suffix of ``path`` says, or its checksum differs. It is left where it is.
    """
    allowed = _FIRST_BYTES.get(path.suffix)
    with complete.open("rb") as file:
        begins = file.read(4)
    if allowed is not None and not begins.startswith(allowed):
        raise DataError(f"what came as {path.name} begins with {begins!r}: no {path.suffix} file; it was not kept")
    check(complete, checksum, advice="it was not kept")
    _record(path).write_text(_digest(complete, "sha256") + "\n")
    complete.replace(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lets one process at a time bring a file.

    Args:
        path: The file; ``<name>.lock`` beside it is the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _transfer(url: str, part: Path, *, name: str) -> None:
    """One attempt: appends to ``part`` until it is complete."""
    state = json.loads(_state(part).read_text()) if part.exists() and _state(part).exists() else {}
    have = part.stat().st_size if state.get("url") == url and state.get("validator") else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": state["validator"]}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing beyond what is here: start anew, and let the checksum decide
                _state(part).unlink()
                raise _AttemptError("the part at hand does not fit the file any more")
            if answer.status_code >= 500 or answer.status_code == 429:
                raise _AttemptError(f"HTTP {answer.status_code} {answer.reason}")
            if answer.status_code not in (200, 206):
                raise DataError(f"download of {url}: HTTP {answer.status_code} {answer.reason}")
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind == "text/html":
                raise DataError(f"download of {url}: the server sent a web page (text/html) in place of the file")
            have = have if answer.status_code == 206 else 0
            start, whole = _range(answer.headers.get("Content-Range", ""))
            if answer.status_code == 206 and start != have:
                _state(part).unlink(missing_ok=True)  # what came does not go on from what is here: start anew
                raise _AttemptError("the server sent another range than the one it was asked for")
            length = answer.headers.get("Content-Length")
            total = whole if answer.status_code == 206 else None
            if total is None and length:
                total = have + int(length)
            validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            _state(part).write_text(json.dumps({"url": url, "validator": validator}))
            with (
                part.open("ab" if have else "wb") as file,
                tqdm(total=total, initial=have, desc=name, unit="B", unit_scale=True, mininterval=1) as bar,
            ):
                for piece in answer.raw.stream(CHUNK, decode_content=False):
                    file.write(piece)
                    bar.update(len(piece))
    except _BROKEN as error:
        raise _AttemptError(" ".join(str(error).split())) from error
    size = part.stat().st_size
    if total is not None and size != total:
        raise _AttemptError(f"the transfer ended after {size} of {total} bytes")


def _range(content_range: str) -> tuple[int | None, int | None]:
    """The first byte's place and the size of the whole file; None where the header does not say."""
    found = re.match(r"bytes (\d+)-\d+/(?:(\d+)|\*)", content_range)
    if found is None:
        return None, None
    return int(found[1]), int(found[2]) if found[2] else None


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")
