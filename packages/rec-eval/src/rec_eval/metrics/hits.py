"""The ranks of the relevant items in the recommended lists, which all accuracy metrics are computed from.

Relevant items are few and hits are fewer, so each metric is a sum over a short list of (user, rank) pairs.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from rec_eval.checks import as_integers, check_offsets

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Relevant: TypeAlias = Any
"""``[U]`` ids, one per user, or a pair (offsets ``[U + 1]``, items ``[nnz]``); arrays or tensors."""

_CELLS_PER_BLOCK = 1 << 22


class Hits(NamedTuple):
    """Hits in order of user, then rank."""

    users: Ints
    """``[H]`` row of the user."""
    ranks: Ints
    """``[H]`` rank in the list, from 1."""
    ordinals: Ints
    """``[H]`` 1 for a user's first hit, 2 for the second, and so on."""
    relevant: Ints
    """``[U]`` number of distinct relevant items of each user."""
    outside: int
    """Relevant items outside the catalogue, which no list can contain."""


def check_recommended(recommended: Any, num_items: int | None) -> npt.NDArray[Any]:
    """Check recommended lists ``[U, K]``, -1 for an empty place, and return them as an array, in their dtype.

    Raises:
        ValueError: not integers in two dimensions, an id below -1 or outside the catalogue, or an item twice in one
            list.
    """
    array = as_integers("recommended", recommended, 2)
    if array.size == 0:
        raise ValueError(f"recommended is empty: its shape is {array.shape}")
    if array.min() < -1 or (num_items is not None and array.max() >= num_items):
        limit = "V" if num_items is None else num_items
        raise ValueError(
            f"recommended ids must lie in [0, {limit}), or be -1 for an empty place; "
            f"got ids from {array.min()} to {array.max()}"
        )
    narrow = np.int32 if array.max() <= np.iinfo(np.int32).max else np.int64  # numpy sorts int32 twice as fast as int64
    for rows in user_blocks(*array.shape):
        ordered = np.sort(array[rows].astype(narrow), axis=1)
        repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if repeated.any():
            row, column = np.argwhere(repeated)[0]
            item = ordered[row, column]
            raise ValueError(f"recommended holds item {item} twice in the list of row {rows.start + row}")
    return array


def check_cutoffs(ks: Sequence[int], lists: npt.NDArray[Any]) -> tuple[int, ...]:
    """The distinct cutoffs in ascending order; a ValueError says if one is below 1 or above the length of the lists."""
    cuts = tuple(sorted(set(ks)))
    if not cuts or cuts[0] < 1 or cuts[-1] > lists.shape[1]:
        raise ValueError(f"ks must lie between 1 and the {lists.shape[1]} places of the lists, got {list(ks)}")
    return cuts


def user_blocks(num_users: int, length: int) -> list[slice]:
    """Divide users with lists of ``length`` places into blocks of a few million places, to bound temporary memory."""
    step = max(1, _CELLS_PER_BLOCK // max(length, 1))
    return [slice(start, min(start + step, num_users)) for start in range(0, num_users, step)]


def added_places(
    lists: npt.NDArray[Any], ks: Sequence[int]
) -> Iterator[tuple[int, list[tuple[slice, npt.NDArray[Any]]]]]:
    """For each of the ascending cutoffs, the places that it adds to the one before: blocks of users and their ids."""
    done = 0
    for k in ks:
        yield k, [(rows, lists[rows, done:k]) for rows in user_blocks(len(lists), k - done)]
        done = k


def find_hits(recommended: npt.NDArray[Any], relevant: Relevant, num_items: int | None) -> Hits:
    """Find the relevant items in checked lists ``[U, K]``; repetitions in a row of ``relevant`` count once.

    Raises:
        ValueError: the rows do not fit the users, or a relevant id is negative.
    """
    num_users = recommended.shape[0]
    if isinstance(relevant, tuple | list) and len(relevant) == 2 and np.ndim(relevant[0]) == 1:
        offsets = as_integers("relevant offsets", relevant[0], 1).astype(np.int64)
        items = as_integers("relevant items", relevant[1], 1).astype(np.int64)
        check_offsets("relevant offsets", offsets, items.size)
        if offsets.size != num_users + 1:
            raise ValueError(f"relevant offsets must be users + 1 = {num_users + 1} numbers, got {offsets.size}")
        users, items = _distinct(np.repeat(np.arange(num_users), np.diff(offsets)), items)
    else:
        items = as_integers("relevant", relevant, 1).astype(np.int64)
        if items.shape != (num_users,):
            raise ValueError(f"relevant must hold one item for each of the {num_users} users, got {items.shape[0]}")
        users = np.arange(num_users)
    if items.size and items.min() < 0:
        raise ValueError(
            f"relevant ids must not be negative, got {items.min()}; use an empty row for a user without any"
        )
    return _hits(recommended, users, items, num_items)


def _distinct(users: Ints, items: Ints) -> tuple[Ints, Ints]:
    """The distinct (user, item) pairs, in order of user, then item."""
    order = np.lexsort((items, users))
    users, items = users[order], items[order]
    first = np.ones(items.size, dtype=bool)
    first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    return users[first], items[first]


def _hits(recommended: npt.NDArray[Any], users: Ints, items: Ints, num_items: int | None) -> Hits:
    """Search each relevant item in the list of its user."""
    num_users, length = recommended.shape
    ranks = np.zeros(users.size, dtype=np.int64)  # 0: not in the list
    for rows in user_blocks(users.size, length):
        # With one relevant item per user, the usual case, the lists are a slice and need no gather.
        block = users[rows]
        dense = block[-1] - block[0] == block.size - 1 and (np.diff(block) == 1).all()
        lists = recommended[block[0] : block[-1] + 1] if dense else recommended[block]
        found = lists == items[rows, None]  # [b, K]
        column = found.argmax(axis=1)
        ranks[rows] = np.where(found[np.arange(block.size), column], column + 1, 0)
    hit = ranks > 0
    hit_users, hit_ranks = users[hit], ranks[hit]
    order = np.lexsort((hit_ranks, hit_users))
    hit_users, hit_ranks = hit_users[order], hit_ranks[order]
    per_user = np.bincount(hit_users, minlength=num_users)
    ordinals = np.arange(hit_users.size) - (np.cumsum(per_user) - per_user)[hit_users] + 1
    outside = 0 if num_items is None else int((items >= num_items).sum())
    return Hits(hit_users, hit_ranks, ordinals, np.bincount(users, minlength=num_users), outside)
