"""Coverage and Surprisal: how much of a log's catalogue the lists reach, and how unpopular their items are there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rec_eval.checks import as_integers, check_ids, check_offsets
from rec_eval.metrics.hits import Floats, Ints, added_places

_EVENTS_PER_BLOCK = 1 << 22


@dataclass(frozen=True)
class LogCounts:
    """How many users of a log consumed each item: what Coverage and Surprisal are relative to.

    Raises:
        ValueError: fewer than two users (Surprisal divides by log2 of their number), no items, or a count that is
            negative or above the number of users.
    """

    user_counts: Ints
    """``[V]`` users of each item, 0 for an item that the log does not hold."""
    num_users: int
    """Users of the log with at least one item."""

    def __post_init__(self) -> None:
        if self.num_users < 2:
            raise ValueError(f"num_users: found {self.num_users}, allowed: at least 2")
        if self.user_counts.size == 0 or self.user_counts.max() < 1:
            raise ValueError("user_counts: found no item with a user, allowed: at least one")
        if self.user_counts.min() < 0 or self.user_counts.max() > self.num_users:
            raise ValueError(
                f"user_counts: found {self.user_counts.min()} to {self.user_counts.max()}, allowed: 0 to the "
                f"{self.num_users} users"
            )

    @classmethod
    def from_logs(cls, logs: Sequence[tuple[Any, Any]], num_items: int) -> "LogCounts":
        """Count the distinct users of each item in several logs together; each user belongs to one of them.

        The logs are not concatenated, and each is read a few million events at a time.

        Args:
            logs: (offsets ``[n + 1]``, items ``[nnz]``) of each: user u consumed ``items[offsets[u]:offsets[u + 1]]``;
                repetitions by one user count once.
            num_items: V.

        Raises:
            ValueError: the offsets do not fit, an id is outside the catalogue, or the logs are too small together.
        """
        counts = np.zeros(num_items, dtype=np.int64)
        num_users = 0
        for given_offsets, given_items in logs:
            offsets = as_integers("offsets", given_offsets, 1)
            items = as_integers("items", given_items, 1)
            check_offsets("offsets", offsets, items.size)
            check_ids("items", items, num_items)
            lengths = np.diff(offsets)
            num_users += int((lengths > 0).sum())
            start = 0
            while start < lengths.size:
                room = offsets[start] + _EVENTS_PER_BLOCK
                end = max(start + 1, int(np.searchsorted(offsets, room, side="right")) - 1)
                rows = np.repeat(np.arange(end - start, dtype=np.int64), lengths[start:end])
                pairs = rows * num_items + items[offsets[start] : offsets[end]]
                pairs.sort()  # np.unique takes thirty times as long if most pairs are distinct
                repeats = np.flatnonzero(pairs[1:] == pairs[:-1])
                counts += np.bincount(np.delete(pairs, repeats) % num_items, minlength=num_items)
                start = end
        return cls(counts, num_users)

    @property
    def self_information(self) -> Floats:
        """``log2(U / u_j) / log2(U)`` of each item, 1.0 for items that the log does not hold: ``[V]`` float64."""
        known = np.maximum(self.user_counts, 1)  # an unknown item gets the value of an item with one user, 1.0
        information: Floats = np.log2(self.num_users / known) / np.log2(self.num_users)
        return information


def coverage(recommended: npt.NDArray[Any], log: LogCounts, ks: Sequence[int]) -> dict[int, float]:
    """Share of the log's distinct items that the lists recommend, at each k.

    Source: Herlocker et al., "Evaluating collaborative filtering recommender systems", ACM TOIS 22(1), 2004, section
    5.1 (catalogue coverage). The lists are ``[U, K]`` checked ids, -1 for an empty place; the cutoffs ascend.
    """
    known = log.user_counts > 0
    reached = np.zeros(known.size + 1, dtype=bool)  # the last element is for empty places (-1)
    shares: dict[int, float] = {}
    for k, blocks in added_places(recommended, ks):
        for _, places in blocks:
            reached[places.ravel()] = True
        shares[k] = float((reached[:-1] & known).sum() / known.sum())
    return shares


def surprisal(recommended: npt.NDArray[Any], log: LogCounts, ks: Sequence[int]) -> dict[int, Floats]:
    """Mean self-information of each user's list at each k; shorter lists are divided by k too.

    The self-information of item j is ``log2(U / u_j) / log2(U)``, so that 0 is an item that all users consumed and 1 an
    item that at most one user consumed. Source: Zhou et al., "Solving the apparent diversity-accuracy dilemma of
    recommender systems", PNAS 107(10), 2010, normalized by its largest value. The lists are ``[U, K]`` checked ids; an
    empty place (-1) adds nothing. The cutoffs ascend.
    """
    weights = np.append(log.self_information, 0.0)  # index -1 is an empty place
    total = np.zeros(recommended.shape[0])
    means: dict[int, Floats] = {}
    for k, blocks in added_places(recommended, ks):
        for rows, places in blocks:
            total[rows] += weights[places].sum(axis=1)
        means[k] = total / k
    return means
