"""Bytes of a parquet that changed after it was written, where its pages carry checksums."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rec_data.config import Columns
from rec_data.errors import DataError
from rec_data.raw.files import check_pages
from rec_data.raw.history_files import write_history_log
from rec_data.sources.fetch import fetch_log

NAMES = ("user_id", "item_id", "timestamp")


def write(path, **options):
    """A log of 6,000 rows, beside a column that nobody asks for."""
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, 10**9, 6000) for name in NAMES}
    pq.write_table(pa.table({**columns, "other": rng.random(6000)}), path, use_dictionary=False, **options)
    return path


def flip(path, column):
    """Flips bits of the middle of a column's only page."""
    chunk = pq.read_metadata(path).row_group(0).column(column)
    content = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    for place in range(middle, middle + 100):
        content[place] ^= 0x5A
    path.write_bytes(content)


@pytest.mark.parametrize("options", [{}, {"data_page_version": "2.0"}, {"compression": "none"}])
def test_flipped_bytes_are_refused(tmp_path, options):
    path = write(tmp_path / "raw.parquet", write_page_checksum=True, **options)
    fetch_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path)
    flip(path, 0)
    with pytest.raises(DataError, match=r"raw\.parquet cannot be read: .*CRC") as caught:
        fetch_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="CRC"):
        write_history_log("raw.parquet", tmp_path / "log.parquet", root=tmp_path, columns=Columns())


def test_only_what_is_asked_for_is_checked(tmp_path):
    path = write(tmp_path / "raw.parquet", write_page_checksum=True)
    flip(path, 3)
    check_pages([path], [*NAMES, "missing"])
    with pytest.raises(DataError, match="CRC"):
        check_pages([path], ["other"])


def test_dictionaries_are_checked_too(tmp_path):
    path = tmp_path / "raw.parquet"
    rows = {name: np.arange(6000) % 500 + 10**9 for name in NAMES}
    pq.write_table(pa.table(rows), path, compression="none", write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[pq.read_metadata(path).row_group(0).column(1).dictionary_page_offset + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        check_pages([path], NAMES)


def test_damage_without_checksums_is_found_where_it_no_longer_decodes(tmp_path):
    path = write(tmp_path / "raw.parquet")
    check_pages([path], NAMES)
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    content[start : start + 20] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"raw\.parquet cannot be read"):
        check_pages([path], NAMES)
    pq.write_table(pa.table({"user_id": pa.array([], pa.int64())}), path, write_page_checksum=True)
    check_pages([path], NAMES)
