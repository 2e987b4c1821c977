"""Blockwise operations equal the plain ones, also where blocks end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_data import arrays


@pytest.mark.parametrize("rows", [0, 1, 6, 7, 8, 50])
def test_blocks_cover(monkeypatch, rows):
    monkeypatch.setattr(arrays, "BLOCK", 7)
    ids = np.random.default_rng(rows).integers(0, 5, rows).astype(np.int32)
    table = np.arange(10, 15)
    np.testing.assert_array_equal(arrays.lookup(table, ids), table[ids])
    np.testing.assert_array_equal(arrays.count(ids, 6), np.bincount(ids, minlength=6))
    assert arrays.mark(ids, 6).tolist() == [item in ids for item in range(6)]


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=4), max_size=6))
def test_segments(segments):
    offsets = np.cumsum([0, *map(len, segments)])
    mask = np.array([flag for segment in segments for flag in segment], dtype=bool)
    assert arrays.count_rows(mask, offsets).tolist() == [sum(segment) for segment in segments]
    flags = np.array([len(segment) > 2 for segment in segments], dtype=bool)
    assert arrays.spread(flags, offsets).tolist() == [len(segment) > 2 for segment in segments for _ in segment]


def test_chunks_count_beyond_32_bits():
    offsets = np.array([0, 2, 3 * 2**31, 3 * 2**31 + 1, 3 * 2**31 + 2])
    assert list(arrays.chunks(offsets, 4_000_000)) == [slice(0, 1), slice(1, 2), slice(2, 4)]
