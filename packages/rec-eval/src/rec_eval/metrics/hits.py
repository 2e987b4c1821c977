"""The ranks of the relevant items in the recommended lists, which all accuracy metrics are computed from.

Relevant items are few and hits are fewer, so each metric is a sum over a short list of (user, rank) pairs.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

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


def as_integers(name: str, values: Any, ndim: int) -> npt.NDArray[Any]:
    """Convert an array or tensor to a numpy array of integers, without a copy if it is on the CPU.

    Args:
        name: name of the values, for messages.
        values: an array, or a tensor on any device.
        ndim: required number of dimensions.

    Raises:
        ValueError: another type of values, or another number of dimensions.
    """
    array = np.asarray(values.cpu() if hasattr(values, "cpu") else values)
    if array.ndim != ndim or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers in {ndim} dimension(s), got {array.dtype} of shape {array.shape}")
    return array


def check_recommended(recommended: Any, num_items: int | None) -> npt.NDArray[Any]:
    """Check recommended lists.

    Args:
        recommended: ``[U, K]`` integer ids, -1 for an empty place.
        num_items: V, or None if unknown.

    Returns:
        The lists as an array, in their dtype.

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
    for start, end in user_blocks(*array.shape):
        ordered = np.sort(array[start:end].astype(narrow), axis=1)
        repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if repeated.any():
            row, column = np.argwhere(repeated)[0]
            raise ValueError(f"recommended holds item {ordered[row, column]} twice in the list of row {start + row}")
    return array


def user_blocks(num_users: int, length: int) -> list[tuple[int, int]]:
    """Divide users with lists of ``length`` places into ranges (first, one past the last) of a few million places.

    This bounds temporary memory.
    """
    step = max(1, _CELLS_PER_BLOCK // max(length, 1))
    return [(start, min(start + step, num_users)) for start in range(0, num_users, step)]


def find_hits(recommended: npt.NDArray[Any], relevant: Relevant, num_items: int | None) -> Hits:
    """Find the relevant items in checked lists ``[U, K]``.

    Args:
        recommended: what ``check_recommended`` returned.
        relevant: one item per user, or ragged rows; repetitions in a row count once.
        num_items: V, or None if unknown.

    Raises:
        ValueError: the rows do not fit the users, or a relevant id is negative.
    """
    num_users = recommended.shape[0]
    if isinstance(relevant, tuple | list) and len(relevant) == 2 and np.ndim(relevant[0]) == 1:
        users, items = _pairs(relevant[0], relevant[1], num_users)
    else:
        items = as_integers("relevant", relevant, 1)
        if items.shape != (num_users,):
            raise ValueError(f"relevant must hold one item for each of the {num_users} users, got {items.shape[0]}")
        _refuse_negative(items)
        users, items = np.arange(num_users), items.astype(np.int64)
    return _hits(recommended, users, items, num_items)


def _refuse_negative(items: npt.NDArray[Any]) -> None:
    if items.size and items.min() < 0:
        raise ValueError(
            f"relevant ids must not be negative, got {items.min()}; use an empty row for a user without any"
        )


def _pairs(offsets: Any, items: Any, num_users: int) -> tuple[Ints, Ints]:
    """Find the distinct (user, item) pairs of ragged rows, in order of user, then item."""
    offsets = as_integers("relevant offsets", offsets, 1).astype(np.int64)
    items = as_integers("relevant items", items, 1)
    lengths = np.diff(offsets)
    if offsets.shape != (num_users + 1,) or offsets[0] != 0 or offsets[-1] != items.size or (lengths < 0).any():
        raise ValueError(
            f"relevant offsets must be users + 1 = {num_users + 1} numbers ascending from 0 to the {items.size} items, "
            f"got {offsets.size} numbers"
        )
    _refuse_negative(items)
    users = np.repeat(np.arange(num_users), lengths)
    order = np.lexsort((items, users))
    users, items = users[order], items[order].astype(np.int64)
    first = np.ones(items.size, dtype=bool)
    first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    return users[first], items[first]


def _hits(recommended: npt.NDArray[Any], users: Ints, items: Ints, num_items: int | None) -> Hits:
    """Search each relevant item in the list of its user."""
    num_users, length = recommended.shape
    ranks = np.zeros(users.size, dtype=np.int64)  # 0: not in the list
    for start, end in user_blocks(users.size, length):
        # With one relevant item per user, the usual case, the rows are a slice and need no gather.
        block = users[start:end]
        dense = block[-1] - block[0] == block.size - 1 and (np.diff(block) == 1).all()
        lists = recommended[block[0] : block[-1] + 1] if dense else recommended[block]
        found = lists == items[start:end, None]  # [b, K]
        column = found.argmax(axis=1)
        ranks[start:end] = np.where(found[np.arange(end - start), column], column + 1, 0)
    hit = ranks > 0
    hit_users, hit_ranks = users[hit], ranks[hit]
    order = np.lexsort((hit_ranks, hit_users))
    hit_users, hit_ranks = hit_users[order], hit_ranks[order]
    per_user = np.bincount(hit_users, minlength=num_users)
    ordinals = np.arange(hit_users.size) - (np.cumsum(per_user) - per_user)[hit_users] + 1
    outside = 0 if num_items is None else int((items >= num_items).sum())
    return Hits(hit_users, hit_ranks, ordinals, np.bincount(users, minlength=num_users), outside)
