"""The sequence store: flat item ids plus offsets (CSR), memory-mapped.

On disk a store is one uncompressed Arrow IPC file with one record batch: ``user_id`` int32, ``items``
large_list<int32>, and for evaluation ``target`` int32. A list column *is* a flat array plus offsets, so opening a
store copies nothing: the tensors view the mapped file, and pages are read when they are accessed. Any Arrow reader can
open the file. Its metadata hold a checksum of all that, and the hashes of the original ids of its items and users.

Opening a store needs torch; writing one needs only numpy and pyarrow, so that splitting a log does not import torch.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rec_data.arrays import Int32s, Int64s, to_arrow
from rec_data.errors import DataError
from rec_data.schema import ITEMS, TARGET, USER

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rec_data.sequences.parts import Part

_SCHEMA = pa.schema([(USER, pa.int32()), (ITEMS, pa.large_list(pa.int32()))])
_TARGET = pa.field(TARGET, pa.int32())
_CHECKSUM = b"crc32"
PART, RUN, LENGTHS = "part", "run", "lengths"
"""Names of the metadata that `write_store` writes of a part."""


def write_store(
    path: Path,
    *,
    items: Int32s,
    offsets: Int64s,
    user_ids: Int32s,
    targets: Int32s | None = None,
    hashes: Mapping[str, str] | None = None,
    part: Part | None = None,
    run: str | None = None,
) -> None:
    """Write a store's file.

    Args:
        path: The file.
        items: ``[nnz]`` dense ids.
        offsets: ``[n + 1]`` from 0 to nnz.
        user_ids: ``[n]`` dense ids.
        targets: ``[n]`` dense ids of items, for evaluation.
        hashes: ``rec_data.ids.hash_ids`` of the original ids of ``items`` and ``users``, which ``open`` compares.
        part: Which of several parts of a subset this is; None: the whole subset. The metadata of a part also say how
            many histories have which length, so that whoever opens one part knows the sizes of the others.
        run: A hash of what the subset was made from, equal in all of its parts and in no other run's.
    """
    columns = {USER: to_arrow(user_ids), ITEMS: pa.LargeListArray.from_arrays(to_arrow(offsets), to_arrow(items))}
    if targets is not None:
        columns[TARGET] = to_arrow(targets)
    about = {**(hashes or {}), **({} if part is None else {PART: part.text, LENGTHS: _length_counts(offsets)})}
    about |= {} if run is None else {RUN: run}
    known = {name.encode(): value.encode() for name, value in about.items()}
    checksum = _checksum(known, user_ids, offsets, items, targets)
    batch = pa.record_batch(list(columns.values()), names=list(columns), metadata={_CHECKSUM: checksum, **known})
    with pa.ipc.new_file(str(path), batch.schema) as writer:
        writer.write_batch(batch)


@dataclass(frozen=True)
class SequenceStore:
    """The histories of many users.

    The history of row ``i`` is ``items[offsets[i] : offsets[i + 1]]``, oldest first.
    """

    items: Tensor
    """``[nnz]`` int32, dense item ids."""
    offsets: Tensor
    """``[n + 1]`` int64."""
    user_ids: Tensor
    """``[n]`` int32, dense user ids; a user with several targets has a history for each, one after the other."""
    targets: Tensor | None = None
    """``[n]`` int32, the item to predict after the history; None for training."""
    mapped: mmap.mmap | None = None
    """The file that the tensors view; None: they are in memory."""

    def __len__(self) -> int:
        """Number of histories."""
        return len(self.user_ids)

    @property
    def num_users(self) -> int:
        """Number of users."""
        users = self.user_ids.numpy()
        return len(self) and 1 + int(np.count_nonzero(users[1:] != users[:-1]))

    @property
    def lengths(self) -> Tensor:
        """``[n]`` int64, items per history."""
        return self.offsets[1:] - self.offsets[:-1]

    @classmethod
    def open(cls, path: Path | str, *, hashes: Mapping[str, str] | None = None) -> SequenceStore:
        """Map a file that ``write_store`` wrote into memory, and compare all of it with its checksum.

        The mapping is private: writing to a tensor changes this process's copy of the page, never the file.

        Args:
            path: The file.
            hashes: ``rec_data.ids.hash_ids`` of the original ids of ``items`` or ``users`` that the store must belong
                to; a store that was written without these hashes belongs to any.

        Raises:
            DataError: The file does not exist, is not a sequence store, is damaged, or belongs to other ids.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise DataError(f"sequence store {path} cannot be opened: {error}") from error
        try:
            store, metadata = cls._of_bytes(mapped, path)
        except DataError:
            raise
        except Exception as error:  # a damaged file can fail anywhere in the reader, as an error of any type
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"{path} is not a sequence store: {reason}") from error
        _check_values(store, metadata, path)
        for name, value in (hashes or {}).items():
            own = metadata.get(name.encode(), value.encode()).decode()
            if own != value:
                raise DataError(
                    f"{path} belongs to other {name} than {name}.parquet: found ids with the hash {value[:12]}, "
                    f"allowed: {own[:12]}, those of the log that it was made from"
                )
        return store

    @classmethod
    def _of_bytes(cls, mapped: mmap.mmap, path: Path) -> tuple[SequenceStore, Mapping[bytes, bytes]]:
        """The tensors that view a mapped file, and its metadata."""
        import torch

        whole = pa.py_buffer(mapped)
        with pa.ipc.open_file(whole) as reader:
            if reader.num_record_batches != 1 or reader.schema not in (_SCHEMA, _SCHEMA.append(_TARGET)):
                found = f"its columns are {_in_words(reader.schema)}, in {reader.num_record_batches} batches"
                allowed = f"{_in_words(_SCHEMA)}, or these and {_in_words([_TARGET])}, in 1"
                raise DataError(f"{path} is not a sequence store: {found}; allowed: {allowed}")
            batch = reader.get_batch(0)
        _check_layout(batch, whole, path)

        def tensor(buffer: pa.Buffer, dtype: torch.dtype, count: int) -> Tensor:
            if count == 0:
                return torch.empty(0, dtype=dtype)
            return torch.frombuffer(mapped, dtype=dtype, count=count, offset=buffer.address - whole.address)

        history, targets = batch.column(ITEMS), None
        if TARGET in batch.schema.names:
            targets = tensor(batch.column(TARGET).buffers()[1], torch.int32, len(batch))
        store = cls(
            items=tensor(history.values.buffers()[1], torch.int32, len(history.values)),
            offsets=tensor(history.buffers()[1], torch.int64, len(history) + 1),
            user_ids=tensor(batch.column(USER).buffers()[1], torch.int32, len(batch)),
            targets=targets,
            mapped=mapped,
        )
        return store, batch.schema.metadata or {}


