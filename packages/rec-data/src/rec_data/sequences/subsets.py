"""The sequence stores of a subset of a split: one file, or one file per part of the users.

A subset such as ``train`` is the file ``train.arrow``, or the folder ``train`` with ``part-00001-of-00008.arrow`` and
so on. Every part is a complete store with the dense ids of the whole split (`rec_data.sequences.parts`).

Needs torch, numpy and pyarrow only.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import torch

from rec_data.arrays import Int64s, places
from rec_data.errors import DataError
from rec_data.sequences.parts import Part
from rec_data.sequences.store import LENGTHS, PART, RUN, SequenceStore

Head = Mapping[str, str]
"""The metadata of a store."""


class LengthCounts(NamedTuple):
    """How many histories have which length."""

    lengths: Int64s
    """``[m]`` items of a history, ascending."""
    counts: Int64s
    """``[m]`` histories of that length."""

    @classmethod
    def of_text(cls, text: str) -> Self:
        """Those that `rec_data.sequences.store.write_store` wrote, as ``1:20 2:14``."""
        pairs = np.array([pair.split(":") for pair in text.split()], dtype=np.int64).reshape(-1, 2)
        return cls(pairs[:, 0], pairs[:, 1])


@dataclass(frozen=True)
class StoreParts:
    """A subset in parts, of which each is opened when it is needed."""

    heads: Sequence[Head]
    """Of the parts, in their order."""
    file_of: Callable[[int], Path]
    """The file of a part by its number, from 1."""
    hashes: Mapping[str, str] | None = None
    """See `SequenceStore.open`."""

    def __len__(self) -> int:
        """Number of histories."""
        return int(sum(part.counts.sum() for part in self.lengths))

    @cached_property
    def lengths(self) -> tuple[LengthCounts, ...]:
        """The lengths of the histories of each part, without opening it."""
        return tuple(LengthCounts.of_text(head[LENGTHS]) for head in self.heads)

    def open(self, only: Collection[int] | None = None) -> Iterator[SequenceStore]:
        """Open the parts of the numbers `only`, or all, in their order.

        Raises:
            DataError: As `SequenceStore.open`, or there is no part of such a number.
        """
        numbers = range(1, len(self.heads) + 1) if only is None else sorted(only)
        if unknown := [number for number in numbers if not 1 <= number <= len(self.heads)]:
            raise DataError(f"part: found {unknown[0]}, allowed: 1 to {len(self.heads)}")
        return (SequenceStore.open(self.file_of(number), hashes=self.hashes) for number in numbers)


def open_subset(folder: Path, name: str, *, hashes: Mapping[str, str] | None = None) -> SequenceStore | StoreParts:
    """Open a subset: its only store, or its parts, of which none is opened yet.

    Raises:
        DataError: As `store_files` and `SequenceStore.open`.
    """
    files = store_files(folder, name)
    if files[0].parent == folder:
        return SequenceStore.open(files[0], hashes=hashes)
    return _parts(files, hashes)


def joined(stores: Iterable[SequenceStore]) -> SequenceStore:
    """The histories of all parts of a subset in the order of their users: those of one store.

    In memory are four bytes per item, and while they are joined about 30 more per item of one part.
    """
    parts = list(stores)
    if len(parts) == 1:
        return parts[0]
    users = np.concatenate([part.user_ids.numpy() for part in parts])
    order = np.argsort(users, kind="stable")
    lengths = np.concatenate([part.lengths.numpy() for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    starts = np.empty_like(lengths)
    starts[order] = offsets[:-1]
    items, first = np.empty(offsets[-1], np.int32), 0
    for part in parts:
        own = slice(first, first + len(part))
        items[places(starts[own], lengths[own])] = part.items.numpy()
        first += len(part)
    targets = [part.targets.numpy() for part in parts if part.targets is not None]
    return SequenceStore(
        torch.from_numpy(items),
        torch.from_numpy(offsets),
        torch.from_numpy(users[order]),
        torch.from_numpy(np.concatenate(targets)[order]) if targets else None,
    )


def open_stores(
    folder: Path, name: str, *, hashes: Mapping[str, str] | None = None, only: Collection[int] | None = None
) -> Iterator[SequenceStore]:
    """Open the stores of a subset one after the other, each when it is asked for.

    Before the first one is opened, the files must be one whole subset (`store_files`).

    Args:
        folder: That of the subsets, ``sequences``.
        name: The subset.
        hashes: See `SequenceStore.open`.
        only: The numbers of the parts to open, from 1; None opens all.

    Raises:
        DataError: As `store_files` and `SequenceStore.open`, or there is no part of such a number.
    """
    return _parts(store_files(folder, name), hashes).open(only)


def store_files(folder: Path, name: str) -> list[Path]:
    """The files of a subset, in order of their parts: of a subset without parts the only one.

    Only names and metadata are compared; `SequenceStore.open` checks the content.

    Raises:
        DataError: There is no such subset, or it is there with parts and without; a part is missing, holds another one
            or none, or is of another run than the others or than the other subsets; a file is no store.
    """
    whole, parts = folder / f"{name}.arrow", sorted((folder / name).glob("*.arrow"))
    if not parts:
        check_part(whole, head_of(whole), None)
        return [whole]
    if whole.exists():
        raise DataError(f"{folder}: found {whole.name} and the parts {name}/{parts[0].name} ..., allowed: one of both")
    check_names(folder / name, [path.name for path in parts])
    heads = [head_of(path) for path in parts]
    check_heads(parts, heads)
    for other in sorted({*folder.glob("*.arrow"), *folder.glob("*/part-00001-of-*.arrow")} - {parts[0]}):
        found, allowed = (
            f"{_in_words(head.get(PART))} of run {_short(head.get(RUN))}" for head in (head_of(other), heads[0])
        )
        if found != allowed:
            raise DataError(f"{other} is of another split than {parts[0]}: found {found}, allowed: {allowed}")
    return parts


def check_names(folder: object, names: Sequence[str]) -> None:
    """Refuse sorted names of files that are not all parts of one number of parts."""
    known = [Part.of_name(name.removesuffix(".arrow")) for name in names]
    for name, part in zip(names, known, strict=True):
        if part is None or known[0] is None or part.of != known[0].of:
            count = "" if known[0] is None else f", as {names[0]}"
            raise DataError(f"{folder}: found {name}, allowed: parts of one number of parts{count}")
    assert known[0] is not None
    wanted = (Part(number, known[0].of) for number in range(1, known[0].of + 1))
    if missing := [part.name for part in wanted if part not in known]:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise DataError(f"{folder}: found {len(names)} of {known[0].of} parts, missing: {missing[0]}.arrow{more}")


def check_heads(places: Sequence[object], heads: Sequence[Head]) -> None:
    """Refuse metadata of stores, in the order of their parts, that are not of all parts of one run."""
    for number, (place, head) in enumerate(zip(places, heads, strict=True), start=1):
        check_part(place, head, Part(number, len(heads)))
        if (run := head.get(RUN)) != (first := heads[0].get(RUN)):
            raise DataError(f"{place} is of another run than part 1: found {_short(run)}, allowed: {_short(first)}")


def check_part(place: object, head: Head, part: Part | None) -> None:
    """Refuse a store that holds another part than ``part``."""
    found, allowed = head.get(PART), None if part is None else part.text
    if found != allowed or (part is not None and LENGTHS not in head):
        raise DataError(f"{place}: found {_in_words(found)}, allowed: {_in_words(allowed)}")


def read_head(file: Any, place: object) -> Head:
    """Read the metadata of a store from an open file of Arrow, which reads its end only.

    Raises:
        DataError: It is no Arrow file.
    """
    try:
        with pa.ipc.open_file(file) as reader:
            metadata = reader.schema.metadata or {}
    except pa.ArrowInvalid as error:
        raise DataError(f"{place} is not a sequence store: {str(error).splitlines()[0]}") from error
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in metadata.items()}


def head_of(path: Path) -> Head:
    """Read the metadata of a store, its checksum among them.

    Raises:
        DataError: There is no such file, or it is no Arrow file.
    """
    try:
        with pa.memory_map(str(path)) as file:
            return read_head(file, path)
    except FileNotFoundError:
        raise DataError(f"sequence store {path} cannot be opened: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a sequence store: {str(error).splitlines()[0]}") from error


def _parts(files: Sequence[Path], hashes: Mapping[str, str] | None) -> StoreParts:
    return StoreParts([head_of(path) for path in files], lambda number: files[number - 1], hashes)


def _in_words(part: str | None) -> str:
    return "a store without parts" if part is None else f"part {part}"


def _short(run: str | None) -> str:
    return "none" if run is None else run[:12]
