"""The user's own files: verifying and opening them."""

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from zoneinfo import available_timezones

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data.config import Columns, Format
from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.raw import text_files
from rec_data.raw.finding import format_of
from rec_data.raw.headers import USUAL
from rec_data.raw.rows import PLACE, numbered, placed
from rec_data.stated import stated

_BATCH_ROWS = 1 << 18
"""Rows of a parquet file that are decoded at a time to verify it."""

_POSITION = "position of the row"
_ALIKE = 0.75
"""The smallest likeness of names, from 0 to 1, that differ by a slip."""
_MORE_LETTERS = 2
"""So many more or fewer letters are a slip."""
_INTEGER_CURE = "export the column as integers: tools store integers as floats where values are missing"
_TYPE_CURE = "write one of them again, with the column as the type of the other"


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
    text_format = text_format or Format()
    try:
        frames = {path: _scan_one(path, columns, text_format) for path in paths}
    except text_files.MissingHeaderError as error:
        raise _beside_headers(error, paths, columns or (), text_format) from None
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
                pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file,
                progress(f"check {path.name}", file.metadata.num_rows, "rows") as bar,
            ):
                for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                    bar.update(len(batch))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error


def require_columns(
    present: Iterable[str], wanted: Mapping[str, str], origin: str, *, keys: Mapping[str, str] | None = None
) -> None:
    """Refuse a table that lacks one of the columns ``wanted.values()``, whose keys say what the columns are for.

    ``keys`` are the settings or options that name the columns, such as ``--user-column``.

    Raises:
        DataError: A column is missing. The message proposes a column that has a usual or a similar name.
    """
    present = [name for name in present if name != PLACE]
    for key, name in wanted.items():
        if name not in present:
            purpose = "" if key == name else f" (for {key})"
            cure = ""
            others = [other for other in present if other not in wanted.values()]
            if f"'{name}'" in present:
                cure = f"; allowed: names without quotes (text files: {stated({'download.format.quote': 'single'})})"
            elif keys and key in keys and (allowed := _another(key, name, others, keys[key])):
                cure = f"; allowed: {allowed}"
            raise DataError(f"{origin} has no column {name!r}{purpose}; its columns are: {', '.join(present)}{cure}")


def _another(key: str, name: str, others: list[str], setting: str) -> str | None:
    """What to take for a column that is missing: one of the others, or nothing; None if there is no choice."""
    if not others:
        purposes = {
            "download.columns.timestamp": "rows are in order",
            "download.columns.rating": "there are no ratings",
        }
        return f"{stated({setting: None})} ({purposes[setting]})" if setting in purposes else None
    if name.isdecimal() and all(other.isdecimal() for other in others):
        what, example = "another position for it", others[0]
    else:
        what, example = "another name for it", _likely(key, name, others) or "NAME"
    null = f"; {stated({setting: None})} if rows are in order" if setting == "download.columns.timestamp" else ""
    return f"{what} ({stated({setting: example})}{null})"


def _likely(key: str, name: str, others: list[str]) -> str | None:
    """The column that has a usual name for what is missing, or nearly the same letters; the most similar of several."""

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, _letters(name), _letters(other)).ratio()

    def is_near(other: str) -> bool:  # a wrong letter or two; "customer_age" is not near to "customer"
        return likeness(other) >= _ALIKE and abs(len(_letters(other)) - len(_letters(name))) <= _MORE_LETTERS

    plain = [other for other in others if re.fullmatch(r"[^\W\d][\w ]*", other)]
    usual = [other for other in plain if re.fullmatch(USUAL.get(key, "(?!)"), other)]
    of_others = [form for purpose, form in USUAL.items() if purpose != key]
    near = [other for other in plain if is_near(other) and not any(re.fullmatch(form, other) for form in of_others)]
    return max(usual or near, key=likeness, default=None)


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
        with reading(f"file {path}"):
            _refuse_zones(path)
        return placed(pl.scan_parquet(path, glob=False, row_index_name=PLACE), f"{path}, row ")
    with reading(f"file {path}"):
        return text_files.scan(path, columns, text_format)


def _refuse_zones(path: Path) -> None:
    """Refuse columns of times in a zone that polars does not know; it would end with a panic, whatever is read."""
    for field in pq.read_schema(path):
        zone = getattr(field.type, "tz", None)
        if zone is not None and not re.fullmatch(r"[+-](0\d|1[0-2]):?00", zone) and zone not in available_timezones():
            raise DataError(
                f"file {path}: column {field.name!r} holds times in the zone {zone!r}; allowed: UTC, whole hours, or "
                "names such as Asia/Kolkata (cast the column in the program that writes the file)"
            )


def _beside_headers(
    error: text_files.MissingHeaderError, paths: Sequence[Path], columns: Sequence[str], text_format: Format
) -> DataError:
    """The refusal of a file without a header, which is another one if other files have one."""
    for path in paths:
        with reading(f"file {path}"):
            names = text_files.first_names(path, text_format, columns)
        if set(columns) & set(names):
            found = str(error).partition(", allowed: ")[0]
            return DataError(
                f"{found}, but the names of columns in {path.name}; allowed: a header in every file, or in none (write "
                f"the first line of {path.name} above the files without it)"
            )
    return error


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
            if name not in schema:
                holder = next(other.name for other, held in schemas.items() if name in held)
                shown = ", ".join(other for other in schema if other != PLACE)
                raise DataError(
                    f"file {path} has no column {name!r}, but {holder} has; its columns are: {shown}; allowed: the "
                    "same columns in all files, with their names in the first line of each text file"
                )
            kind = schema[name]
            known, first = kinds.get(name, (pl.Null(), path))
            both = _common_type(known, kind)
            if both is None:
                floats = {kind.is_integer(), known.is_integer()} == {kind.is_float(), known.is_float()} == {True, False}
                raise DataError(
                    f"file {path}: column {name!r} holds {kind}, but {known} in {first.name}; allowed: one type in all "
                    f"files ({_INTEGER_CURE if floats else _TYPE_CURE})"
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
    if all(isinstance(kind, pl.Date | pl.Datetime) for kind in kinds):
        zone, other_zone = (getattr(kind, "time_zone", None) for kind in kinds)
        exact = any(getattr(kind, "time_unit", None) == "ns" for kind in kinds)
        same = (zone is None) == (other_zone is None)
        return pl.Datetime("ns" if exact else "us", zone and "UTC") if same else None
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
            f"({stated({'download.format.encoding': 'latin-1'})})"
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
