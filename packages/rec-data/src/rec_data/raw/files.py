"""The user's own files: finding, verifying and opening them."""

import csv
import glob
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.request import url2pathname

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from rec_data.errors import DataError
from rec_data.progress import progress

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".txt")
COMPRESSION = (".gz", ".zst")
SEPARATORS = ("\t", ";", "|", ",")
"""Separators that are looked for in the header line; a header without any of them has one column."""

_BATCH_ROWS = 1 << 18
"""Rows of a parquet file that are decoded at a time to verify it."""

_MOST_LISTED = 10_000
"""Files of a folder that are looked at to name a glob."""

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

    Relative paths start from the folder ``root``. Messages call the files ``what``.

    Raises:
        DataError: No name, no such file, a folder, an address elsewhere, or what ``check`` refuses.
    """
    if not dataset.strip():
        raise DataError(f"{what}: found {dataset!r}, allowed: a path or a glob")
    if is_address(dataset):
        raise DataError(f"{what} {dataset!r} is an address; allowed: a path or a glob (copy the file here first)")
    local = re.match(r"\s*file://(localhost)?(?=/)", dataset, re.IGNORECASE)
    full = Path(url2pathname(dataset[local.end() :].strip())) if local else Path(dataset).expanduser()
    full = full if full.is_absolute() else root / full
    if any(mark in dataset for mark in "*?[") and not full.exists():
        paths = sorted(Path(found) for found in glob.glob(str(full), recursive=True))  # noqa: PTH207 (takes absolute globs)
        if not paths:
            raise DataError(f"{what} {dataset!r}: no file matches {full}")
    elif full.is_dir():
        below = islice(full.rglob("*"), _MOST_LISTED)
        raise is_folder(dataset, {"": map(str, full.iterdir()), "**/": map(str, below)}, what=what)
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
            raise DataError(f"{what} file {path} is empty")
    if len({_format(path.name) for path in paths}) > 1:
        raise DataError(f"{what} {dataset!r} mixes parquet and text files; name one kind")


def check_suffix(path: Path, *, what: str = "dataset") -> None:
    """Refuse a file with an unknown suffix.

    Raises:
        DataError: The suffix is unknown.
    """
    if _format(path.name) is None:
        raise DataError(f"{what} file {path}: unknown suffix; allowed: {_ALLOWED}")


def is_folder(dataset: str, names: Mapping[str, Iterable[str]], *, what: str = "dataset") -> DataError:
    """Build the error for a folder, which names a glob with the suffix that most of its files have.

    The values of ``names`` are names of files, the keys what the glob needs before ``*`` to find them; the first that
    has files counts.
    """
    for start, found in names.items():
        if endings := Counter(ending for name in found if (ending := _ending(name))).most_common(1):
            files_of = f"{dataset.rstrip('/')}/{start}*{endings[0][0]}"
            return DataError(f"{what} {dataset!r} is a folder; name a file or a glob such as {files_of}")
    return DataError(f"{what} {dataset!r} is a folder without files that can be read; allowed: {_ALLOWED}")


def scan(paths: list[Path], columns: Sequence[str] | None = None) -> pl.LazyFrame:
    """Open files of one format, in the given order, as a lazy frame.

    All columns of text files are strings: types are decided from the whole column, not from its first rows. Parquet
    files are verified first, but only the ``columns`` that will be read; None means all.

    Raises:
        DataError: A file cannot be read, or is damaged.
    """
    if _format(paths[0].name) == "parquet":
        check_pages(paths, columns)
    frames = {path: _scan_one(path) for path in paths}
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
    for key, name in wanted.items():
        if name not in present:
            purpose = "" if key == name else f" (for {key})"
            raise DataError(f"{origin} has no column {name!r}{purpose}; its columns are: {', '.join(present)}")


def _scan_one(path: Path) -> pl.LazyFrame:
    if _format(path.name) == "parquet":
        return pl.scan_parquet(path, glob=False)
    header = _header(path)
    separator = _separator(header)
    names = next(csv.reader([header], delimiter=separator))
    twice = [name for place, name in enumerate(names) if name and name in names[:place]]
    if twice:
        raise DataError(f"file {path} names column {twice[0]!r} twice in its header; allowed: different names")
    return pl.scan_csv(path, infer_schema=False, separator=separator, glob=False)


def _join(frames: dict[Path, pl.LazyFrame], columns: Sequence[str] | None) -> pl.LazyFrame:
    """Concatenate the wanted columns of several files, by name; integers and floats are widened where widths differ.

    A column that no file has is ignored.
    """
    schemas = {}
    for path, frame in frames.items():
        with reading(f"file {path}"):
            schemas[path] = frame.collect_schema()
    present = list(dict.fromkeys(name for schema in schemas.values() for name in schema))
    kinds: dict[str, tuple[pl.DataType, Path]] = {}
    for name in present if columns is None else [name for name in present if name in columns]:
        for path, schema in schemas.items():
            require_columns(schema, {name: name}, f"file {path}")
            kind = schema[name]
            known, first = kinds.setdefault(name, (kind, path))
            if kind.is_integer() and known.is_integer():
                kinds[name] = (known if kind == known else pl.Int64(), first)
            elif kind.is_float() and known.is_float():
                kinds[name] = (known if kind == known else pl.Float64(), first)
            elif kind != known:
                raise DataError(
                    f"file {path}: column {name!r} holds {kind}, but {known} in {first.name}; allowed: one type in all "
                    "files"
                )
    chosen = [pl.col(name).cast(kind) for name, (kind, _) in kinds.items()]
    if not chosen:
        return next(iter(frames.values()))
    return pl.concat([frame.select(chosen) for frame in frames.values()])


@contextmanager
def reading(origin: str) -> Iterator[None]:
    """Turn an error of the reader while ``origin`` is read into a ``DataError`` of one line."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).partition("\n\n")[0].split())  # the rest is advice for callers of polars
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


def _ending(name: str) -> str | None:
    """The suffix of a file that can be read, in small letters, with that of its compression."""
    lowered = name.lower()
    packed = next((suffix for suffix in COMPRESSION if lowered.endswith(suffix)), "")
    kinds = TEXT if packed else (*PARQUET, *TEXT)
    found = next((suffix for suffix in kinds if lowered.removesuffix(packed).endswith(suffix)), None)
    return None if found is None else found + packed


def _header(path: Path) -> str:
    header = pl.scan_csv(
        path, has_header=False, infer_schema=False, separator="\x01", quote_char=None, n_rows=1, glob=False
    )
    with reading(f"dataset file {path}"):
        line = str(header.collect().item(0, 0))
    if "\r" in line.rstrip("\r"):
        raise DataError(f"file {path} ends its lines with carriage returns only; allowed: line feeds, or both")
    return line


def _separator(line: str) -> str:
    counts = {mark: line.count(mark) for mark in SEPARATORS}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else ","
