"""How a task on Spark sorts one part of a log; what follows is not its own (`rec_data.splits.part_files`)."""

import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data.errors import DataError
from rec_data.schema import ITEM, TIMESTAMP, USER
from rec_data.splits.part_files import SortedPart, keep_part
from rec_data.splits.sorted_log import SortedLog
from rec_data.splits.spark_rows import CODE, read_in_order


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


def sort_part(number: int, *, work: Path, num_items: int, tie_seed: int | None) -> SortedPart:
    """Read a part that Spark sorted, order its events with equal times, and write it as arrays."""
    codes, names = _read(work / "users" / f"part={number}", [CODE, USER])
    users, items, times = _read(work / "rows" / f"part={number}", ["user", "item", TIMESTAMP])
    codes, users, items, times = (np.asarray(column) for column in (codes, users, items, times))
    offsets = np.append(np.searchsorted(users, codes), len(users)).astype(np.int64)
    del users
    catalogue = _joined([batch.column(ITEM) for batch in read_in_order(work / "items_in_order", [ITEM])])
    log = SortedLog(offsets, items, times, num_items, codes)
    return keep_part(number, log, work=work, names=names, catalogue=catalogue, tie_seed=tie_seed)


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
