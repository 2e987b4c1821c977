"""Write the values per user of a run to a parquet file, so that two runs can be compared later; and rows to CSV.

Values that are not per user (k, coverage, counts) are in the metadata of the parquet file.
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rec_eval.metrics.evaluate import Evaluation

_KEY = b"rec_eval"


def write_evaluation(evaluation: Evaluation, path: str | Path) -> None:
    """Write a run as parquet: one row per user, one float64 column per metric and k; NaN stays NaN.

    The ids of the users, if any, become the column ``user_id``.
    """
    columns: dict[str, Any] = dict(evaluation.per_user)
    if evaluation.user_ids is not None:
        columns = {"user_id": evaluation.user_ids, **columns}
    whole = {name: value for name, value in vars(evaluation).items() if name not in ("per_user", "user_ids")}
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(whole).encode()})
    pq.write_table(table, path, compression="zstd")


def read_evaluation(path: str | Path | IO[bytes]) -> Evaluation:
    """Read a file that ``write_evaluation`` wrote, from a path or an open file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ``write_evaluation`` did not write the file.
    """
    table = pq.read_table(path)
    metadata = table.schema.metadata or {}
    if _KEY not in metadata:
        name = path if isinstance(path, str | Path) else getattr(path, "name", "the file")
        raise ValueError(f"{name} holds no evaluation; allowed: a file of write_evaluation")
    whole = json.loads(metadata[_KEY])
    columns = {name: np.array(table[name].to_numpy()) for name in table.column_names}
    user_ids = columns.pop("user_id", None)
    whole["ks"] = tuple(whole["ks"])
    return Evaluation(per_user=columns, user_ids=user_ids, **whole)


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
