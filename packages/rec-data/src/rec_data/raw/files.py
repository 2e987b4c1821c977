"""The user's own files: finding, verifying and opening them."""

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from urllib.request import url2pathname

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data.config import Columns, Format
from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.raw import text_files
from rec_data.raw.rows import PLACE, numbered, placed

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".txt", ".inter")
COMPRESSION = (".gz", ".zst")

_BATCH_ROWS = 1 << 18
"""Rows of a parquet file that are decoded at a time to verify it."""

_MOST_LISTED = 10_000
"""Files of a folder that are looked at to name a glob."""

_POSITION = "position of the row"
_INTEGER_CURE = " (export the column as integers: tools store integers as floats where values are missing)"
_ALLOWED = ", ".join((*PARQUET, *TEXT)) + "; text may end in .gz or .zst"


def looks_like_path(dataset: str) -> bool:
    """Whether ``dataset`` names files (a path or a glob) and not a source."""
    return any(mark in dataset for mark in "/\\*?[") or _format(dataset) is not None


def is_address(dataset: str) -> bool:
    """Whether ``dataset`` is an address (``s3://bucket/log.parquet``) that is not one of a local file."""
    scheme, mark, _ = dataset.strip().partition("://")
    return bool(mark) and scheme.lower() != "file" and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) is not None


def find(dataset: str, *, root: Path, what: str = "dataset") -> list[Path]:
    """Find the files that a path, a glob or a ``file://`` address names: sorted by name, checked as ``check`` does.

    A folder stands for the files directly inside it (``parts_of``).
    Relative paths start from the folder ``root``. Messages call the files ``what``.

    Raises:
        DataError: No name, no such file, an address elsewhere, or what ``parts_of`` or ``check`` refuse.
    """
    if not dataset.strip():
        raise DataError(f"{what}: found {dataset!r}, allowed: a path, a folder or a glob")
    if is_address(dataset):
        raise DataError(f"{what} {dataset!r} is an address; allowed: a path, a folder or a glob (copy it here first)")
    local = re.match(r"\s*file://(localhost)?(?=/)", dataset, re.IGNORECASE)
    full = Path(url2pathname(dataset[local.end() :].strip())) if local else Path(dataset).expanduser()
    full = full if full.is_absolute() else root / full
    if any(mark in dataset for mark in "*?[") and not full.exists():
        paths = sorted(Path(found) for found in glob.glob(str(full), recursive=True))  # noqa: PTH207 (takes absolute globs)
        if not paths:
            raise DataError(f"{what} {dataset!r}: no file matches {full}")
        if folders := [path for path in paths if path.is_dir()]:
            raise DataError(f"{what} {dataset!r} matches the folder {folders[0]}; allowed: files, or one folder")
    elif full.is_dir():
        with os.scandir(full) as entries:
            inside = {entry.name: entry.is_dir() for entry in entries}
        names = [name for name, is_folder in inside.items() if not is_folder]
        below = (path.relative_to(full).as_posix() for path in islice(full.rglob("*"), _MOST_LISTED) if path.is_file())
        paths = [full / name for name in parts_of(dataset, names, inside.keys() - set(names), below, what=what)]
    elif not full.exists():
        raise DataError(f"{what} {dataset!r}: no file {full}")
    else:
        paths = [full]
    check(paths, dataset, what=what)
    return paths


def check(paths: Sequence[Path], dataset: str, *, what: str = "dataset") -> None:
    """Refuse a file with an unknown suffix, an empty one, and files of different formats.

    Raises:
        DataError: There is such a file.
    """
    for path in paths:
        check_suffix(path, what=what)
        if path.stat().st_size == 0:
            raise DataError(
                f"{what} file {path} is empty: found 0 bytes, as of a copy that was cut off; copy it again, or remove "
                "it if it never had rows"
            )
    if len({_format(path.name) for path in paths}) > 1:
        raise DataError(f"{what} {dataset!r} mixes parquet and text files; name one kind")


def check_suffix(path: Path, *, what: str = "dataset") -> None:
    """Refuse a file with an unknown suffix.

    Raises:
        DataError: The suffix is unknown.
    """
    if _format(path.name) is None:
        raise DataError(f"{what} file {path}: unknown suffix; allowed: {_ALLOWED}")


