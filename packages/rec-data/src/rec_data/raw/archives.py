"""Unpacking of archives, only if every member stays inside the folder."""

import lzma
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from rec_data.errors import DataError

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,  # raised by zipfile for an encrypted member or an unknown compression
)


def extract(archive: Path, folder: Path) -> Path:
    """Unpack a zip archive, or a tar archive with any compression, completely or not at all, and return the folder.

    The folder is created by this call; if it exists, the archive has been unpacked before.

    Raises:
        DataError: The archive is damaged, or a member would leave the folder or is neither a file nor a folder.
    """
    if folder.exists():
        return folder
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _unpack(archive, part)
        part.replace(folder)
    except _DAMAGE as error:
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
            for name in zipped.namelist():
                _check(name, archive)
            zipped.extractall(folder)  # noqa: S202 (every name is checked above)
        return
    tars = dict.fromkeys((".tar", ".tgz", ".gz", ".bz2", ".xz"), "tar")
    expected = {".zip": "zip", **tars}.get(archive.suffix, "zip or tar")
    if expected == "zip" or not _is_tar(archive):
        raise DataError(f"archive {archive} cannot be unpacked: it is not a {expected} file, or its end is missing")
    with tarfile.open(archive) as tarred:
        for member in tarred.getmembers():
            _check(member.name, archive)
            if not (member.isfile() or member.isdir()):
                raise DataError(f"archive {archive}: {member.name!r} is neither file nor folder; nothing was unpacked")
        if tarred.fileobj is not None:  # tarfile stops at a damaged header: read on, so that the checksum is verified
            tarred.fileobj.seek(0)
            while tarred.fileobj.read(1 << 20):
                pass
        tarred.extractall(folder, filter="data")


def _is_tar(archive: Path) -> bool:
    """Like ``tarfile.is_tarfile``, which does not catch the errors of a damaged compressed file."""
    try:
        return tarfile.is_tarfile(archive)
    except (EOFError, lzma.LZMAError, zlib.error):
        return False


def _check(name: str, archive: Path) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts:  # the folder itself, as ``tar czf x.tgz .`` names it
        return
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise DataError(f"archive {archive}: member {name!r} would leave the folder; nothing was unpacked")
