"""The hash of user ids, and the division of a log by it."""

import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rec_data.errors import DataError
from rec_data.sequences import parts
from rec_data.sequences.parts import Part, count_rows, hash_ids_of, write_chunks


def test_the_hash_is_the_crc32_of_the_text_and_of_nothing_else():
    assert hash_ids_of(pa.array(["123456789"])).tolist() == [0xCBF43926]  # the check value of CRC-32/ISO-HDLC
    ids = ["", "ann", "Zoë", "日本", "-7", "42", "ann"]
    expected = [zlib.crc32(text.encode()) for text in ids]
    for kind in (pa.string(), pa.large_string()):
        assert hash_ids_of(pa.array(ids, kind)).tolist() == expected
        assert hash_ids_of(pa.chunked_array([ids[:3], [], ids[3:]], kind)).tolist() == expected
    for kind in (pa.int8(), pa.int64()):
        assert hash_ids_of(pa.array([-7, 42], kind)).tolist() == expected[4:6]
    assert hash_ids_of(pa.array([2**64 - 1], pa.uint64())).tolist() == [zlib.crc32(b"18446744073709551615")]


def test_sequential_ids_spread_evenly():
    """Within five standard deviations of a binomial distribution, for the parts and for the chunks of one."""
    ids = pa.array(np.arange(100_000))
    for n in (2, 7, 64, 100):
        hashes = hash_ids_of(ids)
        for numbers in (hashes % n, hashes // n % n):
            counts = np.bincount(numbers, minlength=n)
            assert np.abs(counts - 1e5 / n).max() < 5 * np.sqrt(1e5 / n)


def test_chunks_hold_every_event_once_in_the_order_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "_ROWS", 7)
    random = np.random.default_rng(0)
    log = pl.DataFrame({"rating": np.ones(100), "timestamp": np.arange(100), "user_id": random.integers(0, 20, 100)})
    log = log.with_columns(pl.format("item {}", pl.col("timestamp") % 9).alias("item_id"))
    log.write_parquet(tmp_path / "log.parquet", row_group_size=30)
    assert count_rows(tmp_path / "log.parquet") == 100
    found = []
    for number in (1, 2, 3):
        out = tmp_path / str(number)
        out.mkdir()
        for path in write_chunks(tmp_path / "log.parquet", Part(number, 3), out, of=2, wanted=[1, 2]).values():
            rows = pl.read_parquet(path)
            assert rows.columns == parts.COLUMNS
            assert rows["timestamp"].is_sorted()
            found.append(rows)
    assert pl.concat(found).sort("timestamp").equals(log.select(parts.COLUMNS).sort("timestamp"))
    users = [set(rows["user_id"]) for rows in found]
    assert sum(map(len, users)) == len(set.union(*users))


def test_a_log_that_cannot_be_divided_is_refused(tmp_path: Path):
    log = tmp_path / "log.parquet"
    with pytest.raises(DataError, match=r"^no log"):
        count_rows(log)
    log.write_text("x")
    with pytest.raises(DataError, match=r"^log .* cannot be read: [^\n]+$"):
        count_rows(log)
    pq.write_table(pa.table({"user_id": [1], "item_id": [2]}), log)
    with pytest.raises(DataError, match=r"^log .* has no column 'timestamp'$"):
        write_chunks(log, Part(1, 2), tmp_path, of=1, wanted=[1])


def test_a_log_that_is_divided_is_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(1).integers(0, 2**62, 400_000)  # do not compress: 3.2 MB per column
    log = tmp_path / "log.parquet"
    pq.write_table(pa.table([values] * 3, names=parts.COLUMNS), log, row_group_size=4_000, use_dictionary=False)
    assert log.stat().st_size > 9e6
    monkeypatch.setattr(parts, "_ROWS", 4_000)
    used = []

    def hashes(users: pa.Array) -> np.ndarray:
        used.append(pa.total_allocated_bytes())
        return hash_ids_of(users)

    monkeypatch.setattr(parts, "hash_ids_of", hashes)
    before = pa.total_allocated_bytes()
    write_chunks(log, Part(1, 2), tmp_path, of=1_000, wanted=[1])
    assert len(used) == 100
    assert max(used) - before < 3e6
