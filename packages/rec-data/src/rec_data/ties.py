"""Events of a user with equal times: how many there are, and in which order they are put.

Shuffled ties follow a hash of (seed, user, item). Their order depends neither on the order of rows nor on which other
users and items the log holds. Needs numpy and pyarrow only.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rec_data import arrays
from rec_data.arrays import Int32s, Int64s

UInt64s = npt.NDArray[np.uint64]

_BLOCK = 1 << 18
GOLDEN = 0x9E3779B97F4A7C15
_BASE = np.uint64(0xD1342543DE82EF95)
"""Odd, so that no power of it is 0 modulo 2^64."""


class Ties(NamedTuple):
    """How many events of a log have no order of their own, and how many occur more than once."""

    tied: int
    """Events that share user and time with an event on another item."""
    duplicates: int
    """Events that repeat the user, item and time of another one, the first of each not counted."""
    copies: int
    """How often each event occurs at least: 1, unless the whole log consists of duplicates."""


def resolve_ties(
    items: Int32s, offsets: Int64s, times: Int64s, *, users: pa.Array, catalogue: pa.Array, seed: int | None
) -> tuple[Int32s, Ties]:
    """Order events with equal times, and count them.

    Args:
        items: ``[n]`` dense items, sorted by user, then by time.
        offsets: ``[users + 1]``; the events of user ``u`` are ``offsets[u]`` to ``offsets[u + 1] - 1``.
        times: ``[n]``.
        users: ``[users]`` original ids, integers or strings.
        catalogue: ``[V]`` original ids of the dense items, integers or strings.
        seed: Seed of the order of events with equal times; None keeps their order.

    Returns:
        ``[n]`` the ordered items (``items`` itself if nothing moves), and the counts.
    """
    tied, duplicates, copies = 0, 0, len(items)
    keys: tuple[UInt64s, UInt64s] | None = None
    for chunk in arrays.chunks(offsets, _BLOCK):
        begin, end = int(offsets[chunk.start]), int(offsets[chunk.stop])
        if begin == end:
            continue
        again = np.zeros(end - begin + 1, dtype=bool)  # whether an event has the user and the time of the one before it
        np.equal(times[begin + 1 : end], times[begin : end - 1], out=again[1 : end - begin])
        again[offsets[chunk] - begin] = False
        rows = np.flatnonzero(again[:-1] | again[1:])
        if len(rows) < end - begin:
            copies = 1
        if len(rows) == 0:
            continue
        groups, found = np.cumsum(~again[rows]), items[begin + rows]
        if seed is None:
            ranks = mix(found.astype(np.uint64))  # only to bring duplicates together
        else:
            if keys is None:
                keys = mix(hash_each(users) + np.uint64(seed * GOLDEN % 2**64)), hash_each(catalogue)
                items = items.copy()
            per_user = np.diff(np.searchsorted(rows, offsets[chunk.start : chunk.stop + 1] - begin))
            ranks = mix(np.repeat(keys[0][chunk], per_user) ^ keys[1][found])
        found = found[_order(groups, ranks, found)]  # the groups are sorted already
        if seed is not None:
            items[begin + rows] = found
        changes = (found[1:] != found[:-1]) | (groups[1:] != groups[:-1])
        runs = np.flatnonzero(np.append(True, changes))  # equal events stand together
        lengths = np.diff(runs, append=len(rows))
        beside = np.diff(groups[runs]) == 0  # whether the next run has the same user and time
        tied += int(lengths[np.append(beside, False) | np.append(False, beside)].sum())
        duplicates += len(rows) - len(runs)
        copies = min(copies, int(lengths.min()))
    return items, Ties(tied, duplicates, copies)


def _order(groups: Int64s, ranks: UInt64s, items: Int32s) -> Int64s:
    """Sort by group, then by rank: by one key of 64 bits, unless the bits that it lacks tell two items apart."""
    bits = np.uint64(int(groups[-1]).bit_length())
    keys = (groups.astype(np.uint64) << (np.uint64(64) - bits)) | (ranks >> bits)
    order: Int64s = np.argsort(keys)
    same, ordered = np.diff(keys[order]) == 0, items[order]
    if (same & (ordered[1:] != ordered[:-1])).any():
        order = np.lexsort((ranks, groups))
    return order


def hash_each(names: pa.Array) -> UInt64s:
    """Hash ``[n]`` original ids, integers or strings, to ``[n]`` 64 bits, the same on every machine."""
    if pa.types.is_integer(names.type):
        return mix(np.from_dlpack(names).astype(np.uint64))  # to_numpy would import pandas
    text = names.cast(pa.large_binary())
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    data = np.frombuffer(text.buffers()[2], np.uint8)
    lengths = np.diff(offsets)
    powers = np.cumprod(np.full(int(lengths.max(initial=0)), _BASE))
    hashes = np.zeros(len(text), np.uint64)
    for chunk in arrays.chunks(offsets, _BLOCK):
        starts, begin, end = offsets[chunk], int(offsets[chunk.start]), int(offsets[chunk.stop])
        places = np.arange(begin, end) - np.repeat(starts, lengths[chunk])
        terms = powers[places] * (data[begin:end] + np.uint64(1))  # modulo 2^64
        filled = lengths[chunk] > 0
        if filled.any():
            hashes[chunk][filled] = np.add.reduceat(terms, (starts - begin)[filled])
    return mix(hashes)


def mix(values: UInt64s) -> UInt64s:
    """The output function of SplitMix64 (Steele, Lea and Flood, 2014): a bijection that changes half of the bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
