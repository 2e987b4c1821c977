"""The two split strategies, on a log that is already encoded and sorted.

Everything here is numpy on flat arrays. Rows are sorted by user, then by time; ``rec_data.ties`` has ordered the ties.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from rec_data import arrays
from rec_data.arrays import Int32s, Int64s, Mask
from rec_data.errors import DataError


@dataclass(frozen=True)
class SortedLog:
    """Interactions sorted by user, then by time."""

    offsets: Int64s
    """``[users + 1]``; the rows of user ``u`` are ``offsets[u]`` to ``offsets[u + 1] - 1``."""
    items: Int32s
    """``[n]`` dense items of the filtered log."""
    times: Int64s
    """``[n]`` in the log's unit of time."""
    num_items: int
    """Number of items of the filtered log."""

    @property
    def num_users(self) -> int:
        """Number of users of the filtered log."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Subset:
    """Training, validation or test data: histories of some users in CSR form, and the target of each."""

    users: Int32s
    """``[n]`` users, ascending."""
    offsets: Int64s
    """``[n + 1]``."""
    items: Int32s
    """``[nnz]``."""
    times: Int64s
    """``[nnz]``."""
    targets: Int32s | None = None
    """``[n]``; None for training."""

    @property
    def lengths(self) -> Int64s:
        """``[n]`` items per history."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Partition:
    """A divided log. Users and items have the ids of the sorted log, which are not yet dense over the kept ones."""

    train: Subset
    validation: Subset
    test: Subset
    catalogue: Mask
    """``[num_items]`` the items that can be recommended."""
    boundary_time: int | None = None
    """The boundary t* of the temporal strategy."""
    untargeted: Subset | None = None
    """Only with ``paper_faithful``: inputs of users who have a future, but no past in train, so that nobody tests them."""
    dropped: dict[str, int] = field(default_factory=dict)
    """How many users or interactions were left out, by reason."""


def temporal(
    log: SortedLog, *, test_fraction: float, validation_users: float, seed: int, paper_faithful: bool = False
) -> Partition:
    """Split at one moment: interactions before it are the past, all others the future.

    Training data are the past of all users except the validation users. The last interaction of a test user is the
    target and lies in the future; the interactions before it are the input. Both contain items of train only.

    Args:
        log: The filtered log.
        test_fraction: Share of the interactions that lie in the future, in (0, 1).
        validation_users: Share of the past's users that validate, in [0, 1).
        seed: Seed of the choice of validation users.
        paper_faithful: Follow the paper's code. A user has a future if one of its items occurs anywhere in the past,
            that of validation users included; the target is the last interaction on an item of train, which may then
            lie in the past. Users who have a future but no past in train (newcomers, and validation users without an
            item of train) have inputs that Coverage and Surprisal count, and no target (``untargeted``).

    Returns:
        The partition, with ``boundary_time`` set.

    Raises:
        DataError: There is no past, or no user to train, validate or test on.
    """
    n = len(log.times)
    boundary = int(np.partition(log.times, index := min(int(n * (1 - test_fraction)), n - 1))[index])
    past = log.times < boundary
    past_counts = arrays.count_rows(past, log.offsets)
    past_users = np.flatnonzero(past_counts)
    if past_users.size == 0:
        raise DataError(
            f"split.strategy temporal: no interaction lies before t* = {boundary}, so nothing is left to train on; "
            "allowed: times that differ (or, for a file with order but without times, split.strategy leave_one_out)"
        )
    validating = np.zeros(log.num_users, dtype=bool)
    validating[_choose(past_users, validation_users, seed)] = True
    of_validating = arrays.spread(validating, log.offsets)

    train = _gather(log, past & ~of_validating)
    if train.users.size == 0:
        raise DataError(
            f"split.validation_users {validation_users:g} leaves no user to train on; allowed: a smaller share"
        )
    catalogue = arrays.mark(train.items, log.num_items)
    known = arrays.lookup(catalogue, log.items)

    validation, short = _hold_out(log, past & of_validating & known)
    trains = (past_counts > 0) & ~validating
    validates = validating
    if paper_faithful:  # validation users who have no item of train are like newcomers there
        validates = validating & (arrays.count_rows(past & known, log.offsets) > 0)
    future = ~past & ~arrays.spread(validates, log.offsets)
    usable = _known(log, past) if paper_faithful else known
    returns = arrays.count_rows(future & usable, log.offsets) > 0
    has_input = returns if paper_faithful else returns & trains
    test, short_tests = _hold_out(log, arrays.spread(has_input, log.offsets) & known)
    untargeted = None
    if paper_faithful:
        test, untargeted = _of_users(test, trains), _of_users(test, ~trains)
        untargeted = replace(untargeted, targets=None)
    if validation_users > 0 and validation.users.size == 0:
        raise DataError(
            f"split.validation_users {validation_users:g} leaves no validation user with two interactions on items of "
            f"train; allowed: a {'larger' if validation_users < 0.5 else 'smaller'} share"
        )
    if test.users.size == 0:
        if np.any((past_counts > 0) & (arrays.count_rows(~past & _known(log, past), log.offsets) > 0)):
            raise DataError(
                f"split.validation_users {validation_users:g} leaves no test user: those with interactions after "
                f"t* = {boundary} validate, or share no item with the few training users; allowed: a smaller share"
            )
        raise DataError(
            f"split.test_fraction {test_fraction:g} leaves no test user; needed: a user with interactions on items of "
            f"train both before and after t* = {boundary}"
        )
    return Partition(
        train=train,
        validation=validation,
        test=test,
        catalogue=catalogue,
        boundary_time=boundary,
        untargeted=untargeted,
        dropped={
            "validation_users_too_short": short,
            "test_users_too_short": short_tests,
            "test_users_not_in_train": int(np.count_nonzero(returns & ~trains)),
            "validation_interactions_on_unknown_items": int(np.count_nonzero(past & of_validating & ~known)),
            "future_interactions_of_validation_users": int(np.count_nonzero(~past & ~future)),
            "future_interactions_on_unknown_items": int(np.count_nonzero(future & ~usable)),
        },
    )