def _length_counts(offsets: Int64s) -> str:
    """How many histories have which length, as ``1:20 2:14``."""
    lengths, counts = np.unique(np.diff(offsets), return_counts=True)
    return " ".join(f"{length}:{count}" for length, count in zip(lengths.tolist(), counts.tolist(), strict=True))


def _checksum(
    hashes: Mapping[bytes, bytes], user_ids: Int32s, offsets: Int64s, items: Int32s, targets: Int32s | None
) -> bytes:
    """The CRC-32 of all that a store holds; 3 GB per second on one core."""
    value = zlib.crc32(repr(sorted(hashes.items())).encode())
    for column in (user_ids, offsets, items, targets):
        value = zlib.crc32(str(None if column is None else len(column)).encode(), value)
        value = value if column is None else zlib.crc32(np.ascontiguousarray(column).data, value)
    return f"{value:08x}".encode()


def _check_values(store: SequenceStore, metadata: Mapping[bytes, bytes], path: Path) -> None:
    """Refuse a store that differs from its checksum, and offsets or ids out of range."""
    hashes = {name: value for name, value in metadata.items() if name != _CHECKSUM}
    user_ids, offsets, items = store.user_ids.numpy(), store.offsets.numpy(), store.items.numpy()
    targets = None if store.targets is None else store.targets.numpy()
    found, stored = _checksum(hashes, user_ids, offsets, items, targets), metadata.get(_CHECKSUM)
    if stored is None:
        raise DataError(f"{path} is not a sequence store: it has no checksum; allowed: one of this version")
    if found != stored:
        raise DataError(
            f"{path} is damaged: its checksum is {found.decode()}, allowed: {stored.decode(errors='replace')}, as it "
            "was written"
        )
    if offsets[0] != 0 or offsets[-1] != len(items) or np.any(offsets[1:] < offsets[:-1]):
        raise DataError(f"{path}: found offsets out of order, allowed: ascending from 0 to {len(items)}")
    for name, column in ((USER, user_ids), (ITEMS, items), (TARGET, targets)):
        if column is not None and len(column) and column.min() < 0:
            raise DataError(f"{path}: column {name}: found {column.min()}, allowed: ids from 0")


def _in_words(fields: Iterable[pa.Field]) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in fields)


def _check_layout(batch: pa.RecordBatch, whole: pa.Buffer, path: Path) -> None:
    """Refuse columns with nulls, and buffers that are not views of the file."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        nulls = column.null_count + (column.values.null_count if name == ITEMS else 0)
        if nulls:
            values = "1 empty value" if nulls == 1 else f"{nulls} empty values"
            raise DataError(f"{path} is not a sequence store: {values} in column {name}; allowed: none")
        for buffer in column.buffers():
            if buffer is not None and buffer.size and not 0 <= buffer.address - whole.address <= whole.size:
                raise DataError(f"{path} is not a sequence store: it is compressed; allowed: an uncompressed file")
