"""The two splitting protocols, on a log that is already encoded and sorted.

Everything here is numpy on flat arrays: rows sorted by user, inside a user by time, ties in the order of the raw log.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rec_data.errors import DataError

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SortedLog:
    """Interactions in order of user, then time."""

    users: Int32s
    """[n] dense users of the filtered log, rising."""

    items: Int32s
    """[n] dense items of the filtered log."""

    times: Int64s
    """[n]."""

    num_users: int
    num_items: int


@dataclass(frozen=True)
class Histories:
    """Some users' histories in CSR form, and what follows each."""

    users: Int32s
    """[n] users, rising."""

    offsets: Int64s
    """[n + 1]."""

    items: Int32s
    """[nnz]."""

    times: Int64s
    """[nnz]."""

    targets: Int32s | None = None
    """[n], None for training."""

    @property
    def lengths(self) -> Int64s:
        """[n]."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Parts:
    """A split: users and items are those of the sorted log, not yet dense over what the split kept."""

    train: Histories
    validation: Histories
    test: Histories
    catalogue: Mask
    """[num_items] the items that can be recommended."""

    boundary_time: int | None = None
    """t* of the temporal protocol."""

    dropped: dict[str, int] = field(default_factory=dict)
    """What was left out, and how often, by reason."""


def temporal(log: SortedLog, *, test_fraction: float, validation_users: float, seed: int) -> Parts:
    """Cuts at one moment: before it is the past, from it on the future.

    Training sees the past of all users but the validation users. A test user's whole history (items of train only)
    ends with the target, which lies in the future; the rest is the input.

    Args:
        log: The filtered log.
        test_fraction: Share of the interactions that lie in the future, in (0, 1).
        validation_users: Share of the past's users that validate, in [0, 1).
        seed: Chooses the validation users.

    Returns:
        The parts, with ``boundary_time`` set.

    Raises:
        DataError: No past, or nobody to train on, to validate or to test.
    """
    n = len(log.times)
    boundary = int(np.partition(log.times, index := int(n * (1 - test_fraction)))[index])
    past = log.times < boundary
    past_counts = np.bincount(log.users[past], minlength=log.num_users)
    past_users = np.flatnonzero(past_counts)
    if past_users.size == 0:
        raise DataError(
            f"split.strategy temporal: no interaction lies before t* = {boundary}, so nothing is left to train on; "
            "times must differ (a file with order but no clock: split.strategy leave_one_out)"
        )
    chosen = _choose(past_users, validation_users, seed)
    validating = np.zeros(log.num_users, dtype=bool)
    validating[chosen] = True

    train_row = past & ~validating[log.users]
    catalogue = np.zeros(log.num_items, dtype=bool)
    catalogue[log.items[train_row]] = True
    known = catalogue[log.items]
    train = _gather(log, train_row)
    if train.users.size == 0:
        raise DataError(
            f"split.validation_users {validation_users:g} leaves nobody to train on; allowed: a smaller share"
        )

    validation, short = _hold_out(log, past & validating[log.users] & known)
    future = ~past & ~validating[log.users]
    returns = np.zeros(log.num_users, dtype=bool)
    returns[log.users[future & known]] = True
    newcomers = int(np.count_nonzero(returns & (past_counts == 0)))
    tested = returns & (past_counts > 0)
    test, short_tests = _hold_out(log, tested[log.users] & known)
    if validation_users > 0 and validation.users.size == 0:
        raise DataError(
            f"split.validation_users {validation_users:g} leaves no validation user with two usable interactions; "
            "allowed: a larger share, or 0 for none"
        )
    if test.users.size == 0:
        raise DataError(
            f"split.test_fraction {test_fraction:g} leaves no test user: nobody has interactions both before and after "
            f"t* = {boundary} on items of train"
        )
    return Parts(
        train=train,
        validation=validation,
        test=test,
        catalogue=catalogue,
        boundary_time=boundary,
        dropped={
            "validation_users_too_short": short,
            "test_users_too_short": short_tests,
            "test_users_not_in_train": newcomers,
            "validation_interactions_on_unknown_items": int(np.count_nonzero(past & validating[log.users] & ~known)),
            "future_interactions_of_validation_users": int(np.count_nonzero(~past & validating[log.users])),
            "future_interactions_on_unknown_items": int(np.count_nonzero(future & ~known)),
        },
    )


def leave_one_out(log: SortedLog) -> Parts:
    """Holds out each user's last two items: the last tests, the one before validates, the rest trains.

    Users with fewer than three interactions only train. The catalogue is every item of the log.

    Args:
        log: The filtered log.

    Returns:
        The parts.

    Raises:
        DataError: Nobody has three interactions.
    """
    counts = np.bincount(log.users, minlength=log.num_users)
    last = np.cumsum(counts) - 1  # [num_users] row of a user's last interaction
    evaluated = counts >= 3
    if not evaluated.any():
        raise DataError("split.strategy leave_one_out: no user has three interactions, so nobody can be tested")
    before_test = np.ones(len(log.users), dtype=bool)
    before_test[last[evaluated]] = False
    train_row = before_test.copy()
    train_row[last[evaluated] - 1] = False
    of_evaluated = evaluated[log.users]
    return Parts(
        train=_gather(log, train_row),
        validation=_gather(log, train_row & of_evaluated, targets=log.items[last[evaluated] - 1]),
        test=_gather(log, before_test & of_evaluated, targets=log.items[last[evaluated]]),
        catalogue=np.bincount(log.items, minlength=log.num_items) > 0,  # a filter of users can empty an item
        dropped={"users_only_training": int(np.count_nonzero((counts > 0) & ~evaluated))},
    )


def _choose(users: Int64s, share: float, seed: int) -> Int64s:
    """A seeded random share of the users: at least one, where the share is not 0."""
    if share == 0:
        return users[:0]
    size = max(1, int(len(users) * share))
    chosen: Int64s = np.random.default_rng(seed).choice(users, size=size, replace=False)
    return chosen


def _gather(log: SortedLog, rows: Mask, *, targets: Int32s | None = None) -> Histories:
    counts = np.bincount(log.users[rows], minlength=log.num_users)
    users = np.flatnonzero(counts)
    offsets = np.concatenate(([0], np.cumsum(counts[users])))
    return Histories(users.astype(np.int32), offsets, log.items[rows], log.times[rows], targets)


def _hold_out(log: SortedLog, rows: Mask) -> tuple[Histories, int]:
    """The last of each user's rows becomes the target. Users with one row are left out, and counted."""
    counts = np.bincount(log.users[rows], minlength=log.num_users)
    enough = counts >= 2
    row = np.flatnonzero(rows & enough[log.users])
    ends = np.cumsum(counts[enough]) - 1
    inputs = np.zeros(len(rows), dtype=bool)
    inputs[row] = True
    inputs[row[ends]] = False
    return _gather(log, inputs, targets=log.items[row[ends]]), int(np.count_nonzero(counts == 1))
