"""The sequence store: flat item ids plus offsets (CSR), memory-mapped.

On disk a store is one uncompressed Arrow IPC file with one record batch: ``user_id`` int32, ``items``
large_list<int32>, and for evaluation ``target`` int32. A list column *is* a flat array plus offsets, so opening a
store copies nothing: the tensors view the mapped file, and pages are read when they are accessed. Any Arrow reader can
open the file.

Opening a store needs torch; writing one needs only numpy and pyarrow, so that splitting a log does not import torch.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from rec_data.arrays import Int32s, Int64s, to_arrow
from rec_data.errors import DataError
from rec_data.schema import ITEMS, TARGET, USER

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SCHEMA = pa.schema([(USER, pa.int32()), (ITEMS, pa.large_list(pa.int32()))])
_TARGET = pa.field(TARGET, pa.int32())


def write_store(path: Path, *, items: Int32s, offsets: Int64s, user_ids: Int32s, targets: Int32s | None = None) -> None:
    """Write a store's file: items ``[nnz]``, offsets ``[n + 1]`` from 0 to nnz, user ids and targets ``[n]``."""
    columns = {USER: to_arrow(user_ids), ITEMS: pa.LargeListArray.from_arrays(to_arrow(offsets), to_arrow(items))}
    if targets is not None:
        columns[TARGET] = to_arrow(targets)
    batch = pa.record_batch(list(columns.values()), names=list(columns))
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
    """``[n]`` int32, dense user ids."""
    targets: Tensor | None = None
    """``[n]`` int32, the item to predict after the history; None for training."""

    def __len__(self) -> int:
        """Number of histories."""
        return len(self.user_ids)

    @property
    def lengths(self) -> Tensor:
        """``[n]`` int64, items per history."""
        return self.offsets[1:] - self.offsets[:-1]

    @classmethod
    def open(cls, path: Path | str) -> SequenceStore:
        """Map a file that ``write_store`` wrote into memory.

        The mapping is private: writing to a tensor changes this process's copy of the page, never the file.

        Raises:
            DataError: The file does not exist, or is not a sequence store.
        """
        import torch

        path = Path(path)
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise DataError(f"sequence store {path} cannot be opened: {error}") from error
        whole = pa.py_buffer(mapped)
        try:
            with pa.ipc.open_file(whole) as reader:
                if reader.num_record_batches != 1 or reader.schema not in (_SCHEMA, _SCHEMA.append(_TARGET)):
                    found = f"its columns are {_in_words(reader.schema)}, in {reader.num_record_batches} batches"
                    allowed = f"{_in_words(_SCHEMA)}, or these and {_in_words([_TARGET])}, in 1"
                    raise DataError(f"{path} is not a sequence store: {found}; allowed: {allowed}")
                batch = reader.get_batch(0)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path} is not a sequence store: {error}") from error

        _check_layout(batch, whole, path)

        def tensor(buffer: pa.Buffer, dtype: torch.dtype, count: int) -> Tensor:
            if count == 0:
                return torch.empty(0, dtype=dtype)
            return torch.frombuffer(mapped, dtype=dtype, count=count, offset=buffer.address - whole.address)

        history, targets = batch.column(ITEMS), None
        if TARGET in batch.schema.names:
            targets = tensor(batch.column(TARGET).buffers()[1], torch.int32, len(batch))
        return cls(
            items=tensor(history.values.buffers()[1], torch.int32, len(history.values)),
            offsets=tensor(history.buffers()[1], torch.int64, len(history) + 1),
            user_ids=tensor(batch.column(USER).buffers()[1], torch.int32, len(batch)),
            targets=targets,
        )


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
