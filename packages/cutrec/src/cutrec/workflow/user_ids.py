"""The ids of users as somebody names them: on the command line or in a file."""

import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cutrec.errors import StageError
from rec_data.config import Columns, Download
from rec_data.errors import DataError
from rec_data.ids import as_ids
from rec_data.raw import files, finding
from rec_data.raw.normalise import write_log
from rec_data.raw.rows import PLACE
from rec_data.raw.text_source import TextFile
from rec_data.schema import ITEM, USER

_ONE_COLUMN = "\x1f"
"""The separator of a file whose first line has none: the ASCII unit separator, which occurs in no id."""


class Users:
    """The ids of users as somebody typed them, compared with ids of any type as the log holds them."""

    def __init__(self, ids: Iterable[str]) -> None:
        """Keep the ids; their order and repetitions have no meaning."""
        self.ids = frozenset(ids)

    def names(self, text: str) -> bool:
        """Whether a cell of a CSV is one of the ids: padded, or written as a float as pandas writes integers, too."""
        return not self.ids.isdisjoint((text, text.strip(), re.sub(r"^(-?[0-9]+)\.0+$", r"\1", text.strip())))

    def of_type(self, kind: pa.DataType) -> pa.Array:
        """Those of the ids that can occur in a column of integers or strings."""
        return as_ids(self.ids, kind)

    def among(self, names: pa.Array | pa.ChunkedArray) -> pa.Array:
        """``[n]`` whether each of the names is one of the ids."""
        return pc.is_in(names, value_set=self.of_type(names.type))


def read_users(name: str, *, root: Path, settings: Download) -> list[str]:
    """The ids in a file: text with one id per line, or parquet or CSV with a column of ids.

    The column is the user column of the log (``download.columns.user``), or the only one. A text file with one id per
    line may begin with that name. Ids are read as those of the log.

    Raises:
        DataError: There is no such file, it cannot be read, or it has no such column.
        StageError: It has no ids.
    """
    [path, *others] = finding.find(name, root=root, what="--users")
    if others:
        raise StageError(f"--users: found {len(others) + 1} files, allowed: one")
    origin = f"--users {name!r}"
    usual = str(settings.columns.user) if settings.format.header is not False else USER  # not the position in the log
    with files.reading(origin):
        if finding.format_of(path.name) == "parquet":
            frame = files.scan([path])
            names = {column: column for column in frame.collect_schema() if column != PLACE}
        else:
            form = replace(settings.format, header=False)  # the first line may be an id
            line = TextFile(path, form, None).first_lines().partition(b"\n")[0]
            if not line:
                raise StageError(f"--users: found no ids in {path}, allowed: at least one")
            if form.separator == "auto" and not re.search(rb"[,;\t|]", line):
                form = replace(form, separator=_ONE_COLUMN)
            frame = files.scan([path], None, form)
            first = frame.drop(PLACE).head(1).collect()
            header = TextFile(path, replace(form, header=True), None).names([text or "" for text in first.row(0)])
            names = dict(zip(header, first.columns, strict=True))
            frame = frame.slice(1) if {usual, USER} & set(names) else frame
        column = next((each for each in (usual, USER, *list(names)[: len(names) == 1]) if each in names), usual)
        keys = {USER: "download.columns.user"} if settings.format.header is not False else None
        try:
            files.require_columns(names, {USER: column}, origin, keys=keys)
        except DataError as error:
            raise DataError(f"{error}, or a file with one id per line") from error
        kind, given = frame.collect_schema()[names[column]], pl.col(USER)
        filled = given.str.strip_chars() != "" if kind == pl.String else given.is_not_null()
        ids = frame.select(pl.col(names[column]).alias(USER), PLACE).filter(filled)
        if ids.select(pl.len()).collect().item() == 0:
            raise StageError(f"--users: found no ids in {path}, allowed: at least one")
        events, columns = files.number_rows(ids.with_columns(pl.lit(0).alias(ITEM)), Columns(USER, ITEM, None))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "ids.parquet"
        write_log(events, log, columns=columns, min_rating=None, origin=origin)
        return [str(each) for each in pq.read_table(log)[USER].to_pylist()]
