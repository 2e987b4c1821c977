"""The original ids of a split by dense id, and their hash: what models and sequence stores know their catalogue by."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rec_data import arrays
from rec_data.errors import DataError
from rec_data.schema import ORIGINAL_ID


class Ids(NamedTuple):
    """The original ids of items or users."""

    path: Path
    """The file that they were read from."""
    names: pa.Array
    """``[n]`` by dense id."""
    hash: str
    """By ``hash_ids``."""


def read_ids(path: Path) -> Ids:
    """Read the original ids of an ``items.parquet`` or ``users.parquet``.

    Raises:
        DataError: The file does not exist, is damaged, or does not hold ids.
    """
    try:
        with pq.ParquetFile(path) as file:  # read_table would import pyarrow.dataset
            column = file.read(columns=[ORIGINAL_ID])[ORIGINAL_ID].combine_chunks()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # a damaged file can fail anywhere in the reader, as an error of any type
        reason = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise DataError(f"{path} is damaged, or has no column {ORIGINAL_ID!r}: {reason}") from error
    ids = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    if ids.null_count or not is_ids(ids.type):
        raise DataError(f"{path}: column {ORIGINAL_ID!r} holds {ids.type} with {ids.null_count} empty values; "
                        "allowed: integers or strings, none empty")  # fmt: skip
    return Ids(path, ids, hash_ids(ids))


def hash_ids(ids: pa.Array) -> str:
    """The SHA-256 of ``[n]`` integers or strings in their order, block by block, without a copy of all.

    It depends on the values alone: not on the width of the integers, the kind of strings, or the file that held them.
    """
    return hash_chunks([ids], ids.type)


def hash_chunks(chunks: Iterable[pa.Array], kind: pa.DataType) -> str:
    """The same of ids of a type that come in chunks of any size, of which a few million ids are kept at a time."""
    digest, number, negative = hashlib.sha256(), 0, False
    for block in _in_blocks(chunks):
        number += len(block)
        if _is_text(kind):
            text = block.cast(pa.large_string())
            _, places, data = text.buffers()
            offsets = np.frombuffer(places, np.int64)[text.offset :][: len(text) + 1]
            digest.update(np.diff(offsets).astype("<i8").tobytes())
            digest.update(memoryview(data or b"")[offsets[0] : offsets[-1]])
        else:
            digest.update(block.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
            negative = negative or pc.min(block).as_py() < 0
    # From 2^63 on an unsigned id has the bytes of a negative one, so the sign of the smallest id is hashed too.
    digest.update(f"{number} {'text' if _is_text(kind) else f'integers, {negative}'}".encode())
    return digest.hexdigest()


def _in_blocks(chunks: Iterable[pa.Array]) -> Iterator[pa.Array]:
    """Blocks of `arrays.BLOCK` ids each; the last one may be shorter."""
    waiting = pa.chunked_array([], pa.null())
    for chunk in chunks:
        waiting = pa.chunked_array([*waiting.chunks, chunk])
        while len(waiting) >= arrays.BLOCK:
            yield _joined(waiting.slice(0, arrays.BLOCK))
            waiting = waiting.slice(arrays.BLOCK)
    if len(waiting):
        yield _joined(waiting)


def _joined(chunks: pa.ChunkedArray) -> pa.Array:
    found = chunks.combine_chunks() if chunks.num_chunks > 1 else chunks.chunk(0)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def as_ids(texts: Iterable[str], kind: pa.DataType) -> pa.Array:
    """Those of the texts that can occur in a column of integers or strings, sorted, in the type of the column."""
    if not pa.types.is_integer(kind):
        return pa.array(sorted(texts), kind)
    bounds = np.iinfo(kind.to_pandas_dtype())
    numbers = {int(text) for text in texts if re.fullmatch(r"0|-?[1-9][0-9]{0,19}", text, re.ASCII)}
    return pa.array(sorted(number for number in numbers if bounds.min <= number <= bounds.max), kind)


def is_ids(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold ids: integers or strings."""
    return bool(pa.types.is_integer(kind) or _is_text(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
