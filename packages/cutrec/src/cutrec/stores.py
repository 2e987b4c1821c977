"""The sequence stores of a split, in one file or in parts; errors name the stage that writes them."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cutrec.checksums import stage_errors, verified
from cutrec.errors import StageError
from rec_data.sequences.store import SequenceStore
from rec_data.sequences.subsets import StoreParts, open_stores, open_subset, store_files


def subset_files(split: Path, name: str) -> list[Path]:
    """The files of the stores of a subset (``train``, ``validation``, ``test``), in order of their parts.

    Raises:
        StageError: there are none, or they are not one whole subset (`rec_data.sequences.subsets.store_files`).
    """
    require_subset(split, name)
    with stage_errors(split):
        return store_files(split / "sequences", name)


def require_subset(split: Path, name: str) -> None:
    """Refuse a split without a subset, in one file or in parts.

    Raises:
        StageError: there is neither, or the file has another checksum than the listed one.
    """
    folder = split / "sequences"
    if not (folder / name).is_dir():
        verified(folder / f"{name}.arrow")


def subset_tables(split: Path, name: str) -> list[Path]:
    """The exported parquet files of a subset, with the times of its events, beside its `subset_files`.

    Raises:
        StageError: as `subset_files`, or a parquet is missing or has another checksum than the listed one.
    """
    files = subset_files(split, name)
    if files[0].parent == split / "sequences":
        return [verified(split / f"{name}.parquet")]
    return [verified(split / name / f"{file.stem}.parquet") for file in files]


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


@dataclass(frozen=True, kw_only=True)
class _SplitParts(StoreParts):
    """Parts of a split, of which a damaged one is found when it is opened."""

    split: Path

    def open(self, only: Collection[int] | None = None) -> Iterator[SequenceStore]:
        """As `StoreParts.open`, with a `StageError`."""
        with stage_errors(self.split):
            yield from super().open(only)


def read_subset(split: Path, name: str, *, hashes: Mapping[str, str] | None = None) -> SequenceStore | StoreParts:
    """Open the only store of a subset, or its parts, of which none is opened yet.

    Raises:
        StageError: as `read_stores`; of parts, when they are opened.
    """
    subset_files(split, name)
    with stage_errors(split):
        found = open_subset(split / "sequences", name, hashes=hashes)
    if isinstance(found, SequenceStore):
        return found
    return _SplitParts(found.heads, found.file_of, found.hashes, split=split)


def parts_of(split: Path) -> int:
    """In how many parts a split is, by its files; 1 also if there is no split."""
    return len(list((split / "sequences" / "train").glob("*.arrow"))) or 1


def refuse_parts(split: Path, cure: str) -> None:
    """Refuse a split in several parts.

    Raises:
        StageError: it has several; the message ends with the cure.
    """
    if (parts := parts_of(split)) > 1:
        raise StageError(f"{split}: found a split in {parts} parts, allowed: 1 here; {cure}")


def read_store(split: Path, name: str, *, hashes: Mapping[str, str] | None = None) -> SequenceStore:
    """Open the only store of a subset, for what cannot work part by part.

    Raises:
        StageError: as `read_stores`, or the subset has several parts.
    """
    refuse_parts(split, "a larger split.memory makes one (-S split.memory=64GiB)")
    return next(read_stores(split, name, hashes=hashes))
