"""Check a whole text file against a dialect: is every record well-formed, with as many fields as the first one?"""

import io
import re
from collections.abc import Iterator, Sequence

from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.raw import text_faults
from rec_data.raw.dialects import Dialect, Grammar, Use
from rec_data.raw.text_source import CHUNK, LONGEST, TextFile, blank

_NUMERIC = re.compile(rb"[+-]?\d[\dTZ:/. +-]*+")
"""A field that may be a number or a time."""


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
                if b"\0" in block:
                    line = self._line_at(buffer, buffer.index(b"\0"))
                    raise DataError(f"file {path}, {text_faults.zero_byte(line)}")
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
        begin = self._read_header(buffer) if self._records is None else 0
        if self._records is None:
            return 0
        place = begin
        while (place := _end(self._records, buffer, place)) < len(buffer):
            after = self._pass_joined(buffer, place) or self._learn(buffer, place)
            if after is None:
                break
            place = after
        self.empty = self.empty and not buffer[begin:place].strip(b"\r\n")
        return place

    def _read_header(self, buffer: bytes) -> int:
        """Read the names of columns, and with them compile the patterns; returns where the data begins.

        Without patterns afterwards, the first record is not complete, or ``fault`` says what is wrong with it.
        """
        begin = blank(buffer)
        record = self._grammar.split(buffer, begin)
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
        self.start = begin if self._file.form.header is False else record.end
        self._records = self._compile()
        return self.start

    def _pass_joined(self, buffer: bytes, place: int) -> int | None:
        """Pass over a record whose quotes join lines that look like records, if such a one begins here."""
        if self._joined is None or (end := _end(self._joined, buffer, place)) == place:
            return None
        if self._all_lines is None and self._share_of_records(buffer[place:end]) == 1:
            self._all_lines = self._line_at(buffer, place)
        return end

    def _learn(self, buffer: bytes, place: int) -> int | None:
        """Extend the patterns by the uses of a record that they do not match; returns where matching goes on.

        None if the record is not complete or not well-formed.
        """
        record = self._grammar.split(buffer, place)
        if record.fault is not None or len(record.fields) != len(self.names):
            return None
        line, after = self._line_at(buffer, place), place
        uses = self.uses | self._grammar.uses(record.fields)
        joins = Use.LINES in uses and Use.LINES not in self.uses
        if joins and self._asks and self._may_be_lines(buffer[place : record.end], line):
            uses, after = uses ^ Use.LINES, record.end
        assert uses != self.uses or after == record.end, "the patterns match every record without new uses"
        if Use.BARE in uses and Use.BARE not in self.uses and self.spaced is None:
            fields = zip(self.names, record.fields, strict=True)
            if any(self._grammar.is_spaced(field) for name, field in fields if self._file.wants(name)):
                self.spaced = line
        if uses != self.uses:
            self.uses, self.uses_line = uses, line
            self._records = self._compile()
        return after

    def _may_be_lines(self, record: bytes, line: int) -> bool:
        """Whether most lines of a record that begins at ``line`` could be records; where, is kept for ``doubt``."""
        share = self._share_of_records(record)
        if share <= 0.5:
            return False
        self._most_lines = self._most_lines or line
        if share == 1:
            self._all_lines = self._all_lines or line
        return True

    def _line_at(self, buffer: bytes, place: int) -> int:
        return self._line + buffer.count(b"\n", 0, place)

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
        return text_faults.broken_record(record.fault, self._line_at(buffer, record.end))

    def _refuse_other_encodings(self, buffer: bytes) -> None:
        try:
            buffer.decode()
        except UnicodeDecodeError as error:
            line = self._line_at(buffer, error.start)
            raise DataError(f"file {self._file.path}, {text_faults.not_utf8(line)}") from None


def _end(records: re.Pattern[bytes], buffer: bytes, place: int) -> int:
    found = records.match(buffer, place)
    return place if found is None else found.end()
