"""Lists under restrictions: candidates, exclusions, and the most popular items for users without a history."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor

from cutrec.errors import StageError
from cutrec.recommending import frames
from cutrec.recommending.asked import Asked
from cutrec.recommending.frames import Index
from cutrec.workflow.recommendations import FindTopK, ranked_batches
from rec_data.arrays import Int32s, Int64s, Mask
from rec_data.schema import COUNT
from rec_eval import Catalogue, popularity_top_k, top_k
from rec_models.encoders import Encoder


class Lists(NamedTuple):
    """The lists of all users that are asked for."""

    ids: Int64s
    """``[users, k]`` dense items, -1 in empty places."""
    scores: npt.NDArray[np.float32]
    """``[users, k]``."""


class Excluded(NamedTuple):
    """Items that must not be recommended to single users."""

    users: Int64s
    """``[n]`` places of users among those asked for."""
    items: Int64s
    """``[n]`` dense items."""


def excluded(asked: Asked, exclude: Mapping[Any, Any], items: Index) -> Excluded:
    """Find the users and items of a dict of items for each user; users that nobody asked for are passed over.

    Raises:
        StageError: an id is none.
    """
    rows = Index(asked.users).find(frames.to_ids("users of exclude", list(exclude)))
    of_users = [np.empty(0, np.int64)]
    of_items = [np.empty(0, np.int64)]
    for row, ids in zip(rows.tolist(), exclude.values(), strict=True):
        if row >= 0:
            places = items.find(frames.to_ids("exclude", ids))
            of_items.append(places[places >= 0].astype(np.int64))
            of_users.append(np.full(len(of_items[-1]), row))
    return Excluded(np.concatenate(of_users), np.concatenate(of_items))


def rank(
    encoder: Encoder,
    catalogue: Catalogue,
    asked: Asked,
    k: int,
    *,
    batch_users: int,
    filter_seen: bool,
    excluded: Excluded | None,
    find: FindTopK = top_k,
) -> Lists:
    """The lists of those who have a history; those of the others stay empty.

    Args:
        encoder: in eval mode.
        catalogue: the items that may be recommended.
        asked: the users.
        k: items per user.
        batch_users: users per batch.
        filter_seen: leave a user's own items out.
        excluded: further items that are left out, of single users.
        find: as of `ranked_batches`.
    """
    hidden, store = None, asked.store
    if excluded is not None:
        rows = np.full(len(asked.users), -1)
        rows[store.user_ids.numpy()] = np.arange(len(store))
        users = rows[excluded.users]
        users, items = users[users >= 0], excluded.items[users >= 0]
        if filter_seen:
            seen = np.repeat(np.arange(len(store)), store.lengths.numpy())
            users, items = np.concatenate([seen, users]), np.concatenate([store.items.numpy(), items])
        hidden = _in_rows(users, items, len(store))
    batches = ranked_batches(
        encoder,
        store,
        k,
        batch_users=batch_users,
        filter_seen=filter_seen and hidden is None,
        title="recommend",
        catalogue=catalogue,
        hidden=hidden,
        find=find,
    )
    shape = (len(asked.users), k)
    lists = Lists(np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32))
    for users_of_batch, found in batches:
        lists.ids[users_of_batch.numpy()] = found.ids.cpu().numpy()
        lists.scores[users_of_batch.numpy()] = found.scores.cpu().numpy()
    return lists


def read_counts(items: Path) -> Int64s:
    """The events ``[V]`` of each item in training, from an ``items.parquet``.

    Raises:
        StageError: it has none.
    """
    with pq.ParquetFile(items) as file:
        table = file.read()
    if COUNT not in table.column_names:
        raise StageError(f"fallback: found no counts in {items}, allowed: a model of fit or of the train stage")
    return np.asarray(table[COUNT])


def fill_by_popularity(lists: Lists, counts: Int64s, users: Int32s, allowed: Mask, excluded: Excluded | None) -> None:
    """Write the most popular of the allowed items into the lists of users, with their counts as scores.

    Args:
        lists: are changed.
        counts: ``[V]`` events of each item in training.
        users: ``[m]`` places of users without a history.
        allowed: ``[V]`` bool, the items that may be recommended.
        excluded: further items that are left out, of single users.
    """
    kept = np.flatnonzero(allowed)  # [c]
    if len(users) == 0 or len(kept) == 0:
        return
    seen = {}
    if excluded is not None:
        rows, columns = np.full(len(lists.ids), -1), np.full(len(allowed), -1)
        rows[users], columns[kept] = np.arange(len(users)), np.arange(len(kept))
        of_users, items = rows[excluded.users], columns[excluded.items]
        both = (of_users >= 0) & (items >= 0)
        offsets, hidden = _in_rows(of_users[both], items[both], len(users))
        seen = {"seen_offsets": offsets, "seen_items": hidden}
    found = popularity_top_k(torch.from_numpy(counts[kept]), lists.ids.shape[1], num_users=len(users), **seen)
    ids = found.ids.numpy()
    lists.ids[users] = np.where(ids >= 0, kept[ids], -1)
    lists.scores[users] = found.scores.numpy()


def _in_rows(rows: Int64s, items: Int64s, num_rows: int) -> tuple[Tensor, Tensor]:
    """Items ``[n]`` of rows ``[n]`` in any order, as offsets ``[num_rows + 1]`` and the items row by row."""
    order = np.argsort(rows, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_rows))])
    return torch.from_numpy(offsets), torch.from_numpy(items[order])
