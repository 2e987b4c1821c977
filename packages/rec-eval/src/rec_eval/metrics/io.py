"""Keep the values per user of a run in a parquet file, so that two runs can be compared later.

Parquet because every tool reads it; what is not per user (k, coverage, counts) stands in the file's metadata.
"""

import json
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rec_eval.metrics.evaluate import Evaluation

_KEY = b"rec_eval"


def write_evaluation(evaluation: Evaluation, path: str | Path) -> None:
    """Write a run: one row per user, one float64 column per metric and k; NaN stays NaN.

    Args:
        evaluation: the run; ``user_ids``, if it has any, become the column ``user_id``.
        path: the parquet to write.
    """
    columns: dict[str, Any] = dict(evaluation.per_user)
    if evaluation.user_ids is not None:
        columns = {"user_id": evaluation.user_ids, **columns}
    whole = {
        "ks": evaluation.ks,
        "catalogue": evaluation.catalogue,
        "num_users": evaluation.num_users,
        "num_without_relevant": evaluation.num_without_relevant,
        "num_relevant_outside": evaluation.num_relevant_outside,
    }
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(whole).encode()})
    pq.write_table(table, path, compression="zstd")


def read_evaluation(path: str | Path | IO[bytes]) -> Evaluation:
    """Read what ``write_evaluation`` wrote, from a path or an open file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no run of this package.
    """
    table = pq.read_table(path)
    metadata = table.schema.metadata or {}
    if _KEY not in metadata:
        raise ValueError(f"{_name(path)} holds no evaluation: it was not written by write_evaluation")
    whole = json.loads(metadata[_KEY])
    columns = {name: np.array(table[name].to_numpy()) for name in table.column_names}
    user_ids = columns.pop("user_id", None)
    whole["ks"] = tuple(whole["ks"])
    return Evaluation(per_user=columns, user_ids=user_ids, **whole)


def _name(path: str | Path | IO[bytes]) -> str:
    return str(path) if isinstance(path, str | Path) else str(getattr(path, "name", "the file"))
