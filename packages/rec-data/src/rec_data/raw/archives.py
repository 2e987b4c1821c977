"""Unpacking of archives, only if every member stays inside the folder and all of them have a plausible size."""

import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from rec_data.errors import DataError, refuse_if_full

MOST_MEMBERS = 200_000
"""Files and folders of an archive."""

MOST_RATIO = 200
"""Bytes unpacked per byte of the archive, beyond ``FREE_BYTES``; logs have about 10, a zip bomb 1,000 and more."""

FREE_BYTES = 100_000_000
"""What every archive may unpack to, whatever its ratio."""

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,  # raised by zipfile for an encrypted member or an unknown compression
    ValueError,  # names and sizes that make no sense
)


def extract(archive: Path, folder: Path) -> Path:
    """Unpack a zip archive, or a tar archive with any compression, completely or not at all, and return the folder.

    The folder is created by this call; if it exists, the archive has been unpacked before.

    Raises:
        DataError: The archive is damaged, a member would leave the folder or is neither a file nor a folder, there are
            too many of them, they unpack to far more than the archive's size, or there is no space for them.
    """
    if folder.exists():
        return folder
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _unpack(archive, part)
        part.replace(folder)
    except DataError:
        raise
    except _DAMAGE as error:
        refuse_if_full(folder, error)
        raise DataError(f"archive {archive} cannot be unpacked: {' '.join(str(error).split())}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def is_litter(path: Path, folder: Path) -> bool:
    """Whether ``path``, unpacked to ``folder``, is one of the files that macOS adds to archives."""
    return "__MACOSX" in path.relative_to(folder).parts or path.name == ".DS_Store" or path.name.startswith("._")


def _unpack(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            _check(((info.filename, info.file_size) for info in zipped.infolist()), archive, folder)
            zipped.extractall(folder)  # noqa: S202 (every name is checked above)
        return
    tars = dict.fromkeys((".tar", ".tgz", ".gz", ".bz2", ".xz"), "tar")
    expected = {".zip": "zip", **tars}.get(archive.suffix, "zip or tar")
    if expected == "zip" or not _is_tar(archive):
        raise DataError(f"archive {archive} cannot be unpacked: it is not a {expected} file, or its end is missing")
    with tarfile.open(archive) as tarred:
        _check(_tar_members(tarred, archive), archive, folder)
        if tarred.fileobj is not None:  # tarfile stops at a damaged header: read on, so that the checksum is verified
            tarred.fileobj.seek(0)
            pieces = iter(lambda: tarred.fileobj.read(1 << 24), b"")
            _check((("", len(piece)) for piece in pieces), archive, folder)
        tarred.extractall(folder, filter="data")


def _is_tar(archive: Path) -> bool:
    """Like ``tarfile.is_tarfile``, which does not catch the errors of a damaged compressed file."""
    try:
        return tarfile.is_tarfile(archive)
    except (EOFError, lzma.LZMAError, zlib.error):
        return False


def _tar_members(tarred: tarfile.TarFile, archive: Path) -> Iterator[tuple[str, int]]:
    """Name and size of the members, each as soon as its header is read."""
    for member in tarred:
        if not (member.isfile() or member.isdir()):
            raise DataError(f"archive {archive}: {member.name!r} is neither file nor folder; nothing was unpacked")
        yield member.name, member.size


def _check(members: Iterable[tuple[str, int]], archive: Path, folder: Path) -> None:
    """Refuse names that leave the folder, too many members, and sizes beyond what the archive or the disk can hold."""
    most = max(FREE_BYTES, MOST_RATIO * archive.stat().st_size)
    free = shutil.disk_usage(folder).free
    total = 0
    for count, (name, size) in enumerate(members, start=1):
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
            raise DataError(f"archive {archive}: member {name!r} would leave the folder; nothing was unpacked")
        total += size
        if count > MOST_MEMBERS:
            raise DataError(f"archive {archive} has more than {MOST_MEMBERS:,} members; nothing was unpacked")
        if total > most:
            raise DataError(
                f"archive {archive} unpacks to {total:,} bytes or more; allowed: {most:,}, {MOST_RATIO} times its own "
                "size; nothing was unpacked"
            )
        if total > free:
            raise DataError(
                f"archive {archive} unpacks to {total:,} bytes or more, but {folder.parent} has only {free:,} free; "
                "nothing was unpacked"
            )
