"""A text file as a stream of bytes in UTF-8: its compression, its encoding, and where its first record begins."""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rec_data.config import Format
from rec_data.errors import DataError
from rec_data.progress import progress
from rec_data.raw import text_faults

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

_BEGINNING = re.compile(rb'(?:\xef\xbb\xbf)*[\r\n]*(?:"?sep=([\t !#-~])"?\r?\n[\r\n]*)?')
"""Byte order marks, empty lines, and the line in which Excel is told the separator."""


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
        """Whether the file holds none of these quotes and escapes, and only UTF-8 without zeros and whole line ends.

        All dialects read such a file alike, so that only the number of fields can be wrong.
        """
        special = [mark.encode() for mark in marks if mark is not None]
        decoder = codecs.getincrementaldecoder("utf-8")()
        with self.open() as stream, progress(f"check {self.path.name}", self.path.stat().st_size, "B") as bar:
            while block := stream.read(CHUNK):
                bar.update(len(block))
                if block.endswith(b"\r"):
                    block += stream.read(1)
                if (
                    b"\0" in block
                    or any(mark in block for mark in special)
                    or block.count(b"\r") != block.count(b"\r\n")
                ):
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
        return bytes(beginning[blank(beginning) :])

    def given_separator(self) -> str | None:
        """The separator that the file itself names in a line ``sep=;`` before the others, as Excel reads it."""
        with self.open() as stream:
            found = _BEGINNING.match(stream.read(256))
        return None if found is None or found[1] is None else bytes(found[1]).decode()


def blank(buffer: bytes) -> int:
    """The number of bytes at the beginning that are no record."""
    found = _BEGINNING.match(buffer)
    return 0 if found is None else found.end()


def _is_utf8(encoding: str) -> bool:
    """Whether the name is one of UTF-8."""
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")
