"""Remove users from the log, the split and the lists of a checkout, so that nothing below ``data/`` names them.

Every folder and file is replaced whole, by renaming. After a kill, each holds either its old or its new content, and
the same call does the rest.
"""

import csv
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cutrec.checksums import read_output, verify_folder, write_checksums
from cutrec.errors import StageError
from cutrec.outputs import atomic_file, read_json, write_json
from cutrec.paths import DATA, LOG, PER_USER, SPLIT
from rec_data.config import Download
from rec_data.ids import as_ids, read_ids
from rec_data.locks import locked
from rec_data.raw import files, finding
from rec_data.raw.rows import PLACE
from rec_data.schema import USER
from rec_data.splits.forget import forget_users
from rec_eval import read_evaluation, write_evaluation

RECOMMENDATIONS = "recommendations.parquet"
_EXAMPLES = Path("details") / "examples.json"
_BATCH_ROWS = 1 << 20


class Users:
    """The ids of users as somebody typed them, compared with ids of any type as the log holds them."""

    def __init__(self, ids: Iterable[str]) -> None:
        """Keep the ids; their order and repetitions have no meaning."""
        self.ids = frozenset(ids)

    def of_type(self, kind: pa.DataType) -> pa.Array:
        """Those of the ids that can occur in a column of integers or strings."""
        return as_ids(self.ids, kind)

    def among(self, names: pa.Array | pa.ChunkedArray) -> pa.Array:
        """``[n]`` whether each of the names is one of the ids."""
        return pc.is_in(names, value_set=self.of_type(names.type))


def read_users(name: str, *, root: Path, settings: Download) -> list[str]:
    """The ids in a file: text with one id per line, or parquet or CSV with a column of ids.

    The column is the user column of the log (``download.columns.user``), or the only one. A text file may begin with
    that name.

    Raises:
        DataError: There is no such file, it cannot be read, or it has no such column.
        StageError: It has no ids.
    """
    [path, *others] = finding.find(name, root=root, what="--users")
    if others:
        raise StageError(f"--users: found {len(others) + 1} files, allowed: one")
    usual = str(settings.columns.user) if settings.format.header is not False else USER  # not the position in the log
    ids: list[str | None]
    if path.suffix in finding.TEXT and not re.search(rb"[,;\t|]", path.read_bytes()):
        ids = list(path.read_text(encoding="utf-8-sig").split("\n"))
        ids = ids[1:] if str(ids[0]).strip() in (usual, USER) else ids
    else:
        frame = files.scan([path], None, replace(settings.format, header="auto"))
        names = [name for name in frame.collect_schema().names() if name != PLACE]
        column = next((each for each in (usual, USER, *names[: len(names) == 1]) if each in names), usual)
        files.require_columns(names, {"--users": column}, f"--users {name!r}")
        kind = frame.collect_schema()[column]
        if not (kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Enum)):
            raise StageError(f"--users: column {column!r} holds {kind}, allowed: integers or strings")
        ids = frame.select(pl.col(column).cast(pl.String)).collect()[column].to_list()
    as_text = path.suffix not in finding.PARQUET  # spaces around a field of a text file are no part of an id
    ids = [each.strip() if as_text else each for each in ids if each is not None]
    if not any(ids):
        raise StageError(f"--users: found no ids in {path}, allowed: at least one")
    return [each for each in ids if each]