def leave_one_out(log: SortedLog) -> Partition:
    """Hold out each user's last two items: the last one tests, the one before validates, the others train.

    Users with fewer than three interactions only train. The catalogue holds all items of the log.

    Raises:
        DataError: No user has three interactions.
    """
    counts = np.diff(log.offsets)
    last = log.offsets[1:] - 1  # [users] row of each user's last interaction
    evaluated = counts >= 3
    if not evaluated.any():
        raise DataError("split.strategy leave_one_out: no user has three interactions, so no user can be tested")
    before_test = np.ones(len(log.items), dtype=bool)
    before_test[last[evaluated]] = False
    train_row = before_test.copy()
    train_row[last[evaluated] - 1] = False
    of_evaluated = arrays.spread(evaluated, log.offsets)
    return Partition(
        train=_gather(log, train_row),
        validation=_gather(log, train_row & of_evaluated, targets=log.items[last[evaluated] - 1]),
        test=_gather(log, before_test & of_evaluated, targets=log.items[last[evaluated]]),
        catalogue=arrays.mark(log.items, log.num_items),  # the filter of users can leave an item without rows
        dropped={"users_only_training": int(np.count_nonzero((counts > 0) & ~evaluated))},
    )


def _known(log: SortedLog, rows: Mask) -> Mask:
    """``[n]`` whether the item of each interaction occurs in these rows."""
    return arrays.lookup(arrays.mark(log.items[rows], log.num_items), log.items)


def _choose(users: Int64s, share: float, seed: int) -> Int64s:
    """Draw a share of the users: at least one, unless the share is 0."""
    if share == 0:
        return users[:0]
    size = max(1, int(len(users) * share))
    chosen: Int64s = np.random.default_rng(seed).choice(users, size=size, replace=False)
    return chosen


def _gather(log: SortedLog, rows: Mask, *, targets: Int32s | None = None) -> Subset:
    counts = arrays.count_rows(rows, log.offsets)
    users = np.flatnonzero(counts)
    offsets = np.concatenate(([0], np.cumsum(counts[users])))
    return Subset(users.astype(np.int32), offsets, log.items[rows], log.times[rows], targets)


def _hold_out(log: SortedLog, rows: Mask) -> tuple[Subset, int]:
    """Make the last of each user's rows the target. Users with one row are left out and counted."""
    counts = arrays.count_rows(rows, log.offsets)
    enough = counts >= 2
    row = np.flatnonzero(rows & arrays.spread(enough, log.offsets))
    ends = np.cumsum(counts[enough]) - 1
    inputs = np.zeros(len(rows), dtype=bool)
    inputs[row] = True
    inputs[row[ends]] = False
    return _gather(log, inputs, targets=log.items[row[ends]]), int(np.count_nonzero(counts == 1))


def _of_users(subset: Subset, chosen: Mask) -> Subset:
    """The histories and targets of some users, ``[num_users]`` marks."""
    assert subset.targets is not None
    kept = chosen[subset.users]
    rows = arrays.spread(kept, subset.offsets)
    offsets = np.concatenate(([0], np.cumsum(subset.lengths[kept])))
    return Subset(subset.users[kept], offsets, subset.items[rows], subset.times[rows], subset.targets[kept])
