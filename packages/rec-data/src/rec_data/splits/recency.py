"""What the times in the files of a split say: how old a history is, and which items of it are new."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data.arrays import Int64s, Mask
from rec_data.errors import DataError
from rec_data.schema import TARGET_TIME, TIMESTAMPS, UNITS


def days_since_last(path: Path, summary_path: Path) -> Int64s | None:
    """Whole days from the last interaction of each history to the target: ``[n]``, in the order of the sequence store.

    Args:
        path: The exported parquet of validation or test, or of a part of it.
        summary_path: The ``summary.json`` of the split.

    Returns:
        The days, or None if the times of the log are positions and no clock.

    Raises:
        DataError: A file is missing or damaged.
    """
    try:
        summary = json.loads(summary_path.read_bytes())
        if not summary.get("clock", True):
            return None
        ticks = 86_400 * UNITS[summary["timestamp_unit"]]
        days = [np.empty(0, np.int64)]
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=[TIMESTAMPS, TARGET_TIME]):
                lists = batch.column(TIMESTAMPS)
                last = lists.values.to_numpy()[lists.offsets.to_numpy()[1:] - 1]
                days.append((batch.column(TARGET_TIME).to_numpy() - last) // ticks)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error
    return np.concatenate(days)


def is_since(path: Path, moment: int) -> Mask:
    """Which items of the histories are of a moment or later: ``[nnz]``, in the order of the sequence store.

    Args:
        path: The exported parquet of training, validation or test.
        moment: In the log's unit of time.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            found = [
                batch.column(TIMESTAMPS).flatten().to_numpy() >= moment
                for batch in file.iter_batches(columns=[TIMESTAMPS])
            ]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error
    return np.concatenate([np.empty(0, np.bool_), *found])
