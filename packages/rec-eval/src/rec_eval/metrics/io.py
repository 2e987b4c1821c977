"""Write the values per user of a run to a parquet file, so that two runs can be compared later; and rows to CSV.

Values that are not per user (k, coverage, counts) are in the metadata of the parquet file, with a checksum of all.
"""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rec_eval.errors import DamagedError
from rec_eval.metrics.evaluate import Evaluation

_KEY = b"rec_eval"
_CHECKSUM = b"sha256"
_IDS = {"user_id": "user_ids", "target": "targets"}
"""The fields of an evaluation that hold ids, by the name of their column."""


def write_evaluation(evaluation: Evaluation, path: str | Path) -> None:
    """Write a run as parquet: one row per list, one float64 column per metric and k; NaN stays NaN.

    The ids of the users and of their targets, if any, become the columns ``user_id`` and ``target``.
    """
    ids = {column: getattr(evaluation, name) for column, name in _IDS.items()}
    columns = {name: values for name, values in ids.items() if values is not None} | dict(evaluation.per_user)
    kept = ("per_user", *_IDS.values())
    rest = {field.name: getattr(evaluation, field.name) for field in fields(evaluation) if field.name not in kept}
    whole = json.dumps(rest).encode()
    table = pa.table(columns).replace_schema_metadata({_KEY: whole, _CHECKSUM: _checksum(columns, whole)})
    pq.write_table(table, path, compression="zstd")


def read_evaluation(path: str | Path | IO[bytes]) -> Evaluation:
    """Read a file that ``write_evaluation`` wrote, from a path or an open file.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is damaged; files of earlier versions have no checksum, so not all damage is found in them.
        ValueError: ``write_evaluation`` did not write the file.
    """
    name = path if isinstance(path, str | Path) else getattr(path, "name", "the file")
    try:
        # Arrow gets neither a Python file nor threads: threads that read one need Python's lock, so a process that ends
        # soon after an error would abort if one of them still ran.
        source = path if isinstance(path, str | Path) else pa.BufferReader(path.read())
        with pq.ParquetFile(source) as file:
            table = file.read(use_threads=False)
        metadata = table.schema.metadata or {}
        columns = {column: np.array(table[column].to_numpy()) for column in table.column_names}
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the reader, as an error of any type
        raise DamagedError(f"{name} is damaged: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    if _KEY not in metadata:
        raise ValueError(f"{name} holds no evaluation; allowed: a file of write_evaluation")
    if _CHECKSUM in metadata and metadata[_CHECKSUM] != _checksum(columns, metadata[_KEY]):
        raise DamagedError(f"{name} is damaged: it does not have its own checksum")
    ids: dict[str, Any] = {field: columns.pop(column, None) for column, field in _IDS.items()}
    rest = json.loads(metadata[_KEY]) | ids
    rest["ks"] = tuple(rest["ks"])
    return Evaluation(per_user=columns, **rest)


def _checksum(columns: dict[str, npt.NDArray[Any]], whole: bytes) -> bytes:
    """The SHA-256 of all values; of ids as text."""
    digest = hashlib.sha256(whole)
    for name, values in columns.items():
        digest.update(f"{name} {len(values)}".encode())
        digest.update(json.dumps(values.tolist(), default=str).encode() if name in _IDS else values.tobytes())
    return digest.hexdigest().encode()


def write_rows(rows: Sequence[NamedTuple], path: str | Path) -> None:
    """Write named tuples of one kind as CSV with a header line, the names of their fields.

    Raises:
        ValueError: there are no rows, so the header is unknown.
    """
    if not rows:
        raise ValueError(f"no rows to write to {path}")
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(rows[0]._fields)
        writer.writerows(rows)
