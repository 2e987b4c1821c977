"""Parquet's page checksums: polars reads past them, so they are checked before it does.

A page may carry the CRC-32 of its bytes. Whether a file's pages do is told from the first page of each column; a file
without them is not read a second time, and bytes that were flipped in it stay unseen where they still decode.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rec_data.errors import DataError
from rec_data.progress import progress

BATCH_ROWS = 1 << 18
"""Rows decoded at a time."""

_INTEGER_FIELD = 0x15
"""Thrift's compact protocol: a 32-bit integer whose number is one above that of the field before."""


def check_pages(paths: Sequence[Path], columns: Sequence[str] | None = None) -> None:
    """Reads columns of parquet files whose pages carry checksums, and compares; other files are left alone.

    Args:
        paths: Parquet files.
        columns: Names of the columns to check; a name that a file lacks is passed over. None: all.

    Raises:
        DataError: A file is no parquet, or a page is not what was written.
    """
    for path in paths:
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                if _has_checksums(path, file.metadata):
                    _read(file, path, columns)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error


def _read(file: pq.ParquetFile, path: Path, columns: Sequence[str] | None) -> None:
    with progress(f"check {path.name}", file.metadata.num_rows, "rows") as bar:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False):
            bar.update(len(batch))


def _has_checksums(path: Path, footer: pq.FileMetaData) -> bool:
    """Whether the first page of any column carries a checksum."""
    if footer.num_rows == 0:
        return False
    group = footer.row_group(0)
    with path.open("rb") as file:
        for column in range(group.num_columns):
            chunk = group.column(column)
            file.seek(chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset)
            if _carries_crc(file.read(32) + bytes(32)):
                return True
    return False


def _carries_crc(header: bytes) -> bool:
    """Whether a page's header holds a checksum: its fields are the kind, two sizes, and then the CRC if there is one.

    Source: ``PageHeader`` of parquet.thrift, in Thrift's compact protocol.
    """
    place = 0
    for _ in ("kind", "size", "compressed size"):
        if header[place] != _INTEGER_FIELD:
            return False
        place += 1
        while header[place] & 0x80:  # a varint ends with a byte below 128
            place += 1
        place += 1
    return header[place] == _INTEGER_FIELD
