r"""The grammar of delimited text, as regular expressions over bytes.

A record is a number of fields with a separator between them and a line end (``\n`` or ``\r\n``) after them. A field
that begins with the quote is quoted: it ends with a quote, and two quotes inside it stand for one. Quotes inside other
fields are text. The escape character turns the character after it into text. ``pyarrow.csv`` reads exactly this, but
it also accepts text after a closing quote, which a well-formed record does not have.
"""

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import NamedTuple

SEPARATORS = ("\t", ";", "|", ",", "\x01", "\x1f", " ")
"""Separators that are looked for in the first line. A space is one only where there is no other."""


@dataclass(frozen=True)
class Dialect:
    """The special characters of a text file, one ASCII character each."""

    separator: str
    quote: str | None
    """None: quotes are text."""
    escape: str | None
    """None: there is no escape character."""


class Use(Flag):
    """What the records of a file make use of."""

    NOTHING = 0
    QUOTED = auto()
    """A field is quoted."""
    LINES = auto()
    """A quoted field holds a line end, or a line end is escaped."""
    BARE = auto()
    """A quote is inside a field that is not quoted, which RFC 4180 forbids."""


class Record(NamedTuple):
    """The fields of a record as they are written, and where it ends; ``fault`` says why there is no end."""

    fields: list[bytes]
    end: int
    fault: str | None


_LINE_END = re.compile(rb"\r?\n")


