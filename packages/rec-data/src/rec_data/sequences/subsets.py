"""The sequence stores of a subset of a split: one file, or one file per part of the users.

A subset such as ``train`` is the file ``train.arrow``, or the folder ``train`` with ``part-00001-of-00008.arrow`` and
so on. Every part is a complete store with the dense ids of the whole split (`rec_data.sequences.parts`).

Needs torch, numpy and pyarrow only.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from rec_data.errors import DataError
from rec_data.sequences.parts import Part
from rec_data.sequences.store import PART, RUN, SequenceStore


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
    files = store_files(folder, name)
    numbers = range(1, len(files) + 1) if only is None else sorted(only)
    if unknown := [number for number in numbers if not 1 <= number <= len(files)]:
        raise DataError(f"part of {folder / name}: found {unknown[0]}, allowed: 1 to {len(files)}")
    return (SequenceStore.open(files[number - 1], hashes=hashes) for number in numbers)


def store_files(folder: Path, name: str) -> list[Path]:
    """The files of a subset, in order of their parts: of a subset without parts the only one.

    Only names and metadata are compared; `SequenceStore.open` checks the content.

    Raises:
        DataError: There is no such subset, or it is there with parts and without; a part is missing, holds another one
            or none, or is of another run than the others; a file is no store.
    """
    whole, parts = folder / f"{name}.arrow", sorted((folder / name).glob("*.arrow"))
    if not parts:
        _check_part(whole, None)
        return [whole]
    if whole.exists():
        raise DataError(f"{folder}: found {whole.name} and the parts {name}/{parts[0].name} ..., allowed: one of both")
    known = {path: Part.of_name(path.stem) for path in parts}
    first = known[parts[0]]
    for path, part in known.items():
        if part is None or first is None or part.of != first.of:
            count = "" if first is None else f", as {parts[0].name}"
            raise DataError(f"{folder / name}: found {path.name}, allowed: parts of one number of parts{count}")
    assert first is not None
    wanted = (Part(number, first.of) for number in range(1, first.of + 1))
    if missing := [part.name for part in wanted if part not in known.values()]:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise DataError(f"{folder / name}: found {len(parts)} of {first.of} parts, missing: {missing[0]}.arrow{more}")
    runs = [_check_part(path, part) for path, part in known.items()]
    for path, run in zip(parts, runs, strict=True):
        if run != runs[0]:
            raise DataError(
                f"{path} is of another run than {parts[0].name}: found {_short(run)}, allowed: {_short(runs[0])}"
            )
    return parts


def _check_part(path: Path, part: Part | None) -> str | None:
    """Refuse a store that holds another part than ``part``; return the run that wrote it, if it says so."""
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            metadata = reader.schema.metadata or {}
    except FileNotFoundError:
        raise DataError(f"sequence store {path} cannot be opened: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a sequence store: {str(error).splitlines()[0]}") from error
    about = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in metadata.items()}
    found, allowed = about.get(PART), None if part is None else part.text
    if found != allowed:
        raise DataError(f"{path}: found {_in_words(found)}, allowed: {_in_words(allowed)}")
    return about.get(RUN)


def _in_words(part: str | None) -> str:
    return "a store without parts" if part is None else f"part {part}"


def _short(run: str | None) -> str:
    return "none" if run is None else run[:12]
