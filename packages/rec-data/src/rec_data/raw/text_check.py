"""Check a whole text file against a dialect: is every record well-formed, with as many fields as the first one?"""

import codecs
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rec_data.config import Format
from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.raw import text_faults
from rec_data.raw.dialects import Dialect, Grammar, Use

LONGEST = 1 << 20
"""Bytes of the longest record. A longer one is refused, since pyarrow reads none that is longer than its blocks."""

CHUNK = 1 << 20
"""Bytes that are checked at a time."""

_COMPRESSION = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8",
}
"""Byte order marks. The longer ones come first."""

_BEGINNING = re.compile(rb'(?:\xef\xbb\xbf)?[\r\n]*(?:"?sep=([\t !#-~])"?\r?\n[\r\n]*)?')
"""A byte order mark, empty lines, and the line in which Excel is told the separator."""

_NUMERIC = re.compile(rb"[+-]?\d[\dTZ:/. +-]*+")
"""A field that may be a number or a time."""


@dataclass(frozen=True)
class TextFile:
    """A text file as a stream of bytes in UTF-8, and what is asked of it."""

    path: Path
    form: Format
    columns: Sequence[str] | None
    """The names of the columns that will be read; None means all."""

    def open(self) -> pa.NativeFile:
        """Open the file, decompressed and in UTF-8."""
        with self.path.open("rb") as file:
            mark = file.read(8)
        if fault := text_faults.other_format(mark):
            raise DataError(f"file {self.path}: {fault}")
        compression = next((kind for magic, kind in _COMPRESSION.items() if mark.startswith(magic)), None)
        encoding, stream = self.form.encoding, pa.input_stream(str(self.path), compression=compression)
        if encoding == "auto":
            beginning = stream.read(256)
            marked = next((kind for mark, kind in _MARKS.items() if beginning.startswith(mark)), None)
            if marked is None and b"\0" in beginning:
                raise DataError(f"file {self.path}, {text_faults.zero_bytes(beginning)}")
            encoding = marked or "utf-8"
            stream = pa.input_stream(str(self.path), compression=compression)
        return stream if _is_utf8(encoding) else pa.transcoding_input_stream(stream, encoding, "utf-8")

    def is_plain(self, marks: Sequence[str | None]) -> bool:
        """Whether the file holds none of these quotes and escapes, and only UTF-8 and whole line ends.

        All dialects read such a file alike, so that only the number of fields can be wrong.
        """
        special = [mark.encode() for mark in marks if mark is not None]
        decoder = codecs.getincrementaldecoder("utf-8")()
        with self.open() as stream, progress(f"check {self.path.name}", self.path.stat().st_size, "B") as bar:
            while block := stream.read(CHUNK):
                bar.update(len(block))
                if block.endswith(b"\r"):
                    block += stream.read(1)
                if any(mark in block for mark in special) or block.count(b"\r") != block.count(b"\r\n"):
                    return False
                try:
                    if not block.isascii() or decoder.getstate()[0]:
                        decoder.decode(block)
                except UnicodeDecodeError:
                    return False
        return decoder.getstate()[0] == b""

    def wants(self, name: str) -> bool:
        """Whether the column will be read."""
        return self.columns is None or name in self.columns

    def lacks(self, names: Sequence[str]) -> bool:
        """Whether a column that will be read is not among the names."""
        return self.columns is not None and not set(self.columns) <= set(names)

    def names(self, fields: Sequence[str]) -> list[str]:
        """The names of the columns from the fields of the first line."""
        if self.form.header is False:
            return [str(place) for place in range(1, len(fields) + 1)]
        if ".inter" in self.path.suffixes:  # RecBole: user_id:token
            fields = [re.sub(r":(token|float)\s*$", "", field) for field in fields]
        return [field if self.columns and field in self.columns else field.strip() for field in fields]

    def first_lines(self) -> bytes:
        """The lines at the beginning, without empty ones before the first."""
        with self.open() as stream:
            beginning = stream.read(LONGEST)
        return bytes(beginning[_blank(beginning) :])

    def given_separator(self) -> str | None:
        """The separator that the file itself names in a line ``sep=;`` before the others, as Excel reads it."""
        with self.open() as stream:
            found = _BEGINNING.match(stream.read(256))
        return None if found is None or found[1] is None else bytes(found[1]).decode()