def parts_of(
    dataset: str,
    files: Iterable[str],
    folders: Iterable[str],
    below: Iterable[str],
    *,
    what: str = "dataset",
    recursive: bool = True,
) -> list[str]:
    """Choose the files directly inside the folder ``dataset`` that hold its data.

    Names that begin with a dot or an underscore, such as ``_SUCCESS``, are passed over, as Spark does.

    Args:
        dataset: The folder, for messages.
        files: The names of the files directly inside it.
        folders: The names of the folders directly inside it.
        below: Paths of files at any depth, relative to the folder. They are only used for messages.
        what: What messages call the files.
        recursive: Whether a glob may hold ``**``.

    Returns:
        Their names, sorted.

    Raises:
        DataError: The files have several formats, or are all in sub-folders; the message names a glob.
    """
    if logs := {"_delta_log", ".hoodie"} & set(folders):
        raise DataError(
            f"{what} {dataset!r} is a table with a log of its changes ({logs.pop()}), whose files also hold deleted "
            "rows; allowed: an export of the table"
        )
    inside = sorted(name for name in files if not name.startswith((".", "_")))
    found = {_ending(name): name for name in reversed(inside)}
    if len(found) == 1 and None not in found:
        return inside
    folder = dataset.rstrip("/")
    if common := _most_common_ending(inside):
        shown = ", ".join(sorted(found.values()))
        raise DataError(
            f"{what} {dataset!r} is a folder with files of several formats ({shown}); allowed: one format, or a glob "
            f"such as {folder}/*{common}"
        )
    deeper = [path for path in below if not path.rpartition("/")[2].startswith((".", "_"))]
    if common := _most_common_ending(deeper):
        depth = next(path for path in deeper if _ending(path) == common).count("/")
        start = "**/" if recursive else "*/" * depth
        raise DataError(
            f"{what} {dataset!r} is a folder whose files are in sub-folders; allowed: a glob such as "
            f"{folder}/{start}*{common} (columns in the names of folders, such as day=2024-01-31, are not read)"
        )
    raise DataError(f"{what} {dataset!r} is a folder without files that can be read; allowed: {_ALLOWED}")


def scan(paths: list[Path], columns: Sequence[str] | None = None, text_format: Format | None = None) -> pl.LazyFrame:
    """Open files of one format, in the given order, as a lazy frame.

    All columns of text files are strings: types are decided from the whole column, not from its first rows. Files are
    verified first: parquet files only in the ``columns`` that will be read (None means all), text files in all records.
    The column ``rec_data.raw.rows.PLACE`` says where each row comes from.

    Raises:
        DataError: A file cannot be read, or is damaged.
    """
    if _format(paths[0].name) == "parquet":
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


def require_columns(present: Iterable[str], wanted: Mapping[str, str], origin: str) -> None:
    """Refuse a table that lacks one of the columns ``wanted.values()``, whose keys say what the columns are for."""
    present = [name for name in present if name != PLACE]
    for key, name in wanted.items():
        if name not in present:
            purpose = "" if key == name else f" (for {key})"
            raise DataError(f"{origin} has no column {name!r}{purpose}; its columns are: {', '.join(present)}")


def number_rows(frame: pl.LazyFrame, columns: Columns) -> tuple[pl.LazyFrame, Columns]:
    """Add the position of each row as its time, to a log without times whose rows are in order.

    Returns:
        The columns that are read, that of positions and ``PLACE``; and the names of the columns.
    """
    kept = numbered(frame).select(*columns.by_key.values(), PLACE)
    return kept.with_row_index(_POSITION), replace(columns, timestamp=_POSITION)


def _scan_one(path: Path, columns: Sequence[str] | None, text_format: Format) -> pl.LazyFrame:
    if _format(path.name) == "parquet":
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


def _format(name: str) -> str | None:
    ending = _ending(name)
    return None if ending is None else "parquet" if ending in PARQUET else "text"


def _most_common_ending(names: Iterable[str]) -> str | None:
    """The suffix that most of the files have, of those that can be read."""
    endings = Counter(ending for name in names if (ending := _ending(name)))
    return endings.most_common(1)[0][0] if endings else None


def _ending(name: str) -> str | None:
    """The suffix of a file that can be read, in small letters, with that of its compression."""
    lowered = name.lower()
    packed = next((suffix for suffix in COMPRESSION if lowered.endswith(suffix)), "")
    kinds = TEXT if packed else (*PARQUET, *TEXT)
    found = next((suffix for suffix in kinds if lowered.removesuffix(packed).endswith(suffix)), None)
    return None if found is None else found + packed
