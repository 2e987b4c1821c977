"""Data frames and ids of callers: pandas, polars and pyarrow in and out, through Arrow. pandas is not needed itself."""

import re
import reprlib
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cutrec.errors import StageError
from rec_data.arrays import Int32s, Mask

KINDS = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow": "Table"}
"""The libraries whose frames are read and returned, and the class of such a frame."""


def kind_of(value: object) -> str | None:
    """The library of a data frame (one of `KINDS`), or None if the value is none."""
    loaded = {kind: sys.modules[kind] for kind in KINDS if kind in sys.modules}  # a frame's library is one of them
    return next((kind for kind, module in loaded.items() if isinstance(value, getattr(module, KINDS[kind]))), None)


def names_of(frame: Any) -> list[str]:
    """The names of the columns of a data frame."""
    return [str(name) for name in (frame.column_names if kind_of(frame) == "pyarrow" else frame.columns)]


def to_arrow(what: str, frame: Any, wanted: Iterable[str]) -> pa.Table:
    """The wanted columns of a data frame; if it lacks one of them, a table without rows that has all its names.

    Whoever reads such a table finds that a column is missing, and can name the others.

    Raises:
        StageError: naming `what`, if a column has values of several types.
    """
    names = names_of(frame)
    chosen = list(dict.fromkeys(wanted))
    if not set(chosen) <= set(names):
        return pa.table({name: pa.array([], pa.null()) for name in names})
    if kind_of(frame) == "pyarrow":
        return frame.select(chosen)
    if kind_of(frame) == "polars":
        return frame.select(chosen).to_arrow()
    try:
        kept = frame[[frame.columns[names.index(name)] for name in chosen]]
        return pa.Table.from_pandas(kept, preserve_index=False).replace_schema_metadata()
    except (pa.ArrowException, TypeError) as error:
        raise StageError(
            f"{what}: found {' '.join(str(error).split())[:300]}, allowed: columns with values of one type"
        ) from None


def from_arrow(table: pa.Table, kind: str) -> Any:
    """A table as a data frame of one of `KINDS`.

    Raises:
        StageError: there is no such kind, or its library is not installed.
    """
    if kind == "pyarrow":
        return table
    try:
        if kind == "pandas":
            return table.to_pandas()
        if kind == "polars":
            import polars as pl

            return pl.from_arrow(table)
    except ImportError as error:
        raise StageError(f"frame: found {kind!r}, which is not installed here ({error}), allowed: pyarrow") from None
    raise StageError(f"frame: found {kind!r}, allowed: {', '.join(KINDS)}")


def to_ids(what: str, values: Any) -> pa.Array:
    """Ids as an Arrow array ``[n]`` of integers or strings: of a list, a set, an array, a column, or a single id.

    Raises:
        StageError: naming `what`, if the values are no ids.
    """
    wrong = StageError(f"{what}: found {reprlib.repr(values)}, allowed: ids as in the log, integers or strings")
    if isinstance(values, (str, Integral)):
        values = [values]
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise wrong
    try:
        found = _as_array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        raise wrong from None
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    if pa.types.is_dictionary(found.type):
        found = found.dictionary_decode()
    if pa.types.is_floating(found.type) and found.null_count == 0 and len(found):  # as pandas holds integers with gaps
        try:
            found = found.cast(pa.int64())
        except pa.ArrowInvalid:
            raise wrong from None
    if len(found) == 0:
        return pa.array([], pa.int64())
    text = pa.types.is_string(found.type) or pa.types.is_large_string(found.type) or pa.types.is_string_view(found.type)
    if found.null_count or not (text or pa.types.is_integer(found.type)):
        raise wrong
    return found.cast(pa.large_string()) if text else found


def _as_array(values: Any) -> pa.Array | pa.ChunkedArray:
    if hasattr(values, "__arrow_c_stream__"):
        return pa.chunked_array(values)
    values = values if hasattr(values, "dtype") else list(values)
    try:
        return pa.array(values)
    except OverflowError:  # Python integers from 2^63
        return pa.array(values, pa.uint64())


class Index:
    """Finds ids among those of a model or a log.

    Args:
        names: ``[n]`` distinct ids, integers or strings.
    """

    def __init__(self, names: pa.Array) -> None:
        self.names = names

    @cached_property
    def _places(self) -> dict[object, int]:
        return {name: place for place, name in enumerate(self.names.to_pylist())}

    def find(self, ids: pa.Array) -> Int32s:
        """The places ``[m]`` of ids ``[m]`` of `to_ids`, -1 for unknown ones; 7 and ``"7"`` are the same id."""
        values = ids.to_pylist()
        if pa.types.is_integer(self.names.type) and not pa.types.is_integer(ids.type):
            values = [int(text) if re.fullmatch(r"0|-?[1-9][0-9]{0,19}", text, re.ASCII) else None for text in values]
        elif pa.types.is_integer(ids.type) and not pa.types.is_integer(self.names.type):
            values = list(map(str, values))
        places = self._places
        return np.array([places.get(value, -1) for value in values], dtype=np.int32)

    def mark(self, places: Int32s) -> Mask:
        """Mark the places ``[m]`` of `find` in ``[n]``; -1 is passed over."""
        marked = np.zeros(len(self.names), dtype=bool)
        marked[places[places >= 0]] = True
        return marked


def cast_like(ids: pa.Array, kind: str | None) -> pa.Array:
    """Ids in the type with this name, if they have one; of text that was read as integers, text again."""
    if kind is None:
        return ids
    try:
        return ids.cast(pa.type_for_alias(kind))
    except (pa.ArrowException, ValueError):
        return ids


def type_name(kind: pa.DataType) -> str | None:
    """The name of a type by which `cast_like` finds it; None if it is not one of plain values."""
    try:
        return str(kind) if pa.type_for_alias(str(kind)) == kind else None
    except ValueError:
        return None


def shown(ids: pa.Array, most: int = 5) -> str:
    """The first few ids, for a message."""
    unique = pc.unique(ids)
    return ", ".join(map(repr, unique[:most].to_pylist())) + (", ..." if len(unique) > most else "")