class Reading:
    """A file as one dialect reads it, up to the first record that is not well-formed.

    A header that lacks one of the ``needed`` columns is a fault too. Without ``whole``, only the beginning of the file
    is matched.
    """

    def __init__(self, file: TextFile, dialect: Dialect, needed: Sequence[str] = (), *, whole: bool = True) -> None:
        self.dialect = dialect
        self.whole = whole
        self.names: list[str] = []
        self.start = 0
        """The byte at which the first record of data begins."""
        self.uses = Use.NOTHING
        self.uses_line = 1
        """The line from which on ``uses`` is as it is."""
        self.spaced: int | None = None
        """The line of a record with a quote after a space, in a column that will be read."""
        self.backslashes = False
        self.empty = True
        """Whether there are no records of data."""
        self.checked = 0
        """The number of bytes that are well-formed."""
        self.fault: str | None = None
        """The line that is not well-formed, and why."""
        self._file = file
        self._needed = needed
        self._grammar = Grammar(dialect)
        self._records: re.Pattern[bytes] | None = None
        self._joined: re.Pattern[bytes] | None = None
        self._asks = file.form.quote == "auto"
        self._all_lines: int | None = None
        self._most_lines: int | None = None
        self._line = 1
        self._check()

    @property
    def joins(self) -> bool:
        """Whether there are records of several lines."""
        return Use.LINES in self.uses or self.doubt is not None

    @property
    def doubt(self) -> int | None:
        """The line of a record whose quotes join lines that could be records of their own, if quotes were text.

        One record is enough if all of its lines could be records. If only most of them could, the record is only
        doubtful in a file without other records of several lines, because texts of several lines are then unusual.
        Nothing is doubtful where the quote is given.
        """
        return self._all_lines or (None if Use.LINES in self.uses else self._most_lines)

    def lines(self) -> Iterator[int]:
        """The numbers of the lines at which the records of data begin. The file must be well-formed."""
        records = self._grammar.records(len(self.names), self.uses | Use.LINES)
        with self._file.open() as stream:
            begin, record = stream.read(self.start).count(b"\n"), b""
            for number, line in enumerate(io.BufferedReader(stream), begin):
                if not record:
                    begin = number
                    if not line.strip(b"\r\n"):
                        continue
                record += line if line.endswith(b"\n") else line + b"\n"
                if not self.joins or records.fullmatch(record):
                    yield begin + 1
                    record = b""

    def _check(self) -> None:
        path, buffer, ended = self._file.path, b"", False
        with self._file.open() as stream, progress(f"check {path.name}", path.stat().st_size, "B") as bar:
            while not ended and self.fault is None and (self.whole or self.empty):
                block = stream.read(CHUNK)
                bar.update(len(block))
                ended = not block
                self.backslashes = self.backslashes or b"\\" in block
                buffer += block
                if ended and buffer and not buffer.endswith(b"\n"):
                    buffer += b"\n"
                place = self._match(buffer)
                if not buffer.isascii():
                    self._refuse_other_encodings(buffer[:place])
                self.checked += place
                self._line += buffer.count(b"\n", 0, place)
                buffer = buffer[place:]
                if buffer and (ended or len(buffer) > LONGEST):
                    self._refuse_other_encodings(buffer.partition(b"\n")[0])
                    self.fault = self.fault or self._explain(buffer)

    def _match(self, buffer: bytes) -> int:
        """Match the records at the beginning of the buffer; returns the position of the first that is not complete."""
        place = 0
        if self._records is None:
            place = _blank(buffer)
            record = self._grammar.split(buffer, place)
            if record.fault is not None:
                return 0
            self.names = self._file.names([self._grammar.text(field) for field in record.fields])
            if self._file.lacks(self.names) and any(map(self._grammar.is_spaced, record.fields)):
                self.spaced = 1
            if lacking := [name for name in self._needed if name not in self.names]:
                self.fault = f"line 1: found no column {lacking[0]!r}"
                return 0
            strict = [at for at, name in enumerate(self.names) if self._file.wants(name)]
            self._grammar = Grammar(self.dialect, strict, sure=self._file.form.escape != "auto")
            place = self.start = place if self._file.form.header is False else record.end
            self._records = self._compile()
        begin = place
        while (place := _end(self._records, buffer, place)) < len(buffer):
            if self._joined is not None and (end := _end(self._joined, buffer, place)) > place:
                if self._all_lines is None and self._share_of_records(buffer[place:end]) == 1:
                    self._all_lines = self._line + buffer.count(b"\n", 0, place)
                place = end
                continue
            record = self._grammar.split(buffer, place)
            if record.fault is not None or len(record.fields) != len(self.names):
                break
            line = self._line + buffer.count(b"\n", 0, place)
            uses = self.uses | self._grammar.uses(record.fields)
            if self._asks and Use.LINES in uses and Use.LINES not in self.uses:
                share = self._share_of_records(buffer[place : record.end])
                if share > 0.5:
                    self._most_lines = self._most_lines or line
                    self._all_lines = self._all_lines or (line if share == 1 else None)
                    uses, place = uses ^ Use.LINES, record.end
            assert uses != self.uses or place == record.end, "the patterns match every record without new uses"
            if Use.BARE in uses and Use.BARE not in self.uses:
                wanted = [
                    field for name, field in zip(self.names, record.fields, strict=True) if self._file.wants(name)
                ]
                self.spaced = self.spaced or (line if any(map(self._grammar.is_spaced, wanted)) else None)
            if uses != self.uses:
                self.uses, self.uses_line = uses, line
                self._records = self._compile()
        self.empty = self.empty and not buffer[begin:place].strip(b"\r\n")
        return place

    def _compile(self) -> re.Pattern[bytes]:
        """Compile the patterns for the uses so far; doubtful records of several lines are matched one by one."""
        width = len(self.names)
        if self._asks and Use.LINES in self.uses:
            self._joined = self._grammar.records(width, self.uses, most=1)
            return self._grammar.records(width, self.uses, unlike_lines=True)
        return self._grammar.records(width, self.uses)

    def _share_of_records(self, record: bytes) -> float:
        """The share of the lines of a record that could be records of their own, if some quotes were text.

        Such a line has as many fields as the file. Where the record has numbers or times, it has at least one, too.
        """
        lines = [line for line in record.replace(b"\r\n", b"\n").split(b"\n") if line]
        width, quotes = len(self.names), (self.dialect.quote or "").encode()
        rows = [row for line in lines if b"\r" not in line and (row := self._grammar.split_line(line, width))]
        if len(rows) * 2 <= len(lines):
            return 0
        fields = self._grammar.split(record, 0).fields
        places = [place for place, field in enumerate(fields) if _NUMERIC.fullmatch(field.strip(quotes))]
        alike = [not places or any(_NUMERIC.fullmatch(row[place].strip(quotes)) for place in places) for row in rows]
        return sum(alike) / len(lines)

    def _explain(self, buffer: bytes) -> str:
        """Why the record at the beginning of the buffer is not well-formed."""
        record, width, line = self._grammar.split(buffer, 0), len(self.names), self._line
        if record.fault is None and len(record.fields) != width:
            if any(map(self._grammar.is_spaced, record.fields)):
                return text_faults.spaced_quotes(line)
            first, found = self._file.first_lines(), len(record.fields)
            after = buffer if self.empty else None
            return text_faults.wrong_width(found, width, line, self.dialect, first, after)
        if record.fault is None or record.end == len(buffer):
            return f"line {line}: found a record of more than {LONGEST:,} bytes, allowed: at most that"
        line += buffer.count(b"\n", 0, record.end)
        if "carriage" in record.fault:
            return f"line {line}: found {record.fault}, allowed: line ends of line feeds, or both"
        if "quote" in record.fault:
            return (
                f"line {line}: found {record.fault}, allowed: doubled quotes inside quoted fields; if quotes are text: "
                "-S download.format.quote=none; if they are escaped: -S download.format.escape=backslash"
            )
        return (
            f"line {line}: found {record.fault}, allowed: escaped quotes, separators, line ends and escapes; if it is "
            "text: -S download.format.escape=none"
        )

    def _refuse_other_encodings(self, buffer: bytes) -> None:
        try:
            buffer.decode()
        except UnicodeDecodeError as error:
            line = self._line + buffer.count(b"\n", 0, error.start)
            raise DataError(f"file {self._file.path}, {text_faults.not_utf8(line)}") from None


def _is_utf8(encoding: str) -> bool:
    """Whether the name is one of UTF-8."""
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")


def _blank(buffer: bytes) -> int:
    """The number of bytes at the beginning that are no record."""
    return _end(_BEGINNING, buffer, 0)


def _end(records: re.Pattern[bytes], buffer: bytes, place: int) -> int:
    found = records.match(buffer, place)
    return place if found is None else found.end()
