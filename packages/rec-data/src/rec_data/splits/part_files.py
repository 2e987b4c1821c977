"""Parts of a log in files: sorted arrays in a work folder, and the subsets that each part is divided into.

Each result is written under another name first. A task that fails, or runs twice, therefore leaves no half file.
"""

import hashlib
import json
import shutil
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rec_data.sequences.parts import Part
from rec_data.splits.decide import Division
from rec_data.splits.sorted_log import SortedLog
from rec_data.splits.strategies import Catalogue, Strategy
from rec_data.splits.write import Numbers, write_subsets
from rec_data.ties import Ties, resolve_ties

ROWS_PER_PART = 1 << 26
"""About how many interactions of the log a part has, if nobody asks for others."""
WORK = ".work"
"""The folder of what is between the steps, in that of the split."""
_ARRAYS = {"users": np.int32, "offsets": np.int64, "items": np.int32, "times": np.int64}
"""Of a `SortedLog`, each in a file of its own, so that a step reads those that it needs."""


class SortedPart(NamedTuple):
    """What was found when a part was sorted."""

    rows: int
    ties: Ties
    checksum: int


def keep_part(
    number: int, log: SortedLog, *, work: Path, names: pa.Array, catalogue: pa.Array, tie_seed: int | None
) -> SortedPart:
    """Put the events of a sorted part with equal times into their order, and write the part as arrays.

    Args:
        number: Of the part, from 1.
        log: The part; events with equal times are in the order of rows.
        work: The folder for the arrays.
        names: ``[users of the part]`` original ids.
        catalogue: ``[items]`` original ids.
        tie_seed: See ``rec_data.ties.resolve_ties``.
    """
    items, ties = resolve_ties(log.items, log.offsets, log.times, users=names, catalogue=catalogue, seed=tie_seed)
    columns = dict(zip(_ARRAYS, (log.users, log.offsets, items, log.times), strict=True))
    checksum = 0
    with _replacing(sorted_folder(work, number)) as folder:
        for name, kind in _ARRAYS.items():
            values = np.ascontiguousarray(columns[name], kind)
            checksum = zlib.crc32(values.data, checksum)
            (folder / name).write_bytes(values.data)
    return SortedPart(len(items), ties, checksum)


def sorted_folder(work: Path, number: int) -> Path:
    """Where the arrays of a part are."""
    return work / f"sorted-{number}"


def merge_ties(parts: Sequence[SortedPart]) -> Ties:
    """The ties of all parts of a log together."""
    ties = [part.ties for part in parts if part.rows]
    return Ties(sum(one.tied for one in ties), sum(one.duplicates for one in ties), min(one.copies for one in ties))


def open_part(number: int, *, work: Path, num_items: int) -> SortedLog:
    """Map a part into memory that `keep_part` wrote."""
    users, offsets, items, times = (
        np.asarray(np.memmap(path, kind, "r")) if path.stat().st_size else np.empty(0, kind)
        for path, kind in ((sorted_folder(work, number) / name, kind) for name, kind in _ARRAYS.items())
    )
    return SortedLog(offsets, items, times, num_items, users)


class PartFiles(Sequence[SortedLog]):
    """The sorted parts of a log in a work folder; each is opened when it is asked for."""

    def __init__(self, work: Path, parts: int, num_items: int) -> None:
        self.numbers = range(1, parts + 1)
        self.num_items = num_items
        self.open = partial(open_part, work=work, num_items=num_items)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        numbers = self.numbers[index]
        return self.open(numbers) if isinstance(numbers, int) else [self.open(number) for number in numbers]


def part_writer(
    logs: PartFiles,
    division: Division,
    sorted_parts: Sequence[SortedPart],
    summary: dict[str, Any],
    hashes: dict[str, str],
    *,
    work: Path,
    out: Path,
    filter_seen: bool,
) -> "partial[dict[str, dict[str, int]]]":
    """The function that writes the subsets of a part by its number, for all parts of a divided log.

    Args:
        logs: The parts.
        division: What was decided for all of them.
        sorted_parts: What was found when they were sorted.
        summary: Of the split, without its subsets.
        hashes: Of the original ids.
        work: A folder on the same file system as ``out``.
        out: The folder of the split.
        filter_seen: See ``rec_data.splits.split.split_log``.
    """
    identity = json.dumps([hashes, summary, [part.checksum for part in sorted_parts]])
    return partial(
        write_part,
        out=out,
        work=work,
        of=len(logs),
        num_items=logs.num_items,
        strategy=division.strategy,
        catalogue=division.catalogue,
        numbers=Numbers.of(division),
        hashes=hashes,
        filter_seen=filter_seen,
        run=hashlib.sha256(identity.encode()).hexdigest(),
    )


def write_part(
    number: int,
    *,
    out: Path,
    work: Path,
    of: int,
    num_items: int,
    strategy: Strategy,
    catalogue: Catalogue,
    numbers: Numbers,
    hashes: dict[str, str],
    filter_seen: bool,
    run: str,
) -> dict[str, dict[str, int]]:
    """Divide a part, and write and describe its subsets; the only part of a split is written as a whole one."""
    log = open_part(number, work=work, num_items=num_items)
    partition = strategy.divide(log, catalogue)
    temporary = work / f"written-{number}-{uuid.uuid4().hex}"
    for name in partition.subsets:
        for folder in (temporary, temporary / "sequences"):
            (folder / name).mkdir(parents=True)
    facts = write_subsets(
        log,
        partition,
        numbers,
        temporary,
        hashes,
        filter_seen=filter_seen,
        part=None if of == 1 else Part(number, of),
        run=None if of == 1 else run,
    )
    for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
        final = out / path.relative_to(temporary)
        final.parent.mkdir(parents=True, exist_ok=True)
        path.replace(final)
    shutil.rmtree(temporary)
    return facts


@contextmanager
def _replacing(final: Path) -> Iterator[Path]:
    """Yield a new folder that gets a name when the block ends, unless another attempt at the task was first."""
    folder = final.with_name(f"{final.name}-{uuid.uuid4().hex}")
    folder.mkdir()
    yield folder
    try:
        folder.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(folder)
