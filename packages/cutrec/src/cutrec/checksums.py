"""Checksums of the outputs of a stage: a file that was damaged since, or that DVC's cache holds damaged, is refused.

Sequence stores, models and lists per user have checksums of their own, and ids are known by their hash; this is for the
other files that are read again. ``sha256sum --check SHA256SUMS`` reads the same file.
"""

import hashlib
from pathlib import Path

from cutrec.errors import StageError
from cutrec.paths import STAGES

NAME = "SHA256SUMS"


def write_checksums(folder: Path, *patterns: str) -> None:
    """Write the SHA-256 of the files of a folder that match the glob patterns into `NAME` beside them."""
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / NAME).write_text("".join(lines), encoding="utf-8")


def verified(path: Path) -> Path:
    """The path of a file that has its checksum, or of one that has none, as outputs of earlier versions.

    Raises:
        StageError: there is no such file, or it was changed since it was written.
    """
    if not path.is_file():
        raise missing(path)
    for folder in (path.parent, path.parent.parent):
        if (folder / NAME).is_file():
            text = (folder / NAME).read_bytes().decode(errors="replace")
            known = {name: digest for digest, _, name in (line.partition("  ") for line in text.splitlines())}
            own = known.get(path.relative_to(folder).as_posix())
            if own is not None and own != _sha256(path):
                raise StageError(
                    f"{path} is damaged, or was edited: found another checksum than in {folder / NAME}, allowed: the "
                    "file that its stage wrote; remove it, and its copy in DVC's cache (.dvc/cache), and make it again "
                    "(dvc repro)"
                )
    return path


def missing(path: Path) -> StageError:
    """The error for an output of a stage that is not there, which names the stage."""
    stage = next((parent.name for parent in path.parents if parent.name in STAGES), None)
    return StageError(f"{path}: no such file" + (f", the stage {stage} writes it (dvc repro)" if stage else ""))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
