"""The rows of users in one file of any kind: counted, and left out of a copy."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cutrec.workflow.user_ids import Users
from rec_data.errors import DataError
from rec_data.ids import is_ids, read_ids
from rec_data.schema import USER

_BATCH_ROWS = 1 << 20
LIST = ["user_id", "item_id", "rank", "score"]
"""The columns of lists of recommendations."""


def count_rows(users: Users, path: Path) -> Counter[str]:
    """The rows of each user in one file.

    Raises:
        DataError: It is damaged.
    """
    try:
        if path.suffix == ".csv":
            with _open_csv(path) as file:
                return Counter(row[0] for row, _ in _records(file) if row and users.names(row[0]))
        if path.suffix == ".json":
            shown = [str(example["user"]) for example in json.loads(path.read_bytes())]
            return _count(users, [pa.array(shown, pa.string())])
        if path.name == "users.parquet":
            return _count(users, [read_ids(path).names])
        if USER not in pq.read_schema(path).names:
            return Counter()
        return _count(users, (batch[USER] for batch in _batches(path, [USER])))
    except (pa.ArrowException, csv.Error, json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error


def _count(users: Users, columns: Iterable[pa.Array]) -> Counter[str]:
    """How often each of the users occurs in some columns."""
    counts: Counter[str] = Counter()
    for column in columns:
        for pair in column.filter(users.among(column)).value_counts().to_pylist():
            counts[str(pair["values"])] += pair["counts"]
    return counts


def is_list(path: Path) -> bool:
    """Whether a file has the columns of a list of recommendations, of users whose ids are integers or strings."""
    if path.suffix == ".csv":
        with path.open("rb") as file:
            return file.readline(200).decode(errors="replace").replace('"', "").strip().split(",")[:4] == LIST
    try:
        return (
            path.suffix == ".parquet" and (schema := pq.read_schema(path)).names[:4] == LIST and is_ids(schema.types[0])
        )
    except (pa.ArrowException, OSError):
        return False


def _open_csv(path: Path, mode: str = "r") -> TextIO:
    """Open a CSV so that what is read can be written byte by byte."""
    return cast(TextIO, path.open(mode, encoding="utf-8", errors="surrogateescape", newline=""))


def filter_csv(users: Users, path: Path, out: Path) -> None:
    """Copy a CSV whose first column are users without the rows of some; the other rows stay byte by byte."""
    with _open_csv(path) as file, _open_csv(out, "w") as copy:
        copy.writelines(text for row, text in _records(file) if not (row and users.names(row[0])))


def _records(file: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    """The records of a CSV and the text of each, which may have several lines."""
    text: list[str] = []

    def lines() -> Iterator[str]:
        for line in file:
            text.append(line)
            yield line

    for row in csv.reader(lines()):
        yield row, "".join(text)
        text.clear()


def _batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a parquet file, whose pages are compared with their checksums if they have some."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error


def filter_parquet(users: Users, path: Path, out: Path) -> tuple[int, int]:
    """Copy a parquet file without the rows of users; the other rows keep their order.

    Returns:
        How many rows are gone, and how many are left.
    """
    gone = left = 0
    with pq.ParquetWriter(out, pq.read_schema(path), compression="zstd") as writer:
        for batch in _batches(path):
            kept = batch.filter(pc.invert(users.among(batch[USER])))
            gone, left = gone + len(batch) - len(kept), left + len(kept)
            if kept.num_rows:
                writer.write_batch(kept)
    return gone, left
