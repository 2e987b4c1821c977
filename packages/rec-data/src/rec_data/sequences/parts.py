"""Parts of a log by a hash of the user id, for work that is divided over processes and machines.

The hash of an id is the CRC-32 (IEEE 802.3, as `zlib.crc32`) of its text in UTF-8; an integer is written in decimal.
It depends on nothing else, and Spark computes the same one: ``crc32(cast(user_id as string))``. User ``u`` is in part
``1 + hash(u) % n`` of n, and within it in chunk ``1 + hash(u) // n % c`` of c.

Needs numpy and pyarrow only.
"""

import re
import zlib
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data.errors import DataError
from rec_data.schema import ITEM, TIMESTAMP, USER

COLUMNS = [USER, ITEM, TIMESTAMP]
_ROWS = 1 << 20
"""Of the log that are in memory at a time, while it is divided."""


class Part(NamedTuple):
    """One of several parts of the users."""

    number: int
    """From 1 to `of`."""
    of: int

    @property
    def name(self) -> str:
        """Of its files: ``part-00002-of-00008``."""
        return f"part-{self.number:05d}-of-{self.of:05d}"

    @property
    def text(self) -> str:
        """Of its metadata and messages: ``2/8``."""
        return f"{self.number}/{self.of}"

    @classmethod
    def of_name(cls, name: str) -> Self | None:
        """The part whose files have a name, without their suffix; None: no part has it."""
        found = re.fullmatch(r"part-([0-9]{5,9})-of-([0-9]{5,9})", name)
        part = None if found is None else cls(int(found[1]), int(found[2]))
        return part if part is not None and 1 <= part.number <= part.of and part.name == name else None


def hash_ids_of(users: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """The hashes ``[n]`` of ids, integers or strings, from 0 to 2^32 - 1."""
    encoded = users.dictionary_encode()
    pieces = encoded.chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    found = [np.empty(0, np.int64)]
    for piece in pieces:
        texts = piece.dictionary.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
        hashes = np.fromiter(map(zlib.crc32, texts), np.int64, len(texts))
        found.append(hashes[piece.indices.to_numpy(zero_copy_only=False)] if len(piece) else hashes[:0])
    return np.concatenate(found)


def count_rows(log: Path) -> int:
    """The number of rows of a parquet file, by its footer.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return int(pq.read_metadata(log).num_rows)
    except FileNotFoundError:
        raise DataError(f"no log {log}") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"log {log} cannot be read: {' '.join(str(error).split())[:300]}") from error


def write_chunks(log: Path, part: Part, out: Path, *, of: int, wanted: Collection[int]) -> dict[int, Path]:
    """Write the events of a part of the users as one log per chunk, in one pass over the whole log.

    Memory: about a million rows of the log, and what Parquet buffers for each chunk. Without
    ``pre_buffer=False`` pyarrow would keep all that it has read.

    Args:
        log: A parquet file with ``user_id``, ``item_id`` and ``timestamp``.
        part: Which users.
        out: An existing, empty folder.
        of: Number of chunks of the part.
        wanted: The chunks that are written, from 1 to `of`.

    Returns:
        The log of each chunk that is wanted, with its events in the order of the whole log. It may be empty.

    Raises:
        DataError: The log cannot be read, or lacks a column.
    """
    try:
        with pq.ParquetFile(log, pre_buffer=False) as file, ExitStack() as stack:
            if missing := [name for name in COLUMNS if name not in file.schema_arrow.names]:
                raise DataError(f"log {log} has no column {missing[0]!r}")
            schema = pa.schema([file.schema_arrow.field(name) for name in COLUMNS])
            paths = {chunk: out / f"{chunk}.parquet" for chunk in wanted}
            writers = {
                chunk: stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd"))
                for chunk, path in paths.items()
            }
            for batch in file.iter_batches(batch_size=_ROWS, columns=COLUMNS):
                hashes = hash_ids_of(batch.column(USER))
                chunks = np.where(hashes % part.of == part.number - 1, 1 + hashes // part.of % of, 0)
                for chunk, writer in writers.items():
                    rows = batch.take(pa.array(np.flatnonzero(chunks == chunk)))
                    if len(rows):
                        writer.write_batch(rows.select(COLUMNS))
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise DataError(f"log {log} cannot be divided: {' '.join(str(error).split())[:300]}") from error
    return paths
