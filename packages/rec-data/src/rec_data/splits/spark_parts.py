"""What a task on Spark does with one part of a log: it reads and writes files of a shared folder.

Each result is written under another name first. A task that fails, or runs twice, therefore leaves no half file.
"""

import shutil
import socket
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data.errors import DataError
from rec_data.schema import ITEM, TIMESTAMP, USER
from rec_data.sequences.parts import Part
from rec_data.splits.sorted_log import SortedLog
from rec_data.splits.spark_rows import CODE, read_in_order
from rec_data.splits.split import Numbers, write_subsets
from rec_data.splits.strategies import Catalogue, Strategy
from rec_data.ties import Ties, resolve_ties

_ARRAYS = ("users", "offsets", "items", "times")
"""Of a `SortedLog`, each in a file of its own, so that a task reads those that it needs."""
_HEADER = 128
"""Bytes of a file of numpy without values, which cannot be mapped into memory."""


class SortedPart(NamedTuple):
    """What was found when a part was sorted."""

    rows: int
    ties: Ties
    checksum: int


def check_reach(work: Path, task: int) -> None:
    """Refuse a worker that does not reach the folder of the driver.

    Raises:
        DataError: It does not.
    """
    if not work.is_dir():
        raise DataError(
            f"out {work.parent}: not found on the worker {socket.gethostname()}, allowed: a folder that the driver and "
            "all workers reach by the same path"
        )


def sort_part(number: int, *, work: Path, tie_seed: int | None) -> SortedPart:
    """Put the events of a part with equal times into their order, and write the part as arrays."""
    codes, names = _read(work / "users" / f"part={number}", [CODE, USER])
    users, items, times = _read(work / "rows" / f"part={number}", ["user", "item", TIMESTAMP])
    codes, users, items, times = (np.asarray(column) for column in (codes, users, items, times))
    offsets = np.append(np.searchsorted(users, codes), len(users)).astype(np.int64)
    del users
    catalogue = _joined([batch.column(ITEM) for batch in read_in_order(work / "items_in_order", [ITEM])])
    items, ties = resolve_ties(items, offsets, times, users=names, catalogue=catalogue, seed=tie_seed)
    columns: tuple[npt.NDArray[Any], ...] = (codes, offsets, items, times)
    with _replacing(work / f"sorted-{number}") as folder:
        for name, values in zip(_ARRAYS, columns, strict=True):
            np.save(folder / f"{name}.npy", values)
    return SortedPart(len(items), ties, zlib.crc32(times.data, zlib.crc32(np.ascontiguousarray(items).data)))


def open_part(number: int, *, work: Path, num_items: int) -> SortedLog:
    """Map a part into memory that `sort_part` wrote."""
    paths = [work / f"sorted-{number}" / f"{name}.npy" for name in _ARRAYS]
    users, offsets, items, times = (
        np.asarray(np.load(path, mmap_mode="r" if path.stat().st_size > _HEADER else None)) for path in paths
    )
    return SortedLog(offsets, items, times, num_items, users)


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


def _read(folder: Path, columns: list[str]) -> list[pa.Array]:
    """The columns of a folder of a part, which Spark only writes if the part has rows."""
    tables = []
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            tables.append(file.read(columns=columns))
    if not tables:
        return [pa.array([], pa.int64() if name == TIMESTAMP else pa.int32()) for name in columns]
    return [_joined(pa.concat_tables(tables)[name].chunks) for name in columns]


def _joined(chunks: list[pa.Array]) -> pa.Array:
    """One array of several; texts may have more than 2^31 bytes together."""
    if pa.types.is_string(chunks[0].type):
        chunks = [chunk.cast(pa.large_string()) for chunk in chunks]
    return pa.concat_arrays(chunks)
