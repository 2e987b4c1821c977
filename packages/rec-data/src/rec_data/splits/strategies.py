"""The two split strategies, on a log that is already encoded and sorted.

Everything here is numpy on flat arrays. Rows are sorted by user, then by time; ``rec_data.ties`` has ordered the ties.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, NoReturn

import numpy as np

from rec_data import arrays
from rec_data.arrays import Int64s, Mask
from rec_data.errors import DataError
from rec_data.splits.clock import in_words
from rec_data.splits.sorted_log import SortedLog, Subset
from rec_data.splits.targets import TargetRule, gather, hold_out


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
    """Only with ``paper_faithful``: inputs of users with a future but without a past in train: they are not tested."""
    dropped: dict[str, int] = field(default_factory=dict)
    """How many users or interactions were left out, by reason."""


def temporal(
    log: SortedLog,
    *,
    test_fraction: float,
    validation_users: float,
    seed: int,
    test_from: int | None = None,
    validation: Literal["users", "time"] = "users",
    rule: TargetRule | None = None,
    paper_faithful: bool = False,
) -> Partition:
    """Split at one moment t*: interactions before it are the past, all others the future.

    Training data are the past of all users except the validation users. An interaction of a test user in the future is
    the target, the last one unless ``rule`` says otherwise; the interactions before it are the input. Both contain
    items of train only.

    Validation by time divides the past once more, at t_v, by the same rules: training data are what all users did
    before t_v, and the interactions from t_v to t* validate as those from t* on test.

    Args:
        log: The filtered log.
        test_fraction: Share of the interactions that lie in the future, in (0, 1). With validation by time also the
            share of the past that lies from t_v on.
        validation_users: Share of the past's users that validate, in [0, 1). Not used for validation by time.
        seed: Seed of the choice of validation users.
        test_from: The moment t* in the log's unit of time, instead of one that ``test_fraction`` of the interactions
            follow.
        validation: ``users`` or ``time`` (``rec_data.config.Split.validation`` says which question each answers).
        rule: The choice of targets. Validation users are always asked for the last of their interactions.
        paper_faithful: Follow the paper's code. A user has a future if one of its items occurs anywhere in the past,
            that of validation users included; the target is the last interaction on an item of train, which may then
            lie in the past. Users who have a future but no past in train (newcomers, and validation users without an
            item of train) have inputs that Coverage and Surprisal count, and no target (``untargeted``).

    Returns:
        The partition, with ``boundary_time`` set.

    Raises:
        DataError: There is no past, or no user to train, validate or test on.
    """
    rule = rule or TargetRule()
    boundary = _boundary(log.times, test_fraction, test_from)
    past = log.times < boundary
    if validation == "users":
        parts = _validation_by_users(log, past, validation_users, seed)
    else:
        parts = _validation_by_time(log, past, test_fraction)
    train = gather(log, past & ~parts.held_out)
    if train.users.size == 0:
        raise DataError(f"{parts.key} leaves no user to train on; allowed: {parts.cure}")
    catalogue = arrays.mark(train.items, log.num_items)
    known = arrays.lookup(catalogue, log.items)
    trains = arrays.mark(train.users, log.num_users)

    validated, dropped = _validated(log, parts, past, known, trains, rule)
    if (validation == "time" or validation_users > 0) and validated.users.size == 0:
        if validation == "users":
            parts = parts._replace(cure=f"a {'larger' if validation_users < 0.5 else 'smaller'} share")
        raise DataError(
            f"{parts.key} leaves no validation user with two interactions on items of train; allowed: {parts.cure}"
        )
    test, untargeted, of_test = _tested(log, parts, past, known, trains, rule, paper_faithful=paper_faithful)
    if test.users.size == 0:
        _refuse_without_test(log, parts, past, boundary, test_fraction if test_from is None else None)
    unknown = {"validation_interactions_on_unknown_items": int(np.count_nonzero(parts.held_out & ~known))}
    dropped |= of_test | unknown
    return Partition(train, validated, test, catalogue, boundary, untargeted, dropped)


class _Past(NamedTuple):
    """Which interactions of the past validate."""

    held_out: Mask
    """``[n]`` these interactions."""
    validating: Mask | None
    """``[num_users]`` the validation users, who are not tested; None for validation by time."""
    key: str
    """The setting that decides it, for an error."""
    cure: str
    """What else it may be, for an error."""


def _validation_by_users(log: SortedLog, past: Mask, share: float, seed: int) -> _Past:
    """Hold out the past of random users."""
    users = np.flatnonzero(arrays.count_rows(past, log.offsets))
    validating = np.zeros(log.num_users, dtype=bool)
    validating[choose_users(users, share, seed)] = True
    held_out = past & arrays.spread(validating, log.offsets)
    return _Past(held_out, validating, f"split.validation_users {share:g}", "a smaller share")


def _validation_by_time(log: SortedLog, past: Mask, fraction: float) -> _Past:
    """Hold out the last share of the past."""
    start = _moment(log.times[past], fraction)
    key, cure = f"split.validation time (from t_v = {start} on)", "times that differ more, or users"
    return _Past(past & (log.times >= start), None, key, cure)


def _validated(
    log: SortedLog, parts: _Past, past: Mask, known: Mask, trains: Mask, rule: TargetRule
) -> tuple[Subset, dict[str, int]]:
    """The validation users with their inputs and targets, and how many users were left out, by reason."""
    rows = parts.held_out & known
    if parts.validating is not None:
        validated, without = hold_out(log, rows, rows, replace(rule, choice="last"))
        newcomers = {}
    else:
        validated, without = hold_out(log, past & known, rows & arrays.spread(trains, log.offsets), rule)
        new = (arrays.count_rows(rows, log.offsets) > 0) & ~trains
        newcomers = {"validation_users_not_in_train": int(np.count_nonzero(new))}
    return validated, {f"validation_users_{reason}": count for reason, count in without.items()} | newcomers


def _tested(
    log: SortedLog, parts: _Past, past: Mask, known: Mask, trains: Mask, rule: TargetRule, *, paper_faithful: bool
) -> tuple[Subset, Subset | None, dict[str, int]]:
    """The test users with their inputs and targets, the ``untargeted``, and what was left out, by reason."""
    validating = np.zeros(log.num_users, dtype=bool) if parts.validating is None else parts.validating
    if paper_faithful:  # validation users who have no item of train are like newcomers there
        validating = validating & (arrays.count_rows(past & known, log.offsets) > 0)
    future = ~past & ~arrays.spread(validating, log.offsets)
    usable = _known(log, past) if paper_faithful else known
    returns = arrays.count_rows(future & usable, log.offsets) > 0
    untargeted = None
    if paper_faithful:
        rows = known & arrays.spread(returns, log.offsets)
        both, without = hold_out(log, rows, rows)
        test, untargeted = _of_users(both, trains), replace(_of_users(both, ~trains), targets=None, target_times=None)
    else:
        test, without = hold_out(log, known, future & known & arrays.spread(trains, log.offsets), rule)
    return (
        test,
        untargeted,
        {
            **{f"test_users_{reason}": count for reason, count in without.items()},
            "test_users_not_in_train": int(np.count_nonzero(returns & ~trains)),
            "future_interactions_of_validation_users": int(np.count_nonzero(~past & ~future)),
            "future_interactions_on_unknown_items": int(np.count_nonzero(future & ~usable)),
        },
    )


def _refuse_without_test(
    log: SortedLog, parts: _Past, past: Mask, boundary: int, test_fraction: float | None
) -> NoReturn:
    """Say why there is no test user; `test_fraction` is None if the moment t* was given."""
    returning = arrays.count_rows(~past & _known(log, past), log.offsets) > 0
    if np.any((arrays.count_rows(past, log.offsets) > 0) & returning):
        why = "do not train" if parts.validating is None else "validate, or share no item with the few training users"
        raise DataError(
            f"{parts.key} leaves no test user: those with interactions after t* = {boundary} {why}; allowed: "
            f"{parts.cure}"
        )
    asked = "split.test_from" if test_fraction is None else f"split.test_fraction {test_fraction:g}"
    raise DataError(
        f"{asked} leaves no test user; needed: a user with interactions on items of train both before and after t* = "
        f"{boundary}"
    )


def leave_one_out(log: SortedLog, *, holdout: int = 1, rule: TargetRule | None = None) -> Partition:
    """Hold out each user's last interactions: the last ``holdout`` test, as many before validate, the others train.

    One of the held-out interactions is the target, the last one unless ``rule`` says otherwise; the interactions before
    it are the input. Users with ``2 * holdout`` interactions or fewer only train. The catalogue holds all items of the
    log.

    Raises:
        DataError: No user has enough interactions, or ``rule`` leaves no targets.
    """
    counts = np.diff(log.offsets)
    evaluated = counts > 2 * holdout
    if not evaluated.any():
        raise DataError(
            f"split.strategy leave_one_out: no user has {2 * holdout + 1} interactions, so no user can be tested"
        )
    ends = log.offsets[1:]
    bounds = np.repeat(log.offsets, 3)[:-2]  # of each user's rows for training, validation and test
    bounds[1::3] = np.where(evaluated, ends - 2 * holdout, ends)
    bounds[2::3] = np.where(evaluated, ends - holdout, ends)
    trained, validating, testing = (
        np.repeat(np.tile(part, log.num_users), np.diff(bounds)) for part in np.eye(3, dtype=bool)
    )
    every = np.ones(len(log.items), dtype=bool)
    validated, untested = hold_out(log, every, validating, rule)
    test, without = hold_out(log, every, testing, rule)
    if validated.users.size == 0 or test.users.size == 0:
        raise DataError("split.seen_targets drop: every target is in the history of its user; allowed: keep")
    return Partition(
        train=gather(log, trained),
        validation=validated,
        test=test,
        catalogue=arrays.mark(log.items, log.num_items),  # the filter of users can leave an item without rows
        dropped={
            "users_only_training": int(np.count_nonzero((counts > 0) & ~evaluated)),
            **{f"validation_users_{reason}": count for reason, count in untested.items() if reason != "too_short"},
            **{f"test_users_{reason}": count for reason, count in without.items() if reason != "too_short"},
        },
    )


def _boundary(times: Int64s, fraction: float, test_from: int | None) -> int:
    """The moment t*, with interactions before it and from it on.

    Raises:
        DataError: There are none on one side.
    """
    boundary = _moment(times, fraction) if test_from is None else test_from
    first, last = int(times.min()), int(times.max())
    if first < boundary <= last:
        return boundary
    if test_from is not None:
        side = "from it on" if first < boundary else "before it"
        raise DataError(
            f"split.test_from: found {in_words(boundary)}, which leaves no interaction {side}; allowed: a moment "
            f"within the log, from {in_words(first)} to {in_words(last)}"
        )
    raise DataError(
        f"split.strategy temporal: no interaction lies before t* = {boundary}, so nothing is left to train on; "
        "allowed: a smaller split.test_fraction, if times differ (or, for a file with order but without times, "
        "split.strategy leave_one_out)"
    )


def _moment(times: Int64s, fraction: float) -> int:
    """The time from which on a share of the interactions lies; at least one does."""
    index = min(int(len(times) * (1 - fraction)), len(times) - 1)
    return int(np.partition(times, index)[index])


def _known(log: SortedLog, rows: Mask) -> Mask:
    """``[n]`` whether the item of each interaction occurs in these rows."""
    return arrays.lookup(arrays.mark(log.items[rows], log.num_items), log.items)


def choose_users(users: Int64s, share: float, seed: int) -> Int64s:
    """Draw a share of the users: at least one, unless the share is 0."""
    if share == 0:
        return users[:0]
    size = max(1, int(len(users) * share))
    chosen: Int64s = np.random.default_rng(seed).choice(users, size=size, replace=False)
    return chosen


def _of_users(subset: Subset, chosen: Mask) -> Subset:
    """The histories and targets of some users, ``[num_users]`` marks."""
    assert subset.targets is not None
    assert subset.target_times is not None
    kept = chosen[subset.users]
    rows = arrays.spread(kept, subset.offsets)
    offsets = np.concatenate(([0], np.cumsum(subset.lengths[kept])))
    return Subset(
        subset.users[kept],
        offsets,
        subset.items[rows],
        subset.times[rows],
        subset.targets[kept],
        subset.target_times[kept],
    )
