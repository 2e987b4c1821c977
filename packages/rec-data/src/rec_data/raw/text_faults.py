"""What is wrong with a text file that is refused, in words, and what cures it."""

import re
from collections.abc import Sequence
from dataclasses import replace

from rec_data.config import character_name
from rec_data.raw.dialects import SEPARATORS, Dialect, Grammar
from rec_data.stated import stated, stated_value

_DATUM = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?|\d{4}-\d\d-\d\d.*", re.IGNORECASE)
"""A number or a date in the first line: such a line can be data."""

_DATE = re.compile(r"\d{4}[-/.]\d\d?[-/.]\d\d?\b.*|\d\d?[-/.]\d\d?[-/.]\d{4}\b.*")
_UNIX_TIME = re.compile(r"[1-9]\d{9,}(\.\d*)?")
_RATING = re.compile(r"\d{1,2}(\.\d*)?")

_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive, as of an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1\x15": "a parquet file",
}
_JSON = re.compile(rb'\s*\[?\s*\{\s*"')


def other_format(beginning: bytes) -> str | None:
    """Why the bytes at the beginning of a file are no delimited text, or None."""
    for mark, name in _OTHER_FORMATS.items():
        if beginning.startswith(mark):
            suffix = ".parquet" if mark.startswith(b"PAR1") else "text, such as CSV in UTF-8"
            return f"found {name}, allowed: {suffix} (the suffix of the name says what a file holds)"
    return None


def zero_bytes(beginning: bytes) -> str:
    """Where the first zero byte is at the beginning of a file, and whether UTF-16 explains it."""
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        side, other = beginning[first::2], beginning[1 - first :: 2]
        if side.count(0) * 2 > len(side) and other.count(0) * 8 < len(other):
            return (
                "line 1: found zero bytes, as in UTF-16 without a byte order mark; allowed: UTF-8, or the encoding by "
                f"name ({stated({'download.format.encoding': encoding})})"
            )
    return zero_byte(beginning.count(b"\n", 0, beginning.index(0)) + 1)


def zero_byte(line: int) -> str:
    """The refusal of a zero byte in a line."""
    return f"line {line}: found a zero byte, as in a damaged or binary file, allowed: text in UTF-8"


def not_utf8(line: int) -> str:
    """The refusal of bytes in an encoding that is not known."""
    return (
        f"line {line}: found bytes that are not UTF-8, allowed: UTF-8, or the encoding by name "
        f"({stated({'download.format.encoding': 'NAME'})}, for example latin-1, cp1251, shift_jis)"
    )


def spaced_quotes(line: int) -> str:
    """The refusal of quotes that stand after a space."""
    return (
        f"line {line}: found a space between a separator and a quote, allowed: quotes next to the separator (remove "
        "the spaces, as pandas.read_csv(..., skipinitialspace=True) does)"
    )


def broken_record(fault: str, line: int) -> str:
    """The refusal of a record that has no end because of ``fault`` (`Record`), which is in this line."""
    if "carriage" in fault:
        return f"line {line}: found {fault}, allowed: line ends of line feeds, or both"
    if "quote" in fault:
        return (
            f"line {line}: found {fault}, allowed: doubled quotes inside quoted fields; if quotes are text: "
            f"{stated({'download.format.quote': 'none'})}; if they are escaped: "
            f"{stated({'download.format.escape': 'backslash'})}"
        )
    return (
        f"line {line}: found {fault}, allowed: escaped quotes, separators, line ends and escapes; if it is "
        f"text: {stated({'download.format.escape': 'none'})}"
    )


def json(first_lines: bytes) -> str | None:
    """The refusal of a file of JSON, or None."""
    if not _JSON.match(first_lines):
        return None
    return "line 1: found JSON, allowed: parquet, or delimited text such as CSV with names in its first line"


def one_column(beginning: bytes) -> str:
    """The refusal of a file whose first line has no separator that is looked for."""
    line, _, after = beginning.partition(b"\n")
    shown = line[:60].decode(errors="replace").strip()
    for separator, count in _fitting(after, Dialect("\0", '"', None)).items():
        return _odd_first_line(f"1 field ({shown!r})", count, separator)
    looked_for = ", ".join(character_name(mark) for mark in SEPARATORS)
    return (
        f"line 1: found 1 field ({shown!r}), allowed: fields with a separator between them, which is one character "
        f"({looked_for} are looked for; another one: {stated({'download.format.separator': ':'})})"
    )


