"""What the whole log decides about its split, and the division of all of its parts by that."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn

import numpy as np

from rec_data import arrays
from rec_data.arrays import Int32s, Int64s, Mask
from rec_data.errors import DataError
from rec_data.splits.clock import in_words
from rec_data.splits.each_part import Logs, WorkerLogs, each, total
from rec_data.splits.moments import TimeRange, range_of, time_before_share
from rec_data.splits.sorted_log import SortedLog
from rec_data.splits.strategies import Catalogue, LeaveOneOut, Partition, Strategy, Temporal
from rec_data.splits.targets import TargetRule


@dataclass(frozen=True)
class Division:
    """A divided log: what was decided for all of it, and its parts."""

    logs: Logs
    strategy: Strategy
    catalogue: Catalogue
    users: Mask
    """``[users of the whole log]`` those who train, validate or are tested."""
    trainable: bool
    """Whether a user trains with two interactions or more."""
    dropped: dict[str, int]
    """How many users or interactions were left out, by reason."""
    only: Partition | None
    """The divided log, if it is whole; parts are divided again when they are asked for."""

    @property
    def partitions(self) -> Iterator[tuple[SortedLog, Partition]]:
        """Each part of the log, and what it is divided into."""
        for log in self.logs:
            yield log, self.only or self.strategy.divide(log, self.catalogue)


def temporal(
    logs: Logs,
    *,
    test_fraction: float,
    validation_users: float,
    seed: int,
    test_from: int | None = None,
    validation: Literal["users", "time"] = "users",
    rule: TargetRule | None = None,
    paper_faithful: bool = False,
) -> Division:
    """Split at one moment t*: interactions before it are the past, all others the future.

    Training data are the past of all users except the validation users. An interaction of a test user in the future is
    the target, the last one unless ``rule`` says otherwise; the interactions before it are the input. Both contain
    items of train only.

    Validation by time divides the past once more, at t_v, by the same rules: training data are what all users did
    before t_v, and the interactions from t_v to t* validate as those from t* on test.

    Args:
        logs: The filtered log.
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
        The division.

    Raises:
        DataError: There is no past, or no user to train, validate or test on.
    """
    rule = rule or TargetRule()
    times = range_of(logs)
    boundary = _boundary(logs, times, test_fraction, test_from)
    start, validating = None, None
    if validation == "users":
        with_past = _of_whole(
            each(logs, lambda log: _Marked.of(log, arrays.count_rows(log.times < boundary, log.offsets) > 0))
        )
        validating = np.zeros(len(with_past), dtype=bool)
        validating[choose_users(np.flatnonzero(with_past), validation_users, seed)] = True
        key, cure = f"split.validation_users {validation_users:g}", "a smaller share"
    else:
        past = sum(each(logs, lambda log: int(np.count_nonzero(log.times < boundary))))
        start = time_before_share(logs, test_fraction, times, of=past)
        key, cure = f"split.validation time (from t_v = {start} on)", "times that differ more, or users"
    strategy = Temporal(
        boundary=boundary, validation_from=start, validating=validating, rule=rule, paper_faithful=paper_faithful
    )
    catalogue = _catalogue(logs, strategy)
    if not catalogue.items.any():
        raise DataError(f"{key} leaves no user to train on; allowed: {cure}")
    division, number = _divide(logs, strategy, catalogue)
    if (validation == "time" or validation_users > 0) and not number["validation"]:
        if validation == "users":
            cure = f"a {'larger' if validation_users < 0.5 else 'smaller'} share"
        raise DataError(f"{key} leaves no validation user with two interactions on items of train; allowed: {cure}")
    if not number["test"]:
        _refuse_without_test(logs, strategy, key, cure, test_fraction if test_from is None else None)
    return division


def leave_one_out(logs: Logs, *, holdout: int = 1, rule: TargetRule | None = None) -> Division:
    """Hold out each user's last interactions: the last ``holdout`` test, as many before validate, the others train.

    One of the held-out interactions is the target, the last one unless ``rule`` says otherwise; the interactions before
    it are the input. Users with ``2 * holdout`` interactions or fewer only train. The catalogue holds all items of the
    log.

    Raises:
        DataError: No user has enough interactions, or ``rule`` leaves no targets.
    """
    strategy = LeaveOneOut(holdout=holdout, rule=rule or TargetRule())
    if not any(each(logs, lambda log: bool(strategy.evaluated(log).any()))):
        raise DataError(
            f"split.strategy leave_one_out: no user has {2 * holdout + 1} interactions, so no user can be tested"
        )
    division, number = _divide(logs, strategy, _catalogue(logs, strategy))
    if not number["validation"] or not number["test"]:
        raise DataError("split.seen_targets drop: every target is in the history of its user; allowed: keep")
    return division


def choose_users(users: Int64s, share: float, seed: int) -> Int64s:
    """Draw a share of the users: at least one, unless the share is 0."""
    if share == 0:
        return users[:0]
    size = max(1, int(len(users) * share))
    chosen: Int64s = np.random.default_rng(seed).choice(users, size=size, replace=False)
    return chosen


class _Marked(NamedTuple):
    """Some users of a part of a log."""

    users: Int32s | None
    """``[users of the part]`` as `SortedLog.users`."""
    flags: Mask
    """``[users of the part]`` whether it is one of them."""

    @classmethod
    def of(cls, log: SortedLog, flags: Mask) -> "_Marked":
        return cls(log.users, flags)


def _of_whole(parts: Iterable[_Marked]) -> Mask:
    """``[users of the whole log]`` the flags of the users of each part."""
    parts = list(parts)
    whole = np.zeros(sum(len(part.flags) for part in parts), dtype=bool)
    for part in parts:
        whole[slice(None) if part.users is None else part.users] = part.flags
    return whole


def _catalogue(logs: Logs, strategy: Strategy) -> Catalogue:
    """The items of train in all parts, and how often each occurs there."""
    counts = total(logs, lambda log: arrays.count(log.items[strategy.trained(log)], log.num_items))
    if isinstance(strategy, LeaveOneOut):  # the filter of users can leave an item without interactions
        return Catalogue(total(logs, lambda log: arrays.mark(log.items, log.num_items)), counts)
    return Catalogue(counts > 0, counts, _past_items(logs, strategy.boundary) if strategy.paper_faithful else None)


def _past_items(logs: Logs, boundary: int) -> Mask:
    """``[num_items]`` the items of the past."""
    return total(logs, lambda log: arrays.mark(log.items[log.times < boundary], log.num_items))


class _Counts(NamedTuple):
    """What is counted in a divided part."""

    kept: _Marked
    trainable: bool
    dropped: dict[str, int]
    number: dict[str, int]
    """Of histories, by subset."""

    @classmethod
    def of(cls, log: SortedLog, partition: Partition) -> "_Counts":
        flags = np.zeros(log.num_users, dtype=bool)
        for subset in partition.subsets.values():
            flags[subset.users] = True
        number = {name: len(subset.users) for name, subset in partition.subsets.items()}
        trainable = bool((partition.train.lengths >= 2).any())
        return cls(_Marked.of(log, flags), trainable, partition.dropped, number)


def _divide(logs: Logs, strategy: Strategy, catalogue: Catalogue) -> tuple[Division, Counter[str]]:
    """Divide all parts, and count the users who validate and who are tested."""
    only = None
    if len(logs) == 1 and not isinstance(logs, WorkerLogs):
        only = strategy.divide(logs[0], catalogue)
        parts = [_Counts.of(logs[0], only)]
    else:
        parts = list(each(logs, lambda log: _Counts.of(log, strategy.divide(log, catalogue))))
    dropped, number = Counter[str](), Counter[str]()
    for part in parts:
        dropped.update(part.dropped)
        number.update(part.number)
    users, trainable = _of_whole(part.kept for part in parts), any(part.trainable for part in parts)
    return Division(logs, strategy, catalogue, users, trainable, dict(dropped), only), number


def _refuse_without_test(logs: Logs, strategy: Temporal, key: str, cure: str, test_fraction: float | None) -> NoReturn:
    """Say why there is no test user; `test_fraction` is None if the moment t* was given."""
    boundary = strategy.boundary
    known = _past_items(logs, boundary)

    def has_returning(log: SortedLog) -> bool:
        past = log.times < boundary
        returning = arrays.count_rows(~past & arrays.lookup(known, log.items), log.offsets) > 0
        return bool(np.any((arrays.count_rows(past, log.offsets) > 0) & returning))

    if any(each(logs, has_returning)):
        why = (
            "do not train" if strategy.validating is None else "validate, or share no item with the few training users"
        )
        raise DataError(
            f"{key} leaves no test user: those with interactions after t* = {boundary} {why}; allowed: {cure}"
        )
    asked = "split.test_from" if test_fraction is None else f"split.test_fraction {test_fraction:g}"
    raise DataError(
        f"{asked} leaves no test user; needed: a user with interactions on items of train both before and after t* = "
        f"{boundary}"
    )


def _boundary(logs: Logs, times: TimeRange, fraction: float, test_from: int | None) -> int:
    """The moment t*, with interactions before it and from it on.

    Raises:
        DataError: There are none on one side.
    """
    boundary = time_before_share(logs, fraction, times) if test_from is None else test_from
    if times.first < boundary <= times.last:
        return boundary
    if test_from is not None:
        side = "from it on" if times.first < boundary else "before it"
        raise DataError(
            f"split.test_from: found {in_words(boundary)}, which leaves no interaction {side}; allowed: a moment "
            f"within the log, from {in_words(times.first)} to {in_words(times.last)}"
        )
    raise DataError(
        f"split.strategy temporal: no interaction lies before t* = {boundary}, so nothing is left to train on; "
        "allowed: a smaller split.test_fraction, if times differ (or, for a file with order but without times, "
        "split.strategy leave_one_out)"
    )
