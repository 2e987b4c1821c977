"""Delimited text files: which dialect the whole file is written in, and its columns as a lazy frame of strings.

Every record of a file is used, or the file is refused with the number of a line. The file is first checked from its
beginning to its end: a dialect is only used if all records are well-formed under it (``rec_data.raw.dialects``) and
have as many fields as the first one. Then pyarrow reads the file in blocks, whenever the frame is collected.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source
from pyarrow import csv

from rec_data.config import CHARACTERS, Format, character
from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.raw.dialects import Dialect, Grammar, Use

SEPARATORS = ("\t", ";", "|", ",", " ")
"""Separators that are looked for in the first line. A space is one only where there is no other."""

_QUOTE, _ESCAPE = '"', "\\"

_COMPRESSION = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"

_BLOCK = 1 << 20
"""Bytes that pyarrow parses at a time. It reads no record that is longer."""

_CHECKED = 1 << 22
"""Bytes that are checked at a time."""

_DATUM = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?|\d{4}-\d\d-\d\d.*", re.IGNORECASE)
"""A number or a date in the first line: such a line can be data."""


@dataclass(frozen=True)
class _Text:
    """A text file as a stream of bytes in UTF-8."""

    path: Path
    encoding: str | None
    """None: the file is in UTF-8."""

    def open(self) -> pa.NativeFile:
        with self.path.open("rb") as file:
            mark = file.read(4)
        compression = next((kind for magic, kind in _COMPRESSION.items() if mark.startswith(magic)), None)
        stream = pa.input_stream(str(self.path), compression=compression)
        return stream if self.encoding is None else pa.transcoding_input_stream(stream, self.encoding, "utf-8")


@dataclass(frozen=True)
class _Reading:
    """What a dialect makes of a file."""

    dialect: Dialect
    names: list[str]
    start: int
    """The byte at which the first record of data begins."""
    uses: Use
    uses_line: int
    """The line from which on they are as in ``uses``."""
    escapes: bool
    """Whether a backslash was seen."""
    empty: bool
    """Whether there are no records."""
    checked: int
    """The number of bytes that are well-formed."""
    fault: str | None
    """The line that is not well-formed, and why."""


def scan(path: Path, columns: Sequence[str] | None, form: Format, names: Sequence[str] | None = None) -> pl.LazyFrame:
    """Open a text file as a lazy frame of strings; empty fields that are not quoted are null.

    Without a header, columns are named by their position ("1", "2", ...), or get the given ``names``.

    Args:
        path: The file, which may be compressed with gzip or zstd.
        columns: The columns that will be read; None means all.
        form: How the file is written.
        names: The names of the columns of a file without a header.

    Raises:
        DataError: The file is not well-formed, or can be read in several ways.
    """
    text = _Text(path, _encoding(path, form))
    reading = _decide(text, form, columns)
    found = list(names or reading.names)
    if len(found) != len(reading.names):
        raise DataError(f"file {path}, line 1: found {len(reading.names)} fields, allowed: {len(found)}")
    if form.header == "auto" and columns is not None:
        _refuse_data_as_header(path, found, columns)
    twice = [name for place, name in enumerate(found) if name and name in found[:place]]
    if twice:
        raise DataError(f"file {path} names column {twice[0]!r} twice in its header; allowed: different names")
    places = {name: found.index(name) for name in found}

    def read(
        wanted: list[str] | None, predicate: pl.Expr | None, rows: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        for frame in _frames(text, reading, places if wanted is None else {name: places[name] for name in wanted}):
            kept = frame if predicate is None else frame.filter(predicate)
            kept = kept if rows is None else kept.head(rows)
            yield kept
            if rows is not None and (rows := rows - len(kept)) == 0:
                return

    return register_io_source(read, schema=dict.fromkeys(places, pl.String()))


def _frames(text: _Text, reading: _Reading, places: dict[str, int]) -> Iterator[pl.DataFrame]:
    """Read the columns at these places, block by block."""
    if reading.empty:
        return
    dialect, everything = reading.dialect, [str(place) for place in range(len(reading.names))]
    included = [str(place) for place in places.values()]
    with text.open() as stream:
        stream.read(reading.start)
        batches = csv.open_csv(
            stream,
            csv.ReadOptions(column_names=everything, block_size=_BLOCK),
            csv.ParseOptions(
                delimiter=dialect.separator,
                quote_char=dialect.quote or False,
                escape_char=dialect.escape or False,
                newlines_in_values=Use.LINES in reading.uses,
            ),
            csv.ConvertOptions(
                include_columns=included,
                column_types=dict.fromkeys(included, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        for batch in batches:
            yield pl.DataFrame(pl.from_arrow(batch.rename_columns(list(places))))


def _encoding(path: Path, form: Format) -> str | None:
    """The encoding that a file has to be converted from, or None for UTF-8."""
    if form.encoding != "auto":
        return None if form.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else form.encoding
    with _Text(path, None).open() as stream:
        beginning = stream.read(256)
    if beginning.startswith(_UTF16_MARKS):
        return "utf-16"
    if b"\0" in beginning:
        raise DataError(
            f"file {path}, line 1: found zero bytes, as in UTF-16 without a byte order mark; allowed: UTF-8, or the "
            "encoding by name (-S download.format.encoding=utf-16-le)"
        )
    return None


def _decide(text: _Text, form: Format, columns: Sequence[str] | None) -> _Reading:
    """Choose the dialect in which all of the file is well-formed.

    If there are several: a well quoted file (RFC 4180, or with escapes) is read as such, except where its quotes join
    lines that are records of their own without them. Otherwise all have to give the same values.
    """
    separator = _separator(text, form, columns)
    best, *others = [Dialect(separator, *marks) for marks in _marks(form)]
    readings = [_check(text, best, form, columns, ())]
    first = readings[0]
    needed = [name for name in first.names if columns is None or name in columns]
    if first.fault is not None:
        readings += [_check(text, other, form, columns, needed) for other in others]
    elif not _settled(first):
        same_quote = [other for other in others if other.quote == best.quote]
        if Use.QUOTED not in first.uses:  # without quotes, only escapes can make a difference
            others = same_quote
        elif Use.BARE not in first.uses:
            others = [other for other in others if other not in same_quote]
        readings += [_check(text, other, form, columns, needed) for other in others]
    fitting = [reading for reading in readings if reading.fault is None]
    if not fitting:
        furthest = max(readings, key=lambda reading: reading.checked)
        raise DataError(f"file {text.path}, {furthest.fault}")
    chosen, *rivals = fitting
    compared = {name: place for place, name in enumerate(chosen.names) if columns is None or name in columns}
    for rival in rivals:
        joins = Use.LINES in chosen.uses and rival.dialect.quote is None
        if (Use.BARE in chosen.uses or joins) and not _same(text, chosen, rival, compared):
            key = "quote" if rival.dialect.quote != chosen.dialect.quote else "escape"
            ways = ", ".join(f"-S 'download.format.{key}={_shown(getattr(way.dialect, key))}'" for way in fitting)
            raise DataError(
                f"file {text.path}, line {chosen.uses_line}: found {key} characters that can mean several things, and "
                f"the values differ; allowed: one of {ways}"
            )
    return chosen


def _settled(reading: _Reading) -> bool:
    """Whether no other dialect can be meant."""
    if Use.LINES in reading.uses:
        return False
    return Use.BARE not in reading.uses or (Use.QUOTED not in reading.uses and not reading.escapes)


def _marks(form: Format) -> list[tuple[str | None, str | None]]:
    """The pairs of quote and escape that a file may be written with, the preferred ones first."""
    quotes = [_QUOTE, None] if form.quote == "auto" else [character(form.quote)]
    if form.escape != "auto":
        return [(quote, character(form.escape)) for quote in quotes]
    return [(quotes[0], None), (quotes[0], _ESCAPE), *((quote, None) for quote in quotes[1:])]


def _shown(mark: str | None) -> str:
    return "none" if mark is None else mark


def _separator(text: _Text, form: Format, columns: Sequence[str] | None) -> str:
    """The separator of the first line: the one that gives the columns that are wanted, else most columns."""
    if form.separator != "auto":
        return CHARACTERS.get(form.separator, form.separator)
    with text.open() as stream:
        line = stream.read(_BLOCK).removeprefix(_UTF8_MARK).lstrip(b"\r\n").partition(b"\n")[0] + b"\n"
    ranks = {}
    for mark in SEPARATORS:
        grammar = Grammar(Dialect(mark, _QUOTE if form.quote == "auto" else character(form.quote), None))
        record = grammar.split(line, 0)
        fields = record.fields if record.fault is None else line.split(mark.encode())
        names = _names([grammar.text(field) for field in fields], text.path, form, columns)
        known = sum(name in names for name in columns or ())
        ranks[mark] = (known, len(fields) if mark != " " else min(len(fields), 1.5))
    best = max(ranks.values())
    if best[1] == 1:
        return ","
    likely = [mark for mark, rank in ranks.items() if rank == best]
    if len(likely) > 1:
        found = " and ".join(repr(mark) for mark in likely)
        raise DataError(
            f"file {text.path}, line 1: found {found} equally often, allowed: one separator "
            f"(-S 'download.format.separator={likely[0]}')"
        )
    return likely[0]


def _names(fields: list[str], path: Path, form: Format, columns: Sequence[str] | None) -> list[str]:
    """The names of columns from the fields of the first line."""
    if form.header is False:
        return [str(place) for place in range(1, len(fields) + 1)]
    if ".inter" in path.suffixes:  # RecBole: user_id:token
        fields = [re.sub(r":(token|float)(_seq)?\s*$", "", field) for field in fields]
    return [field if columns is not None and field in columns else field.strip() for field in fields]


def _refuse_data_as_header(path: Path, names: list[str], columns: Sequence[str]) -> None:
    """Refuse a first line that has none of the wanted names but numbers or dates."""
    if any(name in names for name in columns) or not any(_DATUM.fullmatch(name) for name in names):
        return
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    raise DataError(
        f"file {path}, line 1: found what looks like data ({shown}), allowed: the names of columns; of a file without "
        "them name positions: -S download.format.header=false -S download.columns.user=1 -S download.columns.item=2 "
        "-S download.columns.timestamp=3 (null if rows are in order)"
    )


def _check(
    text: _Text, dialect: Dialect, form: Format, columns: Sequence[str] | None, needed: Sequence[str]
) -> _Reading:
    """Match a whole file against a dialect, up to its first record that is not well-formed.

    A reading whose header lacks one of the ``needed`` columns has a fault.
    """
    grammar, uses, records = Grammar(dialect), Use.NOTHING, None
    names: list[str] = []
    buffer, start, checked, line = b"", 0, 0, 1
    escapes, empty, fault, ended = False, True, None, False
    uses_line = 1
    size = text.path.stat().st_size
    with text.open() as stream, progress(f"check {text.path.name}", size, "B") as bar:
        while not ended and fault is None:
            block = stream.read(_CHECKED)
            bar.update(len(block))
            ended = not block
            escapes = escapes or _ESCAPE.encode() in block
            buffer += block
            if ended and buffer and not buffer.endswith(b"\n"):
                buffer += b"\n"
            place = 0
            if records is None:
                place = len(_UTF8_MARK) if buffer.startswith(_UTF8_MARK) else 0
                place += len(buffer) - place - len(buffer[place:].lstrip(b"\r\n"))
                record = grammar.split(buffer, place)
                if record.fault is None:
                    names = _names([grammar.text(field) for field in record.fields], text.path, form, columns)
                    if any(name not in names for name in needed):
                        fault = f"line 1: found no column {needed[0]!r}"
                        break
                    strict = [at for at, name in enumerate(names) if columns is None or name in columns]
                    grammar = Grammar(dialect, strict, sure=form.escape != "auto")
                    place = place if form.header is False else record.end
                    start = place
                    records = grammar.records(len(names), uses)
            if records is not None:
                while (place := _end(records, buffer, place)) < len(buffer):
                    record = grammar.split(buffer, place)
                    if record.fault is not None or len(record.fields) != len(names):
                        break
                    uses |= grammar.uses(record.fields)
                    uses_line = line + buffer.count(b"\n", 0, place)
                    records = grammar.records(len(names), uses)
            _refuse_other_encodings(text, buffer[:place], line)
            checked += place
            line += buffer.count(b"\n", 0, place)
            empty = empty and (records is None or checked == start or not buffer[:place].strip(b"\r\n"))
            buffer = buffer[place:]
            if buffer and (ended or len(buffer) > _BLOCK):
                fault = _fault(grammar, buffer, line, len(names))
                _refuse_other_encodings(text, buffer.partition(b"\n")[0], line)
    return _Reading(dialect, names, start, uses, uses_line, escapes, empty, checked, fault)


def _end(records: re.Pattern[bytes], buffer: bytes, place: int) -> int:
    found = records.match(buffer, place)
    return place if found is None else found.end()


def _fault(grammar: Grammar, buffer: bytes, line: int, width: int) -> str:
    """Why the first record of the buffer, which begins in this line, is not well-formed."""
    record = grammar.split(buffer, 0)
    dialect = grammar.dialect
    if record.fault is None and len(record.fields) != width:
        separator = next(
            (name for name, mark in CHARACTERS.items() if mark == dialect.separator), repr(dialect.separator)
        )
        return (
            f"line {line}: found {len(record.fields)} fields, allowed: {width} as in line 1, separated by {separator} "
            "(-S download.format.separator=...); fields that hold the separator are quoted"
        )
    if record.fault is None or record.end > _BLOCK:
        return f"line {line}: found a record of more than {_BLOCK:,} bytes, allowed: at most that"
    line += buffer.count(b"\n", 0, record.end)
    if record.fault.startswith("a carriage"):
        return f"line {line}: found {record.fault}, allowed: line ends of line feeds, or both"
    if "quote" in record.fault:
        return (
            f"line {line}: found {record.fault}, allowed: doubled quotes in quoted fields (or -S "
            f"'download.format.escape=\\'), or no quoting at all (-S download.format.quote=none)"
        )
    return (
        f"line {line}: found {record.fault}, allowed: escaped quotes, separators, line ends and escapes (or -S "
        "download.format.escape=none)"
    )


def _refuse_other_encodings(text: _Text, buffer: bytes, line: int) -> None:
    if text.encoding is not None or buffer.isascii():
        return
    try:
        buffer.decode()
    except UnicodeDecodeError as error:
        line += buffer.count(b"\n", 0, error.start)
        raise DataError(
            f"file {text.path}, line {line}: found bytes that are not UTF-8, allowed: UTF-8, or the encoding by name "
            "(-S download.format.encoding=latin-1)"
        ) from None


def _same(text: _Text, one: _Reading, other: _Reading, places: dict[str, int]) -> bool:
    """Whether two readings give the same values in these columns."""
    sides = [_frames(text, reading, places) for reading in (one, other)]
    held: list[pl.DataFrame | None] = [pl.DataFrame(), pl.DataFrame()]
    while True:
        held = [frame if frame is not None and len(frame) else next(side, None) for frame, side in zip(held, sides, strict=True)]
        left, right = held
        if left is None or right is None:
            return left is right
        rows = min(len(left), len(right))
        if not left.head(rows).equals(right.head(rows)):
            return False
        held = [left.slice(rows), right.slice(rows)]
