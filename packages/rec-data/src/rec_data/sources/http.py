"""Download of one file over HTTP: resumed, retried, verified, and renamed only when complete."""

import json
import re
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from rec_data.errors import DataError, writing
from rec_data.locks import locked
from rec_data.progress import progress
from rec_data.raw.files import digest

ATTEMPTS = 6
"""Requests for one answer, and transfers for one file."""

BACKOFF = 1.0
"""Factor of the waits between requests and between transfers, in seconds; each is twice as long as the one before."""

CHUNK = 1 << 20
TIMEOUT = (15, 60)
"""Seconds to connect, and between two pieces of the answer."""

OTHERWISE = "get the file in another way, and name its folder in download.mirror (or your own file in dataset)"
"""What to do if a file cannot be downloaded."""

NOT_KEPT = f"it was not kept; {OTHERWISE}"

_MAGIC = {
    ".gz": (b"\x1f\x8b",),
    ".tgz": (b"\x1f\x8b",),
    ".bz2": (b"BZh",),
    ".zip": (b"PK",),
    ".zst": (b"\x28\xb5\x2f\xfd", *(bytes([mark]) + b"\x2a\x4d\x18" for mark in range(0x50, 0x60))),
    ".parquet": (b"PAR1",),
}
"""The first bytes of a file with this suffix; a zstandard file may begin with a skippable frame."""


def download(url: str, path: Path, *, checksum: str | None = None) -> Path:
    """Download a file to ``path``, which is also returned, unless it is there already. The folder is created.

    An incomplete file is called ``<name>.part``; a later call resumes it if the server still has the same file. The
    SHA-256 of a complete file is kept in ``<name>.sha256`` and checked by every later call. TLS certificates are
    verified, redirects from https to http are refused, and the proxies of the environment are used. Processes that
    want the same file wait for each other.

    The file must have the ``checksum``, ``md5:<hex>`` or ``sha256:<hex>``, if it is known.

    Raises:
        DataError: The server refuses or sends a web page, its certificate is not valid, it redirects to http, the
            network fails repeatedly, the first bytes do not fit the file's suffix, the checksum differs, or there is no
            space for the file.
    """
    with locked(path):
        if path.exists():
            check(path, checksum)
            return path
        part = path.with_name(path.name + ".part")
        with session() as requester:
            for attempt in range(ATTEMPTS):
                if attempt:
                    time.sleep(BACKOFF * 2 ** (attempt - 1))
                problem = _transfer(requester, url, part, name=path.name)
                if problem is None:
                    break
            else:
                raise _failed(url, f" broke off {ATTEMPTS} times; last error: {problem}")
        try:
            keep(part, path, checksum=checksum)
        except DataError:
            part.unlink()  # there is nothing to resume from
            raise
        finally:
            _state(part).unlink(missing_ok=True)
    return path


class _Session(requests.Session):
    """A session that does not leave https."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return the address that an answer redirects to."""
        target = super().get_redirect_target(resp)
        if target is not None:
            refuse_downgrade(resp.url, urljoin(resp.url, target))
        return target


def refuse_downgrade(url: str, target: str) -> None:
    """Refuse an address without TLS that an address with TLS led to.

    Raises:
        DataError: ``url`` is https, ``target`` is not.
    """
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise _failed(url, f" leads to {target}, without TLS; allowed: https, once an address has it")


