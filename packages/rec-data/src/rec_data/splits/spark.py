"""The split of a log on Spark: the files of `rec_data.splits.split`, one part of the users per task.

Spark counts, filters, encodes and divides the rows (`rec_data.splits.spark_rows`). All that follows is the code of the
split in memory, which a task runs on its part (`rec_data.splits.spark_parts`). The driver combines what the tasks find,
and writes the ids. Driver and workers share the folder of the split: all of them reach it by the same path.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from rec_data.arrays import Mask, to_arrow
from rec_data.config import Split
from rec_data.errors import DataError
from rec_data.ids import hash_chunks
from rec_data.schema import COUNT, ITEM, ORIGINAL_ID, USER
from rec_data.splits.decide import Division
from rec_data.splits.each_part import WorkerLogs, add
from rec_data.splits.encode import LogFacts, count_dropped
from rec_data.splits.part_files import ROWS_PER_PART, WORK, PartFiles, SortedPart, merge_ties, part_writer
from rec_data.splits.sorted_log import SortedLog
from rec_data.splits.spark_parts import check_reach, sort_part
from rec_data.splits.spark_rows import Encoded, encode_on_spark, read_in_order
from rec_data.splits.split import check_folder, decide, refuse_trivial, summarize
from rec_data.splits.write import merge_facts

_T = TypeVar("_T")
_A = TypeVar("_A", bound=npt.NDArray[Any])


@contextmanager
def readable() -> Iterator[None]:
    """Turn an error of Spark into one line: that of the task that failed, if one did."""
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        raise DataError(_in_one_line(str(error))) from error


def _in_one_line(text: str) -> str:
    """The message of the exception in Python that a text of Spark reports, or else the first line of the text."""
    _, _, traceback = text.partition("Traceback (most recent call last):")
    raised = re.search(r"^(?:[\w.]+\.)?(\w+): (.*)$", traceback, re.MULTILINE)
    if raised is None:
        reason = re.sub(r"^An error occurred while calling \S+\s+:?", "", text.partition("\n\tat ")[0])
        return f"Spark: {' '.join(reason.split())[:500]}"
    return raised[2] if raised[1] == DataError.__name__ else f"a task on Spark failed: {raised[1]}: {raised[2]}"


@readable()
def split_on_spark(
    log: DataFrame,
    out: Path,
    settings: Split | None = None,
    *,
    parts: int | None = None,
    seed: int = 42,
    filter_seen: bool = True,
    tie_seed: int | None = 42,
    order: Sequence[str] = (),
) -> dict[str, Any]:
    """Split a log on Spark and write the files, those of several parts as `rec_data.sequences.subsets` opens them.

    Args:
        log: ``user_id``, ``item_id`` (integers or strings) and ``timestamp`` (integers).
        out: An existing, empty folder that the driver and all workers reach by the same path.
        settings: The strategy, its shares and the filters; None means the defaults.
        parts: How many parts of the users; None means about `ROWS_PER_PART` interactions in each.
        seed: Seed of the choice of validation users.
        filter_seen: Whether ranking will leave out seen items, so that targets among them count as unreachable.
        tie_seed: Seed of the order of a user's interactions with equal times (``Download.tie_seed``); None keeps the
            order of rows.
        order: Columns of the log that say the order of rows, such as the number of a row in its file.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        DataError: A negative seed, a folder in use or that a worker does not reach, a log that cannot be split this
            way, or a task that failed.
    """
    settings = settings or Split()
    check_folder(out)
    if seed < 0:
        raise DataError(f"seed {seed}; allowed: at least 0")
    if tie_seed is None and not order:
        raise DataError("download.ties: found row_order of a log whose rows have no order, allowed: shuffle")
    out = out.resolve()
    work = out / WORK
    split = work / "split"
    split.mkdir(parents=True)
    try:
        found = _encode_and_sort(log, work, settings, parts, tie_seed, order)
        division = decide(found.logs, found.facts.unit, settings, seed=seed)
        summary = summarize(
            found.facts,
            division,
            settings,
            seed=seed,
            filter_seen=filter_seen,
            paper_faithful=False,
            tie_seed=tie_seed,
        )
        hashes = _write_ids(work, split, division)
        write = part_writer(
            found.logs, division, found.sorted_parts, summary, hashes, work=work, out=split, filter_seen=filter_seen
        )
        summary |= merge_facts(on_workers(log.sparkSession, found.logs.numbers, write))
        if (of := len(found.logs)) > 1:
            summary["parts"] = of
        for path in sorted(split.iterdir()):
            path.rename(out / path.name)
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    finally:
        shutil.rmtree(work)
    return summary


class _Found(NamedTuple):
    """A log that is encoded and sorted in the work folder."""

    logs: "SparkLogs"
    facts: LogFacts
    sorted_parts: list[SortedPart]


def _encode_and_sort(
    log: DataFrame, work: Path, settings: Split, parts: int | None, tie_seed: int | None, order: Sequence[str]
) -> _Found:
    session, (fewest_items, fewest_users) = log.sparkSession, settings.min_counts()
    on_workers(session, range(2 * session.sparkContext.defaultParallelism), partial(check_reach, work))
    encoded = encode_on_spark(
        log,
        work,
        rows_per_part=ROWS_PER_PART,
        parts=parts,
        min_item_count=fewest_items,
        min_user_count=fewest_users,
        until=settings.test_until,
        order=order,
    )
    refuse_trivial(encoded.raw, _first_ids(work, "user"), _first_ids(work, "item"))
    logs = SparkLogs(session, work, encoded)
    found = on_workers(session, logs.numbers, partial(sort_part, work=work, num_items=encoded.items, tie_seed=tie_seed))
    dropped = count_dropped(
        encoded.raw,
        users=encoded.users,
        items=encoded.items,
        kept=sum(part.rows for part in found),
        cut=None if settings.test_until is None else encoded.cut,
    )
    return _Found(logs, LogFacts(raw=encoded.raw, dropped=dropped, ties=merge_ties(found), unit=encoded.unit), found)


class SparkLogs(PartFiles, WorkerLogs):
    """The sorted parts of a log in the work folder, which tasks open."""

    def __init__(self, session: SparkSession, work: Path, encoded: Encoded) -> None:
        super().__init__(work, encoded.parts, encoded.items)
        self.session = session

    def each(self, function: Callable[[SortedLog], _T]) -> Iterator[_T]:
        """The result of a function for each part, in their order."""
        return iter(on_workers(self.session, self.numbers, _of_part(self.open, function)))

    def total(self, function: Callable[[SortedLog], _A]) -> _A:
        """The sum of the arrays that a function returns for the parts, added up by the workers."""
        parts = self.session.sparkContext.parallelize(self.numbers, len(self))
        added: _A = parts.map(_of_part(self.open, function)).treeReduce(add)
        return added


def _of_part(open_one: Callable[[int], SortedLog], function: Callable[[SortedLog], _T]) -> Callable[[int], _T]:
    return lambda number: function(open_one(number))


def on_workers(session: SparkSession, numbers: Sequence[int], function: Callable[[int], _T]) -> list[_T]:
    """The results of a function for some numbers, each from a task of its own."""
    found: list[_T] = session.sparkContext.parallelize(numbers, len(numbers)).map(function).collect()
    return found


def _first_ids(work: Path, what: str) -> list[object]:
    """At most two ids."""
    key = USER if what == "user" else ITEM
    batches = read_in_order(work / f"{what}s_in_order", [key])
    return list(islice((name for batch in batches for name in batch.column(key).to_pylist()), 2))


def _write_ids(work: Path, out: Path, division: Division) -> dict[str, str]:
    """Write the original ids of users and items, and how often train holds each item; return the hashes of the ids."""
    items, counts = division.catalogue.items, division.catalogue.counts
    return {
        "users": _write_kept(work / "users_in_order", USER, division.users, {}, out / "users.parquet"),
        "items": _write_kept(work / "items_in_order", ITEM, items, {COUNT: counts}, out / "items.parquet"),
    }


def _write_kept(names: Path, key: str, kept: Mask, others: dict[str, npt.NDArray[np.int64]], path: Path) -> str:
    """Write the kept ids of a folder, numbered from 0, with other columns ``[n]`` of all ids; return their hash."""
    batches = read_in_order(names, [key])
    first = next(batches)
    kind = first.schema.field(key).type
    kind = pa.large_string() if pa.types.is_string(kind) else kind
    schema = pa.schema([(key, pa.int32()), (ORIGINAL_ID, kind), *((name, pa.int64()) for name in others)])

    def written() -> Iterator[pa.Array]:
        start, number = 0, 0
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for batch in chain([first], batches):
                rows = slice(start, start + len(batch))
                chosen = np.flatnonzero(kept[rows])
                ids = batch.column(key).cast(kind).take(to_arrow(chosen))
                dense = np.arange(number, number + len(chosen), dtype=np.int32)
                columns = [to_arrow(values[rows][chosen]) for values in others.values()]
                writer.write_batch(pa.record_batch([to_arrow(dense), ids, *columns], schema=schema))
                yield ids
                start, number = rows.stop, number + len(chosen)

    return hash_chunks(written(), kind)