def find_users(users: Users, data: Path = DATA) -> dict[Path, Counter[str]]:
    """Count the rows of each user in the log, the split and the lists.

    Returns:
        The rows by user, for each file that holds at least one of the users.

    Raises:
        ValueError: A file is damaged.
    """
    for folder in (LOG.parent, SPLIT, PER_USER.parent):
        with locked(data / folder.relative_to(DATA)):
            _recover(data / folder.relative_to(DATA))
    found: dict[Path, Counter[str]] = {}
    log, names, per_user, examples = (
        data / path.relative_to(DATA) for path in (LOG, SPLIT / "users.parquet", PER_USER, PER_USER.parent / _EXAMPLES)
    )
    lists = [per_user.with_name(RECOMMENDATIONS), *sorted((data / "recommend").rglob("*.parquet"))]
    for path in (log, per_user, *lists):
        if path.is_file() and USER in pq.read_schema(path).names:
            found[path] = _count(users, (batch[USER] for batch in _batches(path, [USER])))
    if names.is_file():
        found[names] = _count(users, [read_output(read_ids, names).names])
    for path in sorted((data / "recommend").rglob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = _records(file)
            if next(rows, ([""], ""))[0][:1] == [USER]:
                found[path] = Counter(row[0] for row, _ in rows if row and row[0] in users.ids)
    if examples.is_file():
        shown = [str(example["user"]) for example in json.loads(examples.read_bytes())]
        found[examples] = _count(users, [pa.array(shown, pa.string())])
    return {path: counts for path, counts in found.items() if counts}


def remove_users(users: Users, found: dict[Path, Counter[str]], data: Path = DATA) -> list[str]:
    """Write the files that `find_users` found again, without the users.

    Returns:
        What was done, one line per folder or file, without an id.

    Raises:
        ValueError: A file is damaged, or nothing would be left.
        OSError: A file cannot be written.
    """
    lines = []
    folders = {path.relative_to(data).parts[0] for path in found}
    rows = {path: counts.total() for path, counts in found.items()}
    for path in (path for path in found if path.is_relative_to(data / "recommend")):
        with atomic_file(path) as part:
            (_filter_csv if path.suffix == ".csv" else _filter_parquet)(users, path, part)
        lines.append(f"{path}: {rows[path]:,} rows removed")
    if "evaluate" in folders:
        evaluate = data / "evaluate"
        _remove_evaluated(users, evaluate)
        lines.append(f"{evaluate}: their lists, metrics and examples removed; the averages still count them")
    page = data / "report" / "report.html"
    if page.is_file():
        page.unlink()
        lines.append(f"{page}: removed, because it shows users as examples")
    if "split" in folders:
        split = data / "split"
        with _replaced(split, keep=False) as fresh:
            gone = users.of_type(read_output(read_ids, split / "users.parquet").names.type)
            summary = read_output(lambda path: forget_users(path.parent, fresh, gone), split / "summary.json")
            write_checksums(fresh)
        lines.append(f"{split}: {summary['users']:,} users left; dense ids of users have changed, those of items not")
        lines += [
            f"{split}: nobody is left for {part}" for part in ("validation", "test") if not summary[part]["users"]
        ]
    if "download" in folders:
        log = data / "download" / LOG.name
        with _replaced(log.parent, without=("SHA256SUMS", "summary.json", LOG.name)) as fresh:
            _filter_parquet(users, log, fresh / LOG.name)
            if (path := log.with_name("summary.json")).is_file():
                summary = read_json(path)
                summary["rows"] -= rows[log]
                summary["rows_forgotten"] = summary.get("rows_forgotten", 0) + rows[log]
                write_json(fresh / path.name, summary)
            write_checksums(fresh)
        lines.append(f"{log}: {rows[log]:,} rows removed")
    return lines


def _count(users: Users, columns: Iterable[pa.Array]) -> Counter[str]:
    """How often each of the users occurs in some columns."""
    counts: Counter[str] = Counter()
    for column in columns:
        for pair in column.filter(users.among(column)).value_counts().to_pylist():
            counts[str(pair["values"])] += pair["counts"]
    return counts


def _remove_evaluated(users: Users, evaluate: Path) -> None:
    """Remove the rows and examples of users from the outputs of the stage evaluate."""
    per_user, lists = evaluate / PER_USER.name, evaluate / RECOMMENDATIONS
    examples = evaluate / _EXAMPLES
    with _replaced(evaluate, without=("SHA256SUMS", per_user.name, lists.name, _EXAMPLES.name)) as fresh:
        if lists.is_file():
            _filter_parquet(users, lists, fresh / lists.name)
        if per_user.is_file() and b"rec_eval" not in (pq.read_schema(per_user).metadata or {}):
            _filter_parquet(users, per_user, fresh / per_user.name)  # of a synthetic log: ids alone
        elif per_user.is_file():
            run = read_evaluation(per_user)
            keep = ~users.among(pq.read_table(per_user, columns=[USER])[USER]).to_numpy()
            values = {name: column[keep] for name, column in run.per_user.items()}
            without = int(np.isnan(values[f"ndcg@{run.ks[0]}"]).sum())
            ids = None if run.user_ids is None else run.user_ids[keep]
            targets = None if run.targets is None else run.targets[keep]
            run = replace(run, per_user=values, num_users=int(keep.sum()), num_without_relevant=without)
            write_evaluation(replace(run, user_ids=ids, targets=targets), fresh / per_user.name)
        if examples.is_file():
            kept = [each for each in json.loads(examples.read_bytes()) if str(each["user"]) not in users.ids]
            text = json.dumps(kept, indent=1, default=str)
            (fresh / _EXAMPLES).write_text(text + "\n", encoding="utf-8")
        if (evaluate / "SHA256SUMS").is_file():
            write_checksums(fresh)


def _batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a parquet file, whose pages are compared with their checksums if they have some."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise StageError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error


def _filter_parquet(users: Users, path: Path, out: Path) -> None:
    """Copy a parquet file without the rows of users; the other rows keep their order."""
    with pq.ParquetWriter(out, pq.read_schema(path), compression="zstd") as writer:
        for batch in _batches(path):
            kept = batch.filter(pc.invert(users.among(batch[USER])))
            if kept.num_rows:
                writer.write_batch(kept)


def _filter_csv(users: Users, path: Path, out: Path) -> None:
    """Copy a CSV whose first column are users without the rows of some; the other rows stay byte by byte."""
    with path.open(encoding="utf-8", newline="") as file, out.open("w", encoding="utf-8", newline="") as copy:
        copy.writelines(text for row, text in _records(file) if not row or row[0] not in users.ids)


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


@contextmanager
def _replaced(folder: Path, *, without: Iterable[str] = (), keep: bool = True) -> Iterator[Path]:
    """Yield a new folder that takes the place of ``folder`` as a whole when the block ends without an error.

    It begins with what ``folder`` holds, as hard links where the file system has them, except the files of the names
    in ``without``, which the block writes; with nothing if not ``keep``.

    Two renames put it in place. A kill between them leaves no ``folder``; `find_users` then brings the old one back.
    """
    with locked(folder):
        _recover(folder)
        verify_folder(folder)  # the block will list the checksums again
        folder = folder.resolve()  # a link to another disk stays
        fresh, old = _aside(folder) / "new", _aside(folder) / "old"
        try:
            fresh.mkdir(parents=True)
            if keep:
                ignore = shutil.ignore_patterns(*without)
                shutil.copytree(folder, fresh, symlinks=True, ignore=ignore, copy_function=_link, dirs_exist_ok=True)
            yield fresh
            folder.rename(old)
            fresh.rename(folder)
        finally:
            _recover(folder)


def _recover(folder: Path) -> None:
    """Bring back what `_replaced` was about to replace when it was killed, and remove what it left behind."""
    folder = folder.resolve()
    if not folder.exists() and (_aside(folder) / "old").exists():
        (_aside(folder) / "old").rename(folder)
    if _aside(folder).exists():
        shutil.rmtree(_aside(folder))


def _aside(folder: Path) -> Path:
    return folder.parent / f".tmp-forget-{folder.name}"


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
