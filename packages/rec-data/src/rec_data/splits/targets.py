"""The choice of the interactions that each evaluated user is tested on, and of the history before each."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rec_data import arrays
from rec_data.arrays import Int64s, Mask
from rec_data.config import TargetChoice
from rec_data.splits.sorted_log import SortedLog, Subset
from rec_data.ties import GOLDEN, mix


@dataclass(frozen=True)
class TargetRule:
    """Which of a user's held-out interactions is the target (``rec_data.config.Split``)."""

    choice: TargetChoice = "last"
    seen: Literal["keep", "drop"] = "keep"
    seed: int = 42
    """Of random targets."""


def gather(log: SortedLog, rows: Mask, *, targets: Int64s | None = None) -> Subset:
    """The marked rows, ``[n]``, as histories of the users who have some; ``targets`` are rows too, one per user."""
    counts = arrays.count_rows(rows, log.offsets)
    users = np.flatnonzero(counts)
    offsets = np.concatenate(([0], np.cumsum(counts[users])))
    subset = Subset(users.astype(np.int32), offsets, log.items[rows], log.times[rows])
    if targets is None:
        return subset
    return replace(subset, targets=log.items[targets], target_times=log.times[targets])


def hold_out(
    log: SortedLog, rows: Mask, candidates: Mask, rule: TargetRule | None = None
) -> tuple[Subset, dict[str, int]]:
    """Make one of each user's candidates the target, or each of them, and the rows before it the history.

    Args:
        log: The filtered log.
        rows: ``[n]`` what histories consist of.
        candidates: ``[n]`` what targets are chosen from, among ``rows``. A user's first row has no history, so it is no
            target.
        rule: How; None takes the last candidate.

    Returns:
        The histories and targets of the users who have a target (one after the other of those who have several), and
        how many users with candidates have none, by reason.
    """
    rule = rule or TargetRule()
    reasons = {}
    number = arrays.count_rows(candidates, log.offsets)
    if rule.seen == "drop":
        before = number > 0
        candidates = candidates & ~_repeated(log, rows & arrays.spread(before, log.offsets))
        number = arrays.count_rows(candidates, log.offsets)
        reasons["with_seen_targets_only"] = int(np.count_nonzero(before) - np.count_nonzero(number))
    users, place = np.flatnonzero(number), np.flatnonzero(candidates)
    first = np.cumsum(number[users]) - number[users]  # where each user's candidates begin in place
    alone = arrays.count_rows(rows, _cut(log, users, place[first]))[2 * users] == 0
    place = np.delete(place, first[alone])
    number[users[alone]] -= 1
    reasons["too_short"] = int(np.count_nonzero(number[users] == 0))
    users = np.flatnonzero(number)
    number = number[users]
    if rule.choice == "successive":
        return _successive(log, rows, np.repeat(users, number), place), reasons
    nth = {"last": number - 1, "first": np.zeros_like(number)}.get(rule.choice)
    if nth is None:
        nth = _draw(log, users, number, rule.seed)
    target = place[np.cumsum(number) - number + nth]
    earlier = np.repeat(np.tile([True, False], log.num_users), np.diff(_cut(log, users, target)))
    return gather(log, rows & earlier, targets=target), reasons


def _draw(log: SortedLog, users: Int64s, number: Int64s, seed: int) -> Int64s:
    """Draw one of ``[n]`` numbers of candidates for each user, by a hash: it does not depend on the other users."""
    everyone = np.arange(log.num_users, dtype=np.int32) if log.users is None else log.users
    hashes = mix(mix(everyone[users].astype(np.uint64)) + np.uint64(seed * GOLDEN % 2**64))
    drawn: Int64s = ((hashes >> np.uint64(32)) * number.astype(np.uint64) >> np.uint64(32)).astype(np.int64)
    return drawn


def _successive(log: SortedLog, rows: Mask, users: Int64s, targets: Int64s) -> Subset:
    """The marked rows before each target: the user and the row of each of ``[t]`` targets."""
    kept = np.flatnonzero(rows)
    begins, ends = (np.searchsorted(kept, bounds) for bounds in (log.offsets[users], targets))
    lengths = ends - begins
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    items = np.empty(offsets[-1], dtype=log.items.dtype)
    times = np.empty(offsets[-1], dtype=log.times.dtype)
    for part in arrays.chunks(offsets, arrays.BLOCK):
        whole = slice(offsets[part.start], offsets[part.stop])
        shifts = np.repeat(begins[part] - offsets[part], lengths[part])
        found = kept[np.arange(whole.start, whole.stop) + shifts]
        items[whole], times[whole] = log.items[found], log.times[found]
    return Subset(users.astype(np.int32), offsets, items, times, log.items[targets], log.times[targets])


def _cut(log: SortedLog, users: Int64s, rows: Int64s) -> Int64s:
    """``[2 * num_users + 1]`` offsets of two segments per user: before a row of these users, and from it on.

    The first segment of all other users is empty.
    """
    bounds = np.repeat(log.offsets, 2)[:-1]
    bounds[2 * users + 1] = rows
    return bounds


def _repeated(log: SortedLog, rows: Mask) -> Mask:
    """``[n]`` the marked rows whose item is in an earlier marked row of the same user."""
    place = np.flatnonzero(rows)
    users = np.repeat(np.arange(log.num_users), arrays.count_rows(rows, log.offsets))
    pairs = users * log.num_items + log.items[place]
    order = np.argsort(pairs, kind="stable")
    repeats = np.zeros(len(rows), dtype=bool)
    repeats[place[order[1:]]] = np.diff(pairs[order]) == 0
    return repeats
