"""Archives, unpacked only if every member stays inside the folder."""

import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from rec_data.errors import DataError


def extract(archive: Path, folder: Path) -> Path:
    """Unpacks an archive, all of it or nothing.

    Args:
        archive: A zip, or a tar with any compression.
        folder: Made by this call; if it exists, the archive has been unpacked before.

    Returns:
        ``folder``.

    Raises:
        DataError: The archive is damaged, or a member would leave the folder, or is no plain file or folder.
    """
    if folder.exists():
        return folder
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _unpack(archive, part)
        part.replace(folder)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"archive {archive} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                _check(name, archive)
            zipped.extractall(folder)  # noqa: S202 (every name is checked above)
        return
    with tarfile.open(archive) as tarred:
        for member in tarred.getmembers():
            _check(member.name, archive)
            if not (member.isfile() or member.isdir()):
                raise DataError(f"archive {archive}: {member.name!r} is neither file nor folder; nothing was unpacked")
        tarred.extractall(folder, filter="data")


def _check(name: str, archive: Path) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise DataError(f"archive {archive}: member {name!r} would leave the folder; nothing was unpacked")
