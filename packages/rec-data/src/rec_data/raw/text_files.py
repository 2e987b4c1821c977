"""Delimited text files: which dialect the whole file is written in, and its columns as a lazy frame of strings.

Every record of a file is used, or the file is refused with the number of a line. The file is first checked from its
beginning to its end: a dialect is only used if all records are well-formed under it (``rec_data.raw.dialects``) and
have as many fields as the first one. Then pyarrow reads the file in blocks, whenever the frame is collected.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source
from pyarrow import csv

from rec_data.config import Format, character, character_name
from rec_data.errors import DataError
from rec_data.raw import text_faults
from rec_data.raw.dialects import SEPARATORS, Dialect, Grammar, Use
from rec_data.raw.rows import PLACE
from rec_data.raw.text_check import Reading
from rec_data.raw.text_source import CHUNK, LONGEST, TextFile
from rec_data.stated import stated

_QUOTE, _ESCAPE = '"', "\\"
"""What is looked for where the characters are not given."""


class MissingHeaderError(DataError):
    """The first line of a file holds data and not the names of columns."""


def first_names(path: Path, form: Format, columns: Sequence[str] | None) -> list[str]:
    """The names of columns that the first line of a text file holds, as far as the separator is clear."""
    file = TextFile(path, form, columns)
    grammar = Grammar(Dialect(_separator(file), *_marks(form)[0]))
    return file.names([grammar.text(field) for field in grammar.split(file.first_lines(), 0).fields])


def scan(path: Path, columns: Sequence[str] | None, form: Format) -> pl.LazyFrame:
    """Open a text file as a lazy frame of strings; empty fields that are not quoted are null.

    The column ``PLACE`` names the line at which each record begins.

    Args:
        path: The file, which may be compressed with gzip or zstd.
        columns: The columns that will be read; None means all. Without a header, names are positions ("1", "2", ...).
        form: How the file is written.

    Raises:
        DataError: The file is not well-formed, or can be read in several ways.
    """
    file = TextFile(path, form, columns)
    beginning = file.first_lines()
    if not beginning:
        raise DataError(f"file {path} is empty: found no line with text, allowed: a line with the names of columns")
    if form.quote == form.header == "auto" and (fault := text_faults.json(beginning)):
        raise DataError(f"file {path}, {fault}")
    reading = _decide(file)
    names = reading.names
    _refuse_sequences(file, names)
    _refuse_without_header(file, names, beginning)
    twice = [name for place, name in enumerate(names) if name and name in names[:place] and file.wants(name)]
    if twice:
        raise DataError(f"file {path} names column {twice[0]!r} twice in its header; allowed: different names")
    places = {name: names.index(name) for name in names if name}

    def read(
        chosen: list[str] | None, predicate: pl.Expr | None, rows: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        names = list(schema) if chosen is None else chosen
        lines = (f"{path}, line {number}" for number in reading.lines())
        wanted = [name for name in names if name != PLACE] or list(places)[:1]  # one column counts the rows
        for frame in _frames(file, reading, {name: places[name] for name in wanted}):
            if PLACE in names:
                frame = frame.with_columns(pl.Series(PLACE, list(islice(lines, len(frame))))).select(names)
            kept = frame if predicate is None else frame.filter(predicate)
            kept = kept if rows is None else kept.head(rows)
            yield kept
            if rows is not None and (rows := rows - len(kept)) == 0:
                return

    schema = dict.fromkeys([*places, PLACE], pl.String())
    return register_io_source(read, schema=schema)


def _frames(file: TextFile, reading: Reading, places: dict[str, int]) -> Iterator[pl.DataFrame]:
    """Read the columns at these places, block by block.

    Raises:
        DataError: A record of a file that was not checked as a whole has another number of fields.
    """
    if reading.empty:
        return
    try:
        yield from _blocks(file, reading, places)
    except pa.ArrowInvalid:
        if reading.whole or (fault := Reading(file, reading.dialect).fault) is None:
            raise
        raise DataError(f"file {file.path}, {fault}") from None


def _blocks(file: TextFile, reading: Reading, places: dict[str, int]) -> Iterator[pl.DataFrame]:
    dialect = reading.dialect
    block = (CHUNK + LONGEST) * (2 if reading.joins else 1)  # _WholeLineEnds reads half of it
    included = [str(place) for place in places.values()]
    with file.open() as stream:
        stream.read(reading.start)
        batches = csv.open_csv(
            pa.PythonFile(_WholeLineEnds(stream), "r") if reading.joins else stream,
            csv.ReadOptions(column_names=[str(place) for place in range(len(reading.names))], block_size=block),
            csv.ParseOptions(
                delimiter=dialect.separator,
                quote_char=dialect.quote or False,
                escape_char=dialect.escape or False,
                newlines_in_values=reading.joins,
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


class _WholeLineEnds:
    """A stream that never ends a block between the characters of a line end.

    Where a block begins with a line feed after a carriage return, pyarrow drops it, in quoted fields too.
    """

    closed = False

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        block = self._stream.read(size // 2)
        while block.endswith(b"\r") and len(block) < size and (more := self._stream.read(1)):
            block += more
        return bytes(block)


def _decide(file: TextFile) -> Reading:
    """Choose the dialect in which all of the file is well-formed.

    If there are several, a well quoted file (RFC 4180, or with escapes) is read as such; otherwise all have to give
    the same values. Quotes join lines only in a well quoted file, and not if those lines look like records.
    """
    separator, ways = _separator(file), _marks(file.form)
    preferred, *others = [Dialect(separator, *marks) for marks in ways]
    if file.is_plain([mark for way in ways for mark in way]):
        plain = Reading(file, preferred, whole=False)
        if plain.fault is None:
            return plain
    first = Reading(file, preferred)
    if first.fault is None:
        others = [other for other in others if _can_differ(first, other)]
    needed = [name for name in first.names if file.wants(name)]
    readings = [first, *(Reading(file, other, needed) for other in others)]
    fitting = [reading for reading in readings if reading.fault is None]
    if not fitting:
        furthest = max(readings, key=lambda reading: reading.checked)
        raise DataError(f"file {file.path}, {furthest.fault}")
    chosen, *rivals = fitting
    doubt = chosen.doubt or (chosen.uses_line if Use.BARE | Use.LINES in chosen.uses else None)
    if doubt is not None and file.form.quote == "auto":
        raise DataError(
            f"file {file.path}, line {doubt}: found quotes around line ends that may be text, so that each line is a "
            f"record; allowed: {stated({'download.format.quote': character_name(chosen.dialect.quote)})} or "
            f"{stated({'download.format.quote': 'none'})}"
        )
    if chosen.spaced is not None and file.form.quote == "auto":
        raise DataError(f"file {file.path}, {text_faults.spaced_quotes(chosen.spaced)}")
    for rival in rivals:
        if Use.BARE in chosen.uses and not _same(file, chosen, rival):
            key = "quote" if rival.dialect.quote != chosen.dialect.quote else "escape"
            names = (character_name(getattr(way.dialect, key)) for way in (chosen, rival))
            choices = " or ".join(stated({f"download.format.{key}": name}) for name in names)
            raise DataError(
                f"file {file.path}, line {chosen.uses_line}: found {key} characters that can mean two things, and the "
                f"values differ; allowed: {choices}"
            )
    return chosen


def _can_differ(first: Reading, other: Dialect) -> bool:
    """Whether a file that ``first`` reads can mean something else in the other dialect."""
    if Use.BARE not in first.uses:
        return False
    return first.backslashes if other.quote == first.dialect.quote else Use.QUOTED in first.uses


def _marks(form: Format) -> list[tuple[str | None, str | None]]:
    """The pairs of quote and escape that a file may be written with, the preferred ones first."""
    quotes = [_QUOTE, None] if form.quote == "auto" else [character(form.quote)]
    if form.escape != "auto":
        return [(quote, character(form.escape)) for quote in quotes]
    return [(quotes[0], None), (quotes[0], _ESCAPE), *((quote, None) for quote in quotes[1:])]


def _separator(file: TextFile) -> str:
    """The separator of the first line: the one that gives most of the columns that are wanted, then most columns."""
    form, columns = file.form, file.columns or ()
    if form.separator != "auto":
        return str(character(form.separator))
    if given := file.given_separator():
        return given
    line, ranks = file.first_lines().partition(b"\n")[0] + b"\n", {}
    for mark in SEPARATORS:
        grammar = Grammar(Dialect(mark, *_marks(form)[0]))
        record = grammar.split(line, 0)
        fields = record.fields if record.fault is None else line.split(mark.encode())
        names = file.names([grammar.text(field) for field in fields])
        known = sum(name in names for name in columns)
        ranks[mark] = (known, len(fields) if mark != " " else min(len(fields), 1.5))
    best = max(ranks.values())
    likely = [mark for mark, rank in ranks.items() if rank == best]
    if best[1] == 1:
        return ","
    if len(likely) > 1:
        found = [character_name(mark) for mark in likely]
        raise DataError(
            f"file {file.path}, line 1: found {' and '.join(found)} equally often, allowed: one separator "
            f"({stated({'download.format.separator': found[0]})})"
        )
    return likely[0]


def _refuse_sequences(file: TextFile, names: list[str]) -> None:
    """Refuse columns that hold several values per row, as RecBole marks them in the header."""
    for name in names:
        plain, _, kind = name.partition(":")
        if kind.strip() in ("token_seq", "float_seq") and file.columns and {name, plain.strip()} & set(file.columns):
            raise DataError(
                f"file {file.path}, line 1: column {plain!r} holds sequences ({kind.strip()}); allowed: one event per "
                "row, in columns of token and float"
            )


def _refuse_without_header(file: TextFile, names: list[str], beginning: bytes) -> None:
    """Refuse a first line that has none of the wanted names but numbers or dates, or no separator."""
    if file.form.header != "auto" or file.columns is None or any(name in names for name in file.columns):
        return
    if len(names) == 1 and len(file.columns) > 1:
        raise DataError(f"file {file.path}, {text_faults.one_column(beginning)}")
    if text_faults.looks_like_data(names):
        raise MissingHeaderError(f"file {file.path}, {text_faults.data_as_header(names)}")


def _same(file: TextFile, one: Reading, other: Reading) -> bool:
    """Whether two readings give the same values in the columns that will be read."""
    places = {name: place for place, name in enumerate(one.names) if file.wants(name)}
    sides = [_frames(file, reading, places) for reading in (one, other)]
    held: list[pl.DataFrame | None] = [pl.DataFrame(), pl.DataFrame()]
    while True:
        held = [
            frame if frame is not None and len(frame) else next(side, None)
            for frame, side in zip(held, sides, strict=True)
        ]
        left, right = held
        if left is None or right is None:
            return left is right
        rows = min(len(left), len(right))
        if not left.head(rows).equals(right.head(rows)):
            return False
        held = [left.slice(rows), right.slice(rows)]
