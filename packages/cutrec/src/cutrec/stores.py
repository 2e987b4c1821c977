"""The sequence stores of a split, in one file or in parts; errors name the stage that writes them."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from cutrec.checksums import stage_errors, verified
from cutrec.errors import StageError
from rec_data.sequences.store import SequenceStore
from rec_data.sequences.subsets import open_stores, store_files


def subset_files(split: Path, name: str) -> list[Path]:
    """The files of the stores of a subset (``train``, ``validation``, ``test``), in order of their parts.

    Raises:
        StageError: there are none, or they are not one whole subset (`rec_data.sequences.subsets.store_files`).
    """
    folder = split / "sequences"
    if not (folder / name).is_dir():
        verified(folder / f"{name}.arrow")
    with stage_errors(split):
        return store_files(folder, name)


def read_stores(
    split: Path, name: str, *, hashes: Mapping[str, str] | None = None, only: Collection[int] | None = None
) -> Iterator[SequenceStore]:
    """Open the stores of a subset one after the other, as `rec_data.sequences.subsets.open_stores` does.

    Raises:
        StageError: as `subset_files`, or one is damaged or belongs to other ids.
    """
    subset_files(split, name)
    with stage_errors(split):
        yield from open_stores(split / "sequences", name, hashes=hashes, only=only)


def read_store(split: Path, name: str, *, hashes: Mapping[str, str] | None = None) -> SequenceStore:
    """Open the only store of a subset, for what cannot work part by part.

    Raises:
        StageError: as `read_stores`, or the subset has several parts.
    """
    if (parts := len(subset_files(split, name))) > 1:
        raise StageError(f"{split}: found a split in {parts} parts, allowed: 1 here (split.memory decides how many)")
    return next(read_stores(split, name, hashes=hashes))
