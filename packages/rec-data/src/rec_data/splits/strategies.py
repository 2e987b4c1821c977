"""The two splitting protocols, on a log that is already encoded and sorted.

Everything here is numpy on flat arrays: rows sorted by user, inside a user by time, ties in the order of the raw log.
"""

from dataclasses import dataclass, field

import numpy as np

from rec_data import arrays as flat
from rec_data.arrays import Int32s, Int64s, Mask
from rec_data.errors import DataError


@dataclass(frozen=True)
class SortedLog:
    """Interactions in order of user, then time."""

    offsets: Int64s
    """[users + 1]; the rows of user ``u`` are ``offsets[u]`` to ``offsets[u + 1] - 1``."""

    items: Int32s
    """[n] dense items of the filtered log."""

    times: Int64s
    """[n]."""

    num_items: int
    """Items of the filtered log."""

    @property
    def num_users(self) -> int:
        """Users of the filtered log."""
        return len(self.offsets) - 1


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

    untargeted: Histories | None = None
    """``paper_faithful`` only: inputs of test users whose target training never saw, so that they are not tested."""

    dropped: dict[str, int] = field(default_factory=dict)
    """What was left out, and how often, by reason."""


def temporal(
    log: SortedLog, *, test_fraction: float, validation_users: float, seed: int, paper_faithful: bool = False
) -> Parts:
    """Cuts at one moment: before it is the past, from it on the future.

    Training sees the past of all users but the validation users. A test user's whole history (items of train only)
    ends with the target, which lies in the future; the rest is the input.

    Args:
        log: The filtered log.
        test_fraction: Share of the interactions that lie in the future, in (0, 1).
        validation_users: Share of the past's users that validate, in [0, 1).
        seed: Chooses the validation users.
        paper_faithful: As the paper's code does: future events stay if their item is known in the whole past,
            validation users included. A test user whose last item train does not know is not tested (``untargeted``).

    Returns:
        The parts, with ``boundary_time`` set.

    Raises:
        DataError: No past, or nobody to train on, to validate or to test.
    """
    n = len(log.times)
    boundary = int(np.partition(log.times, index := min(int(n * (1 - test_fraction)), n - 1))[index])
    past = log.times < boundary
    past_counts = flat.count_rows(past, log.offsets)
    past_users = np.flatnonzero(past_counts)
    if past_users.size == 0:
        raise DataError(
            f"split.strategy temporal: no interaction lies before t* = {boundary}, so nothing is left to train on; "
            "times must differ (a file with order but no clock: split.strategy leave_one_out)"
        )
    validating = np.zeros(log.num_users, dtype=bool)
    validating[_choose(past_users, validation_users, seed)] = True
    of_validating = flat.spread(validating, log.offsets)

    train = _gather(log, past & ~of_validating)
    if train.users.size == 0:
        raise DataError(
            f"split.validation_users {validation_users:g} leaves nobody to train on; allowed: a smaller share"
        )
    catalogue = flat.mark(train.items, log.num_items)
    known = flat.lookup(catalogue, log.items)

    validation, short = _hold_out(log, past & of_validating & known)
    future = ~past & ~of_validating
    usable = _known(log, past) if paper_faithful else known
    returns = flat.count_rows(future & usable, log.offsets) > 0
    newcomers = int(np.count_nonzero(returns & (past_counts == 0)))
    tested = returns & (past_counts > 0)
    test, short_tests = _hold_out(log, flat.spread(tested, log.offsets) & usable)
    untargeted = None
    if paper_faithful:
        test, untargeted = _only_catalogue(test, catalogue)
    if validation_users > 0 and validation.users.size == 0:
        raise DataError(
            f"split.validation_users {validation_users:g} leaves no validation user with two interactions on items of "
            f"train; allowed: a {'larger' if validation_users < 0.5 else 'smaller'} share"
        )
    if test.users.size == 0 and np.any(
        (past_counts > 0) & (flat.count_rows(~past & _known(log, past), log.offsets) > 0)
    ):
        raise DataError(
            f"split.validation_users {validation_users:g} leaves no test user: those who come back after "
            f"t* = {boundary} validate, or meet no item of the few who train; allowed: a smaller share"
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
        untargeted=untargeted,
        dropped={
            "validation_users_too_short": short,
            "test_users_too_short": short_tests,
            "test_users_not_in_train": newcomers,
            "validation_interactions_on_unknown_items": int(np.count_nonzero(past & of_validating & ~known)),
            "future_interactions_of_validation_users": int(np.count_nonzero(~past & of_validating)),
            "future_interactions_on_unknown_items": int(np.count_nonzero(future & ~usable)),
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
    counts = np.diff(log.offsets)
    last = log.offsets[1:] - 1  # [users] row of a user's last interaction
    evaluated = counts >= 3
    if not evaluated.any():
        raise DataError("split.strategy leave_one_out: no user has three interactions, so nobody can be tested")
    before_test = np.ones(len(log.items), dtype=bool)
    before_test[last[evaluated]] = False
    train_row = before_test.copy()
    train_row[last[evaluated] - 1] = False
    of_evaluated = flat.spread(evaluated, log.offsets)
    return Parts(
        train=_gather(log, train_row),
        validation=_gather(log, train_row & of_evaluated, targets=log.items[last[evaluated] - 1]),
        test=_gather(log, before_test & of_evaluated, targets=log.items[last[evaluated]]),
        catalogue=flat.mark(log.items, log.num_items),  # a filter of users can empty an item
        dropped={"users_only_training": int(np.count_nonzero((counts > 0) & ~evaluated))},
    )


def _known(log: SortedLog, rows: Mask) -> Mask:
    """[n] whether each interaction is on an item of these rows."""
    return flat.lookup(flat.mark(log.items[rows], log.num_items), log.items)


def _choose(users: Int64s, share: float, seed: int) -> Int64s:
    """A seeded random share of the users: at least one, where the share is not 0."""
    if share == 0:
        return users[:0]
    size = max(1, int(len(users) * share))
    chosen: Int64s = np.random.default_rng(seed).choice(users, size=size, replace=False)
    return chosen


def _gather(log: SortedLog, rows: Mask, *, targets: Int32s | None = None) -> Histories:
    counts = flat.count_rows(rows, log.offsets)
    users = np.flatnonzero(counts)
    offsets = np.concatenate(([0], np.cumsum(counts[users])))
    return Histories(users.astype(np.int32), offsets, log.items[rows], log.times[rows], targets)


def _hold_out(log: SortedLog, rows: Mask) -> tuple[Histories, int]:
    """The last of each user's rows becomes the target. Users with one row are left out, and counted."""
    counts = flat.count_rows(rows, log.offsets)
    enough = counts >= 2
    row = np.flatnonzero(rows & flat.spread(enough, log.offsets))
    ends = np.cumsum(counts[enough]) - 1
    inputs = np.zeros(len(rows), dtype=bool)
    inputs[row] = True
    inputs[row[ends]] = False
    return _gather(log, inputs, targets=log.items[row[ends]]), int(np.count_nonzero(counts == 1))


def _only_catalogue(part: Histories, catalogue: Mask) -> tuple[Histories, Histories]:
    """Leaves out inputs that are not in the catalogue; parts those whose target is in it from those whose is not."""
    assert part.targets is not None
    in_catalogue = flat.lookup(catalogue, part.items)
    counts, reachable = flat.count_rows(in_catalogue, part.offsets), catalogue[part.targets]

    def of(users: Mask, targets: Int32s | None) -> Histories:
        rows = in_catalogue & flat.spread(users, part.offsets)
        offsets = np.concatenate(([0], np.cumsum(counts[users])))
        return Histories(part.users[users], offsets, part.items[rows], part.times[rows], targets)

    return of(reachable, part.targets[reachable]), of(~reachable, None)
