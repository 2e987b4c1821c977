"""Whom lists are asked for: users of the log, or histories that the caller has."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from cutrec.errors import StageError, UnknownIdsWarning, UnknownItemsWarning, UnknownUsersWarning
from cutrec.recommending import frames
from cutrec.recommending.frames import Index
from cutrec.recommending.log_form import LogForm
from cutrec.workflow.recommend import read_file
from rec_data.arrays import Int32s, Mask
from rec_data.sequences.store import SequenceStore


class Asked(NamedTuple):
    """The users that get lists, and what is known of them."""

    users: pa.Array
    """``[n]`` distinct ids in the order of the lists."""
    store: SequenceStore
    """The histories of those who have some; ``user_ids`` are places in ``users``."""
    kind: str | None
    """The type of the ids as the caller has them, for `frames.cast_like`."""
    warnings: list[UnknownIdsWarning]
    """What could not be used."""

    @property
    def without_history(self) -> Int32s:
        """The places of the other users."""
        missing = np.ones(len(self.users), dtype=bool)
        missing[self.store.user_ids.numpy()] = False
        return np.flatnonzero(missing).astype(np.int32)


def lists(histories: Mapping[Any, Any] | Iterable[Any], items: Index) -> Asked:
    """Histories as a dict of users and lists of items, or as a list of such lists, whose users are 0, 1, 2, ...

    A pandas Series of lists, as ``groupby(...).agg(list)`` returns it, is read as a dict.

    Raises:
        StageError: a history is no list of ids.
    """
    if isinstance(histories, (str, bytes)) or not isinstance(histories, Iterable):
        allowed = "a data frame of events, or a dict or list of lists of items"
        raise StageError(f"histories: found {reprlib.repr(histories)}, allowed: {allowed}")
    if hasattr(histories, "items"):
        histories = dict(histories.items())
        given, users = list(histories.values()), frames.to_ids("users of histories", list(histories))
    else:
        given = list(histories)
        users = pa.array(range(len(given)), pa.int64())
    for row, history in enumerate(given):
        if isinstance(history, (str, bytes)) or not isinstance(history, Iterable):
            found = f"{reprlib.repr(history)} of user {users[row].as_py()!r}"
            raise StageError(f"histories: found {found}, allowed: a list of the items of each user, oldest first")
    rows = [list(history) for history in given]
    flat = frames.to_ids("histories", list(chain.from_iterable(rows)))
    places = items.find(flat)  # [events]
    user = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    lengths = np.bincount(user[places >= 0], minlength=len(rows))
    own = np.flatnonzero(lengths)
    store = SequenceStore(
        items=torch.from_numpy(places[places >= 0]),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths[own])])),
        user_ids=torch.from_numpy(own.astype(np.int32)),
    )
    unknown = unknown_items("histories", flat.filter(pa.array(places < 0)))
    return Asked(users, store, None, [*unknown, *without("histories", users, store)])


def events(frame: Any, items: Index, form: LogForm) -> Asked:
    """Histories as a frame of events, in the columns of the log; without times, events are in the order of rows.

    Raises:
        ValueError: a column is missing, or has other values than a log may have.
    """
    with form.as_histories(frame) as (path, settings):
        tie_seed = settings.tie_seed(form.config.seed)
        found, notes = read_file(
            str(path), items.names, root=path.parent, named=(), settings=settings, tie_seed=tie_seed
        )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    kind = frames.type_name(frames.to_arrow("histories", frame, [form.user]).schema.field(0).type)
    unknown = unknown_items("histories", found.unknown_items.ids)
    return Asked(found.user_names, found.store, kind, [*unknown, *without("histories", found.user_names, found.store)])


def allowed_items(candidates: Any, exclude: Any, items: Index) -> tuple[Mask | None, list[UnknownIdsWarning]]:
    """``[V]`` whether an item may be recommended, and warnings; None: all may.

    Args:
        candidates: ids of the only items; None: all.
        exclude: ids of further items that are left out; a dict, of such ids for each user, changes nothing here.
        items: those of the model.

    Raises:
        StageError: the model knows none of the candidates.
    """
    allowed, said = None, []
    if candidates is not None:
        ids = frames.to_ids("candidates", candidates)
        places = items.find(ids)
        allowed, said = items.mark(places), unknown_items("candidates", ids.filter(pa.array(places < 0)))
        if not allowed.any():
            raise StageError("candidates: found no item that the model knows, allowed: ids of its items")
    if exclude is not None and not isinstance(exclude, Mapping):
        closed = items.mark(items.find(frames.to_ids("exclude", exclude)))
        allowed = ~closed if allowed is None else allowed & ~closed
    return allowed, said


def unknown_items(what: str, ids: pa.Array) -> list[UnknownIdsWarning]:
    """One warning if there are such items."""
    if len(ids) == 0:
        return []
    unique = ids.unique()
    said = f"{what}: unknown items are skipped: {len(unique):,}: {frames.shown(unique)}"
    return [UnknownItemsWarning(said, unique.to_pylist())]


def without(what: str, users: pa.Array, store: SequenceStore, absent: int = 0) -> list[UnknownIdsWarning]:
    """One warning if some users have no history; the log lacks `absent` of them."""
    lacking = Asked(users, store, None, []).without_history
    if len(lacking) == 0:
        return []
    ids = users.take(pa.array(lacking))
    said = f"{what}: users without any item that the model knows: {len(ids):,} of {len(users):,}: {frames.shown(ids)}"
    said += f"; the log lacks {absent:,} of them" if absent else ""
    return [UnknownUsersWarning(said, ids.to_pylist())]
