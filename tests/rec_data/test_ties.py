"""Ties of a sorted log against a slow count, and their order."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec_data import ties
from rec_data.ties import hash_each, resolve_ties


def resolve(rows, seed, users=6):
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    offsets = np.searchsorted([user for user, _, _ in rows], np.arange(users + 1))
    items, times = np.array([row[1] for row in rows], np.int32), np.array([row[2] for row in rows], np.int64)
    names, catalogue = pa.array([f"user {user}" for user in range(users)]), pa.array(range(100, 110))
    found, counts = resolve_ties(items, offsets, times, users=names, catalogue=catalogue, seed=seed)
    return [(row[0], item, row[2]) for row, item in zip(rows, found.tolist(), strict=True)], counts


few = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(few, st.sampled_from([None, 0, 2**63 - 1]), st.integers(1, 12), st.randoms(use_true_random=False))
def test_counts_and_order(rows, seed, block, random):
    copies = Counter(rows)
    baskets = Counter((user, time) for user, _, time in copies)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ties, "_BLOCK", block)
        ordered, counts = resolve(rows, seed)
        assert counts.duplicates == len(rows) - len(copies)
        assert counts.tied == sum(baskets[user, time] > 1 for user, _, time in rows)
        assert counts.copies == min(copies.values())
        assert Counter(ordered) == copies
        by_time = sorted(rows, key=lambda row: (row[0], row[2]))
        if seed is None:
            assert ordered == by_time
        else:
            random.shuffle(rows)
            assert resolve(rows, seed) == (ordered, counts)


def test_ranks_that_one_key_cannot_tell_apart_are_compared_in_full(monkeypatch):
    monkeypatch.setattr(ties, "mix", lambda values: values)  # small hashes: equal in the upper bits
    rows = [(0, item, 5) for item in (3, 1, 2, 1)]
    ordered, counts = resolve(rows, seed=0)
    assert resolve(rows[::-1], seed=0) == (ordered, counts)
    assert counts.duplicates == 1


def test_ids_have_hashes_of_their_own_whatever_block_they_are_in(monkeypatch):
    words = ["", "a", "b", "ab", "ba", "a" * 300, "\0", "\0\0", "ä", *map(str, range(5000))]
    found = hash_each(pa.array(words))
    assert len(set(found.tolist())) == len(words)
    monkeypatch.setattr(ties, "_BLOCK", 7)
    assert np.array_equal(hash_each(pa.array(words, pa.large_string())), found)
    assert np.array_equal(hash_each(pa.array(words)[4:20]), found[4:20])
    integers = pa.array([-(2**63), -1, 0, 1, 2**63 - 1])
    assert len(set(hash_each(integers).tolist())) == 5
    assert hash_each(pa.array([-1], pa.int8())) == hash_each(integers)[1]  # of whatever width
    assert hash_each(pa.array([2**64 - 1], pa.uint64())).dtype == np.uint64
    ones = np.bitwise_count(found).mean()
    assert 31.5 < ones < 32.5  # of 64 bits, standard error 4 / sqrt(5009) = 0.06
