"""Verification of parquet files before use: polars ignores the checksums of their pages.

A page may carry the CRC-32 of its bytes. Without a checksum, flipped bytes that still decode stay unnoticed.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rec_data.errors import DataError
from rec_data.progress import progress

BATCH_ROWS = 1 << 18
"""Rows decoded at a time."""


def check_pages(paths: Sequence[Path], columns: Sequence[str] | None = None) -> None:
    """Decode columns of parquet files once and compare the checksums of their pages, where pages carry them.

    All columns are checked by default; names that a file lacks are ignored.

    Raises:
        DataError: A file is not parquet, a page does not decode, or its bytes differ from its checksum.
    """
    for path in paths:
        try:
            with (
                pq.ParquetFile(path, page_checksum_verification=True) as file,
                progress(f"check {path.name}", file.metadata.num_rows, "rows") as bar,
            ):
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                    bar.update(len(batch))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error
