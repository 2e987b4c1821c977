"""Lists beyond their hits: coverage of the catalogue, and how unpopular, unexpected, new and diverse lists are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rec_eval.checks import as_integers, check_ids, check_offsets
from rec_eval.metrics.hits import Floats, Hits, Ints, added_places, user_blocks
from rec_eval.metrics.shown import ShownItems

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
    def from_logs(cls, logs: Iterable[tuple[Any, Any]], num_items: int) -> "LogCounts":
        """Count the distinct users of each item in several logs together; each user belongs to one of them.

        The logs are not concatenated. Each is read when it is asked for, a few million events at a time.

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


def coverage(shown: ShownItems, log: LogCounts) -> dict[int, float]:
    """Share of the log's distinct items that the lists recommend, at each k.

    Source: Herlocker et al., "Evaluating collaborative filtering recommender systems", ACM TOIS 22(1), 2004, section
    5.1 (catalogue coverage).
    """
    known = log.user_counts > 0
    return {k: float(((times > 0) & known).sum() / known.sum()) for k, times in zip(shown.ks, shown.times, strict=True)}


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


class Baseline(NamedTuple):
    """The ranking by popularity, which Unexpectedness and Serendipity compare with."""

    lists: npt.NDArray[Any]
    """``[U, K]`` ids, -1 for an empty place."""
    counts: npt.NDArray[Any]
    """``[V]`` interactions of each item."""


def unexpectedness(lists: npt.NDArray[Any], baseline: npt.NDArray[Any], ks: Sequence[int]) -> dict[int, Floats]:
    """Share of each user's k places whose item is not among the first k of the baseline; an empty place is none.

    ``|list_k without baseline_k| / k``. Source: Ge, Delgado-Battenfeld and Jannach, "Beyond accuracy: evaluating
    recommender systems by coverage and serendipity", RecSys 2010, with the ranking by popularity as the primitive
    recommender. Lists and baseline are ``[U, K]`` checked ids, -1 for an empty place; the cutoffs ascend.
    """
    shares = {k: np.empty(len(lists)) for k in ks}
    for rows in user_blocks(*lists.shape):
        known = np.zeros((rows.stop - rows.start, lists.shape[1]), dtype=np.int64)  # the rank in the baseline
        for place in range(min(ks[-1], baseline.shape[1])):
            known[lists[rows] == baseline[rows, place, None]] = place + 1
        for k in ks:
            found = (known[:, :k] > 0) & (known[:, :k] <= k)
            shares[k][rows] = ((lists[rows, :k] >= 0) & ~found).sum(axis=1) / k
    return shares


def serendipity(hits: Hits, lists: npt.NDArray[Any], counts: npt.NDArray[Any], k: int) -> Floats:
    """How much higher the hits of each user are ranked than by popularity: ``sum_i hit_i max(0, p_i - q_i) / k``.

    ``p_i = (V + 1 - i) / V`` at rank i, and ``q_i = (V + 1 - r_i) / V`` with the rank r_i of the item by ``counts``
    ``[V]``, where items with equal counts share a rank and the ranks have no gaps; 0 for an item without interactions.
    NaN for users without relevant items. Source: the metric ``Serendipity`` of RecTools, after the definition as
    unexpected and relevant of Ge, Delgado-Battenfeld and Jannach, RecSys 2010.
    """
    size = counts.size
    _, dense = np.unique(-counts, return_inverse=True)
    popular = np.where(counts > 0, size - dense, 0) / size  # [V] q
    near = hits.ranks <= k
    users, ranks = hits.users[near], hits.ranks[near]
    gains = np.maximum((size + 1 - ranks) / size - popular[lists[users, ranks - 1]], 0.0)
    total = np.bincount(users, weights=gains, minlength=hits.relevant.size).astype(np.float64)
    return np.where(hits.relevant > 0, total / k, np.nan)


def novelty(
    lists: npt.NDArray[Any], history: tuple[npt.NDArray[Any], npt.NDArray[Any]], ks: Sequence[int]
) -> dict[int, Floats]:
    """Share of each user's k places whose item is not in the user's own history; an empty place is none.

    Source: Castells, Vargas and Wang, "Novelty and diversity metrics for recommender systems: choice, discovery and
    relevance", DDR at ECIR 2011. The lists are ``[U, K]`` checked ids, -1 for an empty place; the history is a pair of
    offsets ``[U + 1]`` and items ``[nnz]``; the cutoffs ascend.
    """
    offsets, items = (np.asarray(part).astype(np.int64) for part in history)
    size = max(int(lists.max()), int(items.max(initial=0))) + 1
    pairs = np.append(np.unique(np.repeat(np.arange(len(lists)), np.diff(offsets)) * size + items), len(lists) * size)
    found = np.zeros(len(lists))
    shares: dict[int, Floats] = {}
    for k, blocks in added_places(lists, ks):
        for rows, places in blocks:
            wanted = np.arange(rows.start, rows.stop)[:, None] * size + places
            consumed = pairs[np.minimum(np.searchsorted(pairs, wanted), pairs.size - 1)] == wanted
            found[rows] += ((places >= 0) & ~consumed).sum(axis=1)
        shares[k] = found / k
    return shares


def diversity(lists: npt.NDArray[Any], groups: npt.NDArray[Any], ks: Sequence[int]) -> dict[int, Floats]:
    """Share of pairs of items of different groups among the pairs of each user's first k items.

    Items without a group are left out; with fewer than two other ones there is no pair, and the diversity is 0. It is
    the mean pairwise distance of Smyth and McClave, "Similarity vs. diversity", ICCBR 2001, with the distance 1 between
    items of different groups (intra-list diversity; 1 less the intra-list similarity of Ziegler et al., WWW 2005).
    The lists are ``[U, K]`` checked ids, -1 for an empty place; ``groups`` is ``[V]``, the number of each item's group,
    -1 for none; the cutoffs ascend.
    """
    numbers = np.append(groups, -1)  # index -1 is an empty place
    shares = {k: np.empty(len(lists)) for k in ks}
    for rows in user_blocks(*lists.shape) if shares else []:
        own = numbers[lists[rows, : ks[-1]]]
        known = np.cumsum(own >= 0, axis=1)
        equal = np.zeros(own.shape)  # pairs of one group that each place adds
        for place in range(1, own.shape[1]):
            last = own[:, place, None]
            equal[:, place] = ((own[:, :place] == last) & (last >= 0)).sum(axis=1)
        equal = np.cumsum(equal, axis=1)
        for k in ks:
            pairs = known[:, k - 1] * (known[:, k - 1] - 1) / 2
            shares[k][rows] = np.where(pairs > 0, 1 - equal[:, k - 1] / np.maximum(pairs, 1), 0.0)
    return shares
