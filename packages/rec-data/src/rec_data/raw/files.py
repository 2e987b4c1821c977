"""The user's own files: verifying and opening them."""

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data.config import Columns, Format
from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.raw import text_files
from rec_data.raw.finding import format_of
from rec_data.raw.rows import PLACE, numbered, placed

_BATCH_ROWS = 1 << 18
"""Rows of a parquet file that are decoded at a time to verify it."""

_POSITION = "position of the row"
_INTEGER_CURE = " (export the column as integers: tools store integers as floats where values are missing)"


def scan(paths: list[Path], columns: Sequence[str] | None = None, text_format: Format | None = None) -> pl.LazyFrame:
    """Open files of one format, in the given order, as a lazy frame.

    All columns of text files are strings: types are decided from the whole column, not from its first rows. Files are
    verified first: parquet files only in the ``columns`` that will be read (None means all), text files in all records.
    The column ``rec_data.raw.rows.PLACE`` says where each row comes from.

    Raises:
        DataError: A file cannot be read, or is damaged.
    """
    if format_of(paths[0].name) == "parquet":
        check_pages(paths, columns)
    frames = {path: _scan_one(path, columns, text_format or Format()) for path in paths}
    return frames[paths[0]] if len(paths) == 1 else _join(frames, columns)


def check_pages(paths: Sequence[Path], columns: Sequence[str] | None = None) -> None:
    """Decode columns of parquet files once and compare the CRC-32 of their pages, which polars ignores.

    Pages without a checksum must only decode, so changed bytes can stay unnoticed there. All columns are checked by
    default; names that a file lacks are ignored.

    Raises:
        DataError: A file is not parquet, a page does not decode, or its bytes differ from its checksum.
    """
    for path in paths:
        try:
            with (
                pq.ParquetFile(path, page_checksum_verification=True) as file,
                progress(f"check {path.name}", file.metadata.num_rows, "rows") as bar,
            ):
                for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                    bar.update(len(batch))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error


def require_columns(
    present: Iterable[str], wanted: Mapping[str, str], origin: str, *, flags: Mapping[str, str] | None = None
) -> None:
    """Refuse a table that lacks one of the columns ``wanted.values()``, whose keys say what the columns are for.

    ``flags`` are what names each column on the command line, such as ``--user-column ``.

    Raises:
        DataError: A column is missing. The message shows the flag with the most similar name that the table has.
    """
    present = [name for name in present if name != PLACE]
    for key, name in wanted.items():
        if name not in present:
            purpose = "" if key == name else f" (for {key})"
            cure = ""
            if flag := (flags or {}).get(key):
                others = {_letters(other): other for other in present if other not in wanted.values()}
                close = difflib.get_close_matches(_letters(name), others, 1, cutoff=0.35)
                example = next((others[like] for like in close if re.fullmatch(r"[^\W\d]\w*", others[like])), "NAME")
                cure = f"; allowed: another name for it ({flag}{example})"
                if flag == "-S download.columns.timestamp=":
                    cure += f", or the order of rows as time ({flag}null)"
            raise DataError(f"{origin} has no column {name!r}{purpose}; its columns are: {', '.join(present)}{cure}")


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def number_rows(frame: pl.LazyFrame, columns: Columns) -> tuple[pl.LazyFrame, Columns]:
    """Add the position of each row as its time, to a log without times whose rows are in order.

    Returns:
        The columns that are read, that of positions and ``PLACE``; and the names of the columns.
    """
    kept = numbered(frame).select(*columns.by_key.values(), PLACE)
    return kept.with_row_index(_POSITION), replace(columns, timestamp=_POSITION)


def _scan_one(path: Path, columns: Sequence[str] | None, text_format: Format) -> pl.LazyFrame:
    if format_of(path.name) == "parquet":
        return placed(pl.scan_parquet(path, glob=False, row_index_name=PLACE), f"{path}, row ")
    with reading(f"file {path}"):
        return text_files.scan(path, columns, text_format)