def session() -> requests.Session:
    """Create a session that repeats requests after connection errors and temporary HTTP errors."""
    retry = urllib3.Retry(
        ATTEMPTS - 1,
        other=0,  # errors of TLS: a certificate stays what it is
        status_forcelist=(429, 500, 502, 503, 504),
        backoff_factor=BACKOFF,
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    made = _Session()
    for scheme in ("http://", "https://"):
        made.mount(scheme, HTTPAdapter(max_retries=retry))
    return made


def check(path: Path, checksum: str | None, *, advice: str = "delete it to download it again") -> None:
    """Compare a file with the checksum that it must have, or had when it was downloaded.

    The checksum is ``md5:<hex>`` or ``sha256:<hex>``; None means the SHA-256 recorded in ``<name>.sha256`` beside the
    file, if any, as sha256sum writes it or only its digits. ``advice`` is what to do if they differ, for the message.

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
    found = digest(path, algorithm)
    if found != expected:
        raise DataError(
            f"file {path.name} in {path.parent} has {algorithm} {found}, expected {expected}: damaged or replaced; "
            + advice
        )


def keep(complete: Path, path: Path, *, checksum: str | None = None) -> None:
    """Give a complete file its final name, and record its checksum beside it.

    ``complete`` lies in the folder of ``path`` or below it; the checksum is as for ``download``.

    Raises:
        DataError: The first bytes do not fit the suffix of ``path``, or the checksum differs; nothing is moved then.
    """
    allowed = _MAGIC.get(path.suffix)
    with complete.open("rb") as file:
        begins = file.read(4)
    if allowed is not None and not begins.startswith(allowed):
        raise DataError(f"downloaded {path.name} begins with {begins!r}: not a {path.suffix} file; {NOT_KEPT}")
    check(complete, checksum, advice=NOT_KEPT)
    with writing(path):
        _record(path).write_text(digest(complete) + "\n")
        complete.replace(path)


def _failed(url: str, what: str) -> DataError:
    """The error of a download, with another way to the file."""
    return DataError(f"download of {url}{what}; {OTHERWISE}")


def _transfer(requester: requests.Session, url: str, part: Path, *, name: str) -> str | None:
    """Append to ``part`` what is missing; returns None if it is complete, else what another try may not meet."""
    state = _read_state(part)
    have = part.stat().st_size if state.get("url") == url and state.get("validator") else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": state["validator"]}
    try:
        answer = requester.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.exceptions.SSLError as error:
        if (refused := _certificate_error(error)) is not None:
            found = f"the certificate of {urlsplit(url).hostname} is not valid: {refused.verify_message}"
            raise _failed(url, f": {found}") from error
        return " ".join(str(error).split())
    except requests.RequestException as error:
        raise _failed(url, f" failed: {' '.join(str(error).split())}") from error
    with answer:
        start, total = _range(answer)
        if answer.status_code == 416 or (answer.status_code == 206 and start not in (0, have)):
            _state(part).unlink(missing_ok=True)  # the next transfer starts from the beginning
            return "the server cannot continue the partial download"
        if answer.status_code not in (200, 206):
            raise _failed(url, f": HTTP {answer.status_code} {answer.reason}")
        if answer.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "text/html":
            raise _failed(url, ": the server sent a web page (text/html) instead of the file")
        encoding = answer.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity" and Path(name).suffix not in _MAGIC:
            raise _failed(url, f": the server sent it with encoding {encoding}; allowed: identity")
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        try:
            with (
                writing(part),
                part.open("ab" if start else "wb") as file,
                progress(name, total, "B", initial=start or 0) as bar,
            ):
                # After the file was emptied: other content must never be continued under this validator.
                _state(part).write_text(json.dumps({"url": url, "validator": validator}))
                for piece in answer.raw.stream(CHUNK, decode_content=False):
                    file.write(piece)
                    bar.update(len(piece))
        except urllib3.exceptions.HTTPError as error:
            return " ".join(str(error).split())
    size = part.stat().st_size
    return f"the transfer ended after {size} of {total} bytes" if total not in (None, size) else None


def _range(answer: requests.Response) -> tuple[int | None, int | None]:
    """The position of the answer's first byte and the size of the whole file; None where headers do not say."""
    if answer.status_code == 200:
        length = answer.headers.get("Content-Length")
        return 0, int(length) if length else None
    found = re.match(r"bytes (\d+)-\d+/(?:(\d+)|\*)", answer.headers.get("Content-Range", ""))
    if found is None:
        return None, None
    return int(found[1]), int(found[2]) if found[2] else None


def _certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """Find the refusal of a certificate among the errors that an error of requests or urllib3 wraps."""
    causes: list[Any] = [error]
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause
        causes += [*getattr(cause, "args", ()), *filter(None, [getattr(cause, "reason", None)])]
    return None


def _read_state(part: Path) -> dict[str, Any]:
    """What is known about a partial file; nothing if it, or the record beside it, is missing or damaged."""
    try:
        state = json.loads(_state(part).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) and part.exists() else {}


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")