class Grammar:
    r"""The patterns of a dialect.

    Args:
        dialect: The special characters.
        strict: Positions of the fields in which only special characters may be escaped, because programs disagree on
            what other escapes mean (``\N`` is N or a missing value).
        sure: Whether the escape character is known. If not, it may not escape itself in strict fields that are not
            quoted, where some programs write it as text.
    """

    def __init__(self, dialect: Dialect, strict: Container[int] = (), *, sure: bool = True) -> None:
        self.dialect = dialect
        self._strict = strict
        self._sure = sure
        self._separator = dialect.separator.encode()
        self._quote = None if dialect.quote is None else dialect.quote.encode()
        self._escape = None if dialect.escape is None else dialect.escape.encode()
        quote, separator = re.escape(self._quote or b""), re.escape(self._separator)
        quoted = _run(rb"[^%s\n]" % quote, quote * 2)
        quoted = rb"%s%s%s(?=%s|\r?\n|\Z)|" % (quote, quoted, quote, separator) if quote else b""
        self._quoted_or_text = re.compile(rb"(?:\A|%s)(%s[^%s]*+)" % (separator, quoted, separator))
        self._line_fields = rb"[^%s\n]*+" % separator, rb"(?:%s[^%s\n]*+)" % (quoted, separator)
        self._any = {strict: re.compile(self._field(~Use.NOTHING, strict=strict)) for strict in (False, True)}

    def records(
        self, width: int, uses: Use, *, most: int | None = None, unlike_lines: bool = False
    ) -> re.Pattern[bytes]:
        """Match as many records as possible that have ``width`` fields and make no other use than ``uses``.

        Empty lines are passed over. ``most`` limits the number of records and empty lines. With
        ``unlike_lines``, a record of several lines does not match if the first two have ``width`` fields each.
        """
        record = self._record(width, uses)
        if unlike_lines:
            separator = re.escape(self._separator)
            line = rb"(?:\r?\n)*+(?:%s)\r?\n" % rb"|".join(
                rb"(?:%s%s){%d}+%s" % (field, separator, width - 1, field) for field in self._line_fields
            )
            record = rb"%s\r?\n|(?!%s%s)%s" % (self._record(width, uses & ~Use.LINES), line, line, record)
        times = b"*+" if most is None else rb"{0,%d}+" % most
        return re.compile(rb"(?:%s\r?\n|\r?\n)%s" % (record, times))

    def _record(self, width: int, uses: Use) -> bytes:
        """The pattern of a record without its line end."""
        separator = re.escape(self._separator)
        if self._escape is None:
            field = self._field(uses, strict=False)
            return rb"(?:%s%s){%d}+%s" % (field, separator, width - 1, field)
        return separator.join(self._field(uses, strict=place in self._strict) for place in range(width))

    def split(self, buffer: bytes, at: int) -> Record:
        """Split the record that begins at a position of the buffer, whatever its number of fields."""
        fields: list[bytes] = []
        while True:
            found = self._any[len(fields) in self._strict].match(buffer, at)
            if found is None:  # pragma: no cover (the pattern matches nothing too)
                raise AssertionError
            fields.append(found[0])
            at = found.end()
            if buffer.startswith(self._separator, at):
                at += 1
            elif end := _LINE_END.match(buffer, at):
                return Record(fields, end.end(), None)
            else:
                return Record(fields, at, self._fault(buffer, at, fields))

    def is_spaced(self, field: bytes) -> bool:
        """Whether a quote stands after spaces at the beginning of a field, which makes it text."""
        return self._quote is not None and field.startswith(b" ") and field.lstrip(b" ").startswith(self._quote)

    def split_line(self, line: bytes, width: int) -> list[bytes] | None:
        """Split a line into ``width`` fields, with or without quotes around some; None if it has another number."""
        fields = line.split(self._separator)
        if len(fields) > width and self._quote is not None:
            fields = self._quoted_or_text.findall(line)
        return fields if len(fields) == width else None

    def uses(self, fields: Sequence[bytes]) -> Use:
        """What well-formed fields make use of."""
        found = Use.NOTHING
        for field in fields:
            if b"\n" in field or b"\r" in field:
                found |= Use.LINES
            if self._quote is None:
                continue
            if field.startswith(self._quote):
                found |= Use.QUOTED
            elif self._quote in self._without_escapes(field):
                found |= Use.BARE
        return found

    def text(self, field: bytes) -> str:
        """The text of a well-formed field."""
        if self._quote is not None and field.startswith(self._quote):
            field = field[1:-1].replace(self._quote * 2, self._quote)
        if self._escape is not None:
            field = re.sub(re.escape(self._escape) + rb"(?s:(.))", rb"\1", field)
        return field.decode(errors="replace")

    def _field(self, uses: Use, *, strict: bool) -> bytes:
        """The pattern of a field; it never gives back what it matched."""
        separator = re.escape(self._separator)
        escape = b"" if self._escape is None else re.escape(self._escape)
        quote = b"" if self._quote is None else re.escape(self._quote)
        lines = b"" if Use.LINES in uses else rb"\r\n"
        inside = outside = b""  # escapes in quoted and in other fields
        if escape and not strict:
            inside = outside = rb"%s[^\r%s]" % (escape, lines)
        elif escape:
            special = quote + separator + (b"" if lines else rb"\n")
            inside = rb"%s[%s%s]" % (escape, special, escape)
            outside = inside if self._sure else rb"%s[%s]" % (escape, special)
        if quote and Use.BARE in uses:
            first = rb"[^%s\r\n%s%s]" % (separator, escape, quote)
            rest = _run(rb"[^%s\r\n%s]" % (separator, escape), outside)
            text = rb"(?:%s%s)?+" % (rb"(?:%s|%s)" % (first, outside) if escape else first, rest)
        else:
            text = _run(rb"[^%s\r\n%s%s]" % (separator, escape, quote), outside)
        if not quote or Use.QUOTED not in uses:
            return text
        doubled = quote * 2
        quoted = _run(rb"[^%s%s%s]" % (quote, escape, lines), rb"%s|%s" % (doubled, inside) if escape else doubled)
        return rb"(?:%s%s%s|%s)" % (quote, quoted, quote, text)

    def _without_escapes(self, field: bytes) -> bytes:
        return field if self._escape is None else re.sub(re.escape(self._escape) + rb"(?s:.)", b"", field)

    def _fault(self, buffer: bytes, at: int, fields: list[bytes]) -> str:
        place, found = f"field {len(fields)}", buffer[at : at + 1]
        if self._quote is not None and fields[-1].startswith(self._quote):
            return f"text after the closing quote of {place}"
        if self._escape is not None and found == self._escape:
            return f"{buffer[at : at + 2].decode(errors='replace')!r} in {place}"
        if found == b"\r":
            return "a carriage return without a line feed"
        return f"an opening quote of {place} that is not closed"


def _run(plain: bytes, special: bytes) -> bytes:
    """The pattern of any number of plain characters and special sequences; it never gives back what it matched."""
    return rb"%s*+(?:(?:%s)%s*+)*+" % (plain, special, plain) if special else plain + b"*+"