def _join(frames: dict[Path, pl.LazyFrame], columns: Sequence[str] | None) -> pl.LazyFrame:
    """Concatenate the wanted columns of several files, by name; types that differ become one that holds all values.

    A column that no file has is ignored.
    """
    schemas = {}
    for path, frame in frames.items():
        with reading(f"file {path}"):
            schemas[path] = frame.collect_schema()
    present = list(dict.fromkeys(name for schema in schemas.values() for name in schema if name != PLACE))
    kinds: dict[str, tuple[pl.DataType, Path]] = {}
    for name in present if columns is None else [name for name in present if name in columns]:
        for path, schema in schemas.items():
            require_columns(schema, {name: name}, f"file {path}")
            kind = schema[name]
            known, first = kinds.get(name, (pl.Null(), path))
            both = _common_type(known, kind)
            if both is None:
                raise DataError(
                    f"file {path}: column {name!r} holds {kind}, but {known} in {first.name}; allowed: one type in all "
                    f"files{_INTEGER_CURE if {kind.is_integer(), known.is_integer()} == {True, False} else ''}"
                )
            kinds[name] = (both, path if known == pl.Null() else first)
    chosen = [pl.col(name).cast(kind) for name, (kind, _) in kinds.items()]
    if not chosen:
        return next(iter(frames.values()))
    return pl.concat([frame.select(*chosen, PLACE) for frame in frames.values()])


def _common_type(one: pl.DataType, other: pl.DataType) -> pl.DataType | None:
    """The type that holds the values of both exactly; None if they are of different kinds."""
    if one == other or other == pl.Null():
        return one
    if one == pl.Null():
        return other
    kinds = (one, other)
    if all(kind.is_integer() for kind in kinds):
        if pl.UInt64() not in kinds:
            return pl.Int64()
        return pl.UInt64() if all(kind.is_unsigned_integer() for kind in kinds) else pl.Int128()
    if all(kind.is_integer() or kind.is_decimal() for kind in kinds):
        return pl.Decimal(38, max(kind.scale for kind in kinds if isinstance(kind, pl.Decimal)))
    if all(kind.is_float() for kind in kinds):
        return pl.Float64()
    if all(isinstance(kind, pl.String | pl.Categorical | pl.Enum) for kind in kinds):
        return pl.String()
    if isinstance(one, pl.Datetime) and isinstance(other, pl.Datetime):  # a log holds microseconds at most
        same_kind = (one.time_zone is None) == (other.time_zone is None)
        return pl.Datetime("us", one.time_zone and "UTC") if same_kind else None
    if isinstance(one, pl.List | pl.Array) and isinstance(other, pl.List | pl.Array):
        inner = [kind.inner if isinstance(kind.inner, pl.DataType) else kind.inner() for kind in (one, other)]
        both = _common_type(*inner)
        return None if both is None else pl.List(both)
    return None


@contextmanager
def reading(origin: str) -> Iterator[None]:
    """Turn an error of the reader while ``origin`` is read into a ``DataError`` of one line."""
    try:
        yield
    except UnicodeError as error:
        encoding = getattr(error, "encoding", "that is given")
        raise DataError(
            f"{origin} cannot be read: found bytes that are not in the encoding {encoding}, allowed: another by name "
            "(-S download.format.encoding=latin-1)"
        ) from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).partition("\n\n")[0].split())  # the rest is advice for callers of polars
        if cast := re.search(r"conversion from `(.+?)` to `(.+?)` failed in column '(.+?)' for (\d+)", reason):
            kind, common, column, count = cast.groups()
            reason = (
                f"column {column!r} holds {kind} in one file, and {count} of its values do not fit into {common}, the "
                "type that it has in all files together; allowed: one type in all files"
            )
        raise DataError(f"{origin} cannot be read: {reason[:300]}") from error


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Compute the SHA-256 of a file, or another digest, in hexadecimal digits."""
    found = hashlib.new(algorithm)
    with path.open("rb") as file, progress(f"hash {path.name}", path.stat().st_size, "B") as bar:
        while block := file.read(1 << 22):
            found.update(block)
            bar.update(len(block))
    return found.hexdigest()