def in_words(count: int) -> str:
    """A number of fields: "1 field", "3 fields"."""
    return f"{count} field{'' if count == 1 else 's'}"


def wrong_width(found: int, width: int, line: int, dialect: Dialect, first_lines: bytes, after: bytes | None) -> str:
    """The refusal of a record with ``found`` fields in a file whose first line has ``width``.

    The first line is blamed if the lines after it agree with each other.

    Args:
        found: The number of fields of the record.
        width: The number of fields of the first line.
        line: Where the record begins.
        dialect: How the file is read.
        first_lines: The first lines of the file.
        after: The lines after the first one, if the record is the first of data; otherwise None.
    """
    mark = character_name(dialect.separator)
    if after is not None:
        used = _width(after, dialect)
        separator = dialect.separator if used != 1 else next(iter(_fitting(after, dialect)), None)
        if used is not None and separator is not None:
            count = used if used > 1 else _fitting(after, dialect)[separator]
            return _odd_first_line(f"{in_words(width)} separated by {mark}", count, separator)
    fitting = [character_name(separator) for separator in _fitting(first_lines, dialect)]
    other = ""
    if fitting:
        other = f"; {fitting[0]} fits the first lines: {stated({'download.format.separator': fitting[0]})}"
    return (
        f"line {line}: found {in_words(found)}, allowed: {width} as in the first line, separated by {mark} (a field "
        f"that holds it is quoted{other})"
    )


def _odd_first_line(found: str, count: int, separator: str) -> str:
    return (
        f"line 1: found {found}, but the lines after it have {count} separated by {character_name(separator)}; "
        "allowed: one name for each column (remove a title above the names; name the column of row names, too)"
    )


def _fitting(lines: bytes, dialect: Dialect) -> dict[str, int]:
    """The separators other than that of the dialect that divide lines into equally many fields, and their number."""
    others = [separator for separator in SEPARATORS if separator != dialect.separator]
    widths = {separator: _width(lines, replace(dialect, separator=separator)) for separator in others}
    return {separator: width for separator, width in widths.items() if width is not None and width > 1}


def _width(lines: bytes, dialect: Dialect) -> int | None:
    """The number of fields of all of the first ten records; None if they differ, or if there is only one."""
    grammar, at, counts = Grammar(dialect), 0, list[int]()
    while at < len(lines) and len(counts) < 10:
        record = grammar.split(lines, at)
        if record.fault is not None:
            break
        if any(record.fields):
            counts.append(len(record.fields))
        at = record.end
    return counts[0] if len(counts) > 1 and len(set(counts)) == 1 else None


def looks_like_data(fields: Sequence[str]) -> bool:
    """Whether a first line has numbers or dates."""
    return any(_DATUM.fullmatch(field) for field in fields)


def data_as_header(fields: Sequence[str]) -> str:
    """The refusal of a first line that looks like data, with positions that are guessed from its values."""
    shown = ", ".join(fields[:8]) + (", ..." if len(fields) > 8 else "")
    at = range(len(fields))
    times = [place for place in at if _DATE.fullmatch(fields[place])]
    times = times or [place for place in at if _UNIX_TIME.fullmatch(fields[place])]
    left = [place for place in at if place not in times[-1:]]
    user, item, others = *[*left, 0, 1][:2], left[2:]
    time: int | str | None = times[-1] + 1 if times else "N" if others else None
    key = "download.columns.timestamp"
    why = "" if times else " (rows are in order)"
    if time == "N":
        why = f" (N is the column of times; {stated_value(None)} if rows are in order)"
    columns = {"download.columns.user": user + 1, "download.columns.item": item + 1, key: time}
    rating = next((place + 1 for place in others if _RATING.fullmatch(fields[place])), None)
    more = ""
    if rating is not None:
        more = f" (a rating may be in column {rating}: {stated({'download.columns.rating': rating})})"
    return (
        f"line 1: found what looks like data ({shown}), allowed: the names of columns; without them give positions: "
        f"{stated({'download.format.header': False, **columns})}{why}{more}"
    )
