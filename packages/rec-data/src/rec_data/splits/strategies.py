"""The two split strategies, on a log that is already encoded and sorted, whole or in parts of its users.

A strategy is first decided on the whole log: the boundary t*, the validation users, the catalogue. It then divides each
part on its own, and the parts need not be in one process. Everything here is numpy on flat arrays. Rows are sorted by
user, then by time; ``rec_data.ties`` has ordered the ties.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from rec_data import arrays
from rec_data.arrays import Int64s, Mask
from rec_data.splits.sorted_log import SortedLog, Subset
from rec_data.splits.targets import TargetRule, gather, hold_out

SUBSETS = ("train", "validation", "test", "untargeted")
"""Parts of a split; the last one is only there if the split follows the paper's code."""


class Catalogue(NamedTuple):
    """What the whole log says about each item."""

    items: Mask
    """``[num_items]`` the items that can be recommended."""
    counts: Int64s
    """``[num_items]`` interactions of train."""
    past: Mask | None = None
    """``[num_items]`` the items of the past, of validation users too; only if the strategy follows the paper's code."""


@dataclass(frozen=True)
class Partition:
    """A divided log, or a divided part of its users.

    Users are counted as in that log or part, and items as in the filtered log; neither is dense over the kept ones.
    """

    train: Subset
    validation: Subset
    test: Subset
    untargeted: Subset | None = None
    """Only with ``paper_faithful``: inputs of users with a future but without a past in train: they are not tested."""
    dropped: dict[str, int] = field(default_factory=dict)
    """How many users or interactions were left out, by reason."""

    @property
    def subsets(self) -> dict[str, Subset]:
        """The subsets that there are, by name."""
        return {name: subset for name in SUBSETS if (subset := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class Temporal:
    """Divides at a moment t*, as ``rec_data.splits.decide.temporal`` describes and decides."""

    boundary: int
    """t*."""
    validation_from: int | None
    """t_v, for validation by time."""
    validating: Mask | None
    """``[users of the whole log]`` the validation users, who are not tested; None for validation by time."""
    rule: TargetRule
    paper_faithful: bool

    def trained(self, log: SortedLog) -> Mask:
        """``[n]`` the interactions of train."""
        past = log.times < self.boundary
        return past & ~self._held_out(log, past)

    def divide(self, log: SortedLog, catalogue: Catalogue) -> Partition:
        """Divide a log or a part of its users."""
        past = log.times < self.boundary
        held_out = self._held_out(log, past)
        train = gather(log, past & ~held_out)
        known = arrays.lookup(catalogue.items, log.items)
        trains = arrays.mark(train.users, log.num_users)
        validated, dropped = self._validated(log, past, held_out & known, known, trains)
        test, untargeted, of_test = self._tested(log, past, known, trains, catalogue)
        unknown = {"validation_interactions_on_unknown_items": int(np.count_nonzero(held_out & ~known))}
        return Partition(train, validated, test, untargeted, dropped | of_test | unknown)

    def _held_out(self, log: SortedLog, past: Mask) -> Mask:
        """``[n]`` which interactions of the past validate."""
        if self.validating is not None:
            return past & arrays.spread(log.of_users(self.validating), log.offsets)
        assert self.validation_from is not None
        return past & (log.times >= self.validation_from)

    def _validated(
        self, log: SortedLog, past: Mask, rows: Mask, known: Mask, trains: Mask
    ) -> tuple[Subset, dict[str, int]]:
        """The validation users with their inputs and targets, and how many users were left out, by reason."""
        if self.validating is not None:
            validated, without = hold_out(log, rows, rows, replace(self.rule, choice="last"))
            newcomers = {}
        else:
            validated, without = hold_out(log, past & known, rows & arrays.spread(trains, log.offsets), self.rule)
            new = (arrays.count_rows(rows, log.offsets) > 0) & ~trains
            newcomers = {"validation_users_not_in_train": int(np.count_nonzero(new))}
        return validated, {f"validation_users_{reason}": count for reason, count in without.items()} | newcomers

    def _tested(
        self, log: SortedLog, past: Mask, known: Mask, trains: Mask, catalogue: Catalogue
    ) -> tuple[Subset, Subset | None, dict[str, int]]:
        """The test users with their inputs and targets, the ``untargeted``, and what was left out, by reason."""
        validating = np.zeros(log.num_users, dtype=bool) if self.validating is None else log.of_users(self.validating)
        usable = known
        if self.paper_faithful:  # validation users who have no item of train are like newcomers there
            validating = validating & (arrays.count_rows(past & known, log.offsets) > 0)
            assert catalogue.past is not None
            usable = arrays.lookup(catalogue.past, log.items)
        future = ~past & ~arrays.spread(validating, log.offsets)
        returns = arrays.count_rows(future & usable, log.offsets) > 0
        untargeted = None
        if self.paper_faithful:
            rows = known & arrays.spread(returns, log.offsets)
            both, without = hold_out(log, rows, rows)
            test = _of_users(both, trains)
            untargeted = replace(_of_users(both, ~trains), targets=None, target_times=None)
        else:
            test, without = hold_out(log, known, future & known & arrays.spread(trains, log.offsets), self.rule)
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


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """Holds out the last interactions of each user, as ``rec_data.splits.decide.leave_one_out`` describes."""

    holdout: int
    rule: TargetRule

    def trained(self, log: SortedLog) -> Mask:
        """``[n]`` the interactions of train."""
        return self._rows(log)[0]

    def evaluated(self, log: SortedLog) -> Mask:
        """``[num_users]`` the users who have enough interactions."""
        enough: Mask = np.diff(log.offsets) > 2 * self.holdout
        return enough

    def divide(self, log: SortedLog, catalogue: Catalogue) -> Partition:
        """Divide a log or a part of its users; this strategy does not depend on the catalogue."""
        trained, validating, testing = self._rows(log)
        every = np.ones(len(log.items), dtype=bool)
        validated, untested = hold_out(log, every, validating, self.rule)
        test, without = hold_out(log, every, testing, self.rule)
        only_training = (np.diff(log.offsets) > 0) & ~self.evaluated(log)
        dropped = {
            "users_only_training": int(np.count_nonzero(only_training)),
            **{f"validation_users_{reason}": count for reason, count in untested.items() if reason != "too_short"},
            **{f"test_users_{reason}": count for reason, count in without.items() if reason != "too_short"},
        }
        return Partition(gather(log, trained), validated, test, dropped=dropped)

    def _rows(self, log: SortedLog) -> list[Mask]:
        """``[n]`` three times: the interactions for training, validation and test."""
        evaluated, ends = self.evaluated(log), log.offsets[1:]
        bounds = np.repeat(log.offsets, 3)[:-2]  # of each user's rows for training, validation and test
        bounds[1::3] = np.where(evaluated, ends - 2 * self.holdout, ends)
        bounds[2::3] = np.where(evaluated, ends - self.holdout, ends)
        return [np.repeat(np.tile(part, log.num_users), np.diff(bounds)) for part in np.eye(3, dtype=bool)]


Strategy = Temporal | LeaveOneOut


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
