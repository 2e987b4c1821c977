"""Evaluation of recommended lists: every metric at every k, per user and on average."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rec_eval.checks import as_integers, check_offsets
from rec_eval.metrics.accuracy import ACCURACY
from rec_eval.metrics.beyond_accuracy import (
    Baseline,
    LogCounts,
    coverage,
    diversity,
    novelty,
    serendipity,
    surprisal,
    unexpectedness,
)
from rec_eval.metrics.hits import Floats, Relevant, check_cutoffs, check_recommended, find_hits
from rec_eval.metrics.shown import ShownItems

ORDER = (*ACCURACY, "serendipity", "coverage", "surprisal", "unexpectedness", "novelty", "diversity")
"""The metrics in the order of results."""


class Row(NamedTuple):
    """One row of results."""

    metric: str
    k: int
    value: float


@dataclass(frozen=True)
class Evaluation:
    """Results of one run. Lists without relevant items have NaN accuracies, which means leave out.

    A user who is tested on several targets, one after the other, has several lists, whose ids in ``user_ids`` are equal
    and next to each other. Means, intervals and tests take the mean over a user's lists as one value (`user_means`), so
    that each user counts once and lists of one user are not taken as independent.
    """

    ks: tuple[int, ...]
    """Lengths of the lists, ascending."""
    per_user: dict[str, Floats]
    """``[L]`` float64, one per list, by "metric@k": accuracy, and what else ``evaluate`` could compute."""
    catalogue: dict[str, float]
    """Metrics of all lists together by "metric@k": coverage, if a log was given."""
    num_users: int
    """U, which is L if every user has one list."""
    num_without_relevant: int
    """Number of lists without any relevant item."""
    num_relevant_outside: int
    """Number of relevant items outside the catalogue, which count as misses."""
    user_ids: npt.NDArray[Any] | None = None
    """``[L]`` ids of the users, or None if each list has its own. Two runs can only be compared if these agree."""
    targets: npt.NDArray[Any] | None = None
    """``[L]`` ids of the one relevant item of each list, or None. Two runs can only be compared if these agree."""

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64] | None:
        """``[U]`` the first list of each user, or None if every user has one list."""
        if self.user_ids is None or not len(self.user_ids):
            return None
        starts = first_lists(self.user_ids)
        return None if starts.size == len(self.user_ids) else starts

    def user_means(self, values: Floats) -> Floats:
        """The mean over each user's lists, without NaN: ``[L]`` float64 give ``[U]``, NaN if there is nothing else."""
        starts = self._starts
        if starts is None:
            return values
        known = ~np.isnan(values)
        sums = np.add.reduceat(np.where(known, values, 0.0), starts)
        counts = np.add.reduceat(known, starts, dtype=np.int64)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def summary(self) -> dict[str, float]:
        """Means over users, and catalogue metrics, as ``{"ndcg@1": ..., ..., "surprisal@100": ...}``."""
        return {f"{row.metric}@{row.k}": row.value for row in self.rows()}

    def rows(self) -> list[Row]:
        """The summary as (metric, k, value), metric by metric, k ascending."""
        means = {name: float(np.nanmean(self.user_means(values))) for name, values in self.per_user.items()}
        values = {**means, **self.catalogue}
        return [
            Row(metric, k, values[f"{metric}@{k}"]) for metric in ORDER for k in self.ks if f"{metric}@{k}" in values
        ]


def evaluate(
    recommended: Any,
    relevant: Relevant,
    ks: Sequence[int],
    log: LogCounts | None = None,
    *,
    num_items: int | None = None,
    baseline: Baseline | None = None,
    history: tuple[Any, Any] | None = None,
    groups: Any = None,
    user_ids: Any = None,
    targets: Any = None,
) -> Evaluation:
    """Compute every accuracy metric at each k, and the other metrics for which there is what they need.

    Args:
        recommended: ``[L, K]`` integer ids, best first, as an array or tensor; -1 is an empty place, which is a miss.
        relevant: ``[L]`` ids, one per list, or a pair (offsets ``[L + 1]``, items ``[nnz]``) with any number per list;
            repetitions count once. Relevant items outside the catalogue count as misses; the result says how many.
        ks: cutoffs of the lists, from 1 to K; repetitions are dropped.
        log: counts of the log that Coverage and Surprisal are relative to, or None to leave these out.
        num_items: V, to check ids against; taken from ``log`` if that is given.
        baseline: the ranking by popularity, for Unexpectedness and Serendipity; lists of K places.
        history: a pair (offsets ``[L + 1]``, items ``[nnz]``) of what the user of each list has consumed, for Novelty.
        groups: ``[V]`` integers, the group of each item, -1 for none, for Diversity.
        user_ids: ``[L]`` ids of the users, kept in the result, or None if each list is of another user. Lists of one
            user are next to each other.
        targets: ``[L]`` names of the one relevant item of each list, kept in the result, or None.

    Raises:
        ValueError: an item twice in one list, an id outside the catalogue, a k below 1 or above K, shapes that do not
            fit, or no user with a relevant item.
    """
    if log is not None:
        if num_items is not None and num_items != log.user_counts.size:
            raise ValueError(f"num_items is {num_items}, but the log has {log.user_counts.size} items")
        num_items = log.user_counts.size
    lists = check_recommended(recommended, num_items)
    user_ids, targets = _one_per_user("user_ids", user_ids, lists), _one_per_user("targets", targets, lists)
    cuts = check_cutoffs(ks, lists)
    hits = find_hits(lists, relevant, num_items)
    without = int((hits.relevant == 0).sum())
    if without == lists.shape[0]:
        raise ValueError("relevant is empty for every user; allowed: at least one user with a relevant item")
    per_user = {f"{name}@{k}": metric(hits, k) for name, metric in ACCURACY.items() for k in cuts}
    catalogue: dict[str, float] = {}
    if log is not None:
        shown = ShownItems.of(lists, cuts, log.user_counts.size)
        catalogue = {f"coverage@{k}": value for k, value in coverage(shown, log).items()}
        per_user |= {f"surprisal@{k}": values for k, values in surprisal(lists, log, cuts).items()}
    more: dict[str, dict[int, Floats]] = {}
    if baseline is not None:
        others = check_recommended(baseline.lists, num_items)
        counts = as_integers("baseline.counts", baseline.counts, 1)
        if others.shape != lists.shape or lists.max() >= counts.size:
            raise ValueError(f"baseline must have the shape of the lists, {lists.shape}, and a count for every item")
        more["serendipity"] = {k: serendipity(hits, lists, counts, k) for k in cuts}
        more["unexpectedness"] = unexpectedness(lists, others, cuts)
    if history is not None:
        offsets, items = (as_integers(f"history[{place}]", part, 1) for place, part in enumerate(history))
        check_offsets("history offsets", offsets, items.size)
        if offsets.size != len(lists) + 1:
            raise ValueError(f"history offsets must be users + 1 = {len(lists) + 1} numbers, got {offsets.size}")
        more["novelty"] = novelty(lists, (offsets, items), cuts)
    if groups is not None:
        numbers = as_integers("groups", groups, 1)
        if lists.max() >= numbers.size:
            raise ValueError(f"groups must hold a number for every item, got {numbers.size}")
        more["diversity"] = diversity(lists, numbers, [k for k in cuts if k > 1])  # one item is no pair
    per_user |= {f"{name}@{k}": values for name, by_k in more.items() for k, values in by_k.items()}
    users = lists.shape[0] if user_ids is None else first_lists(user_ids).size
    return Evaluation(cuts, per_user, catalogue, users, without, hits.outside, user_ids, targets)


def join_evaluations(
    parts: Sequence[Evaluation],
    order: npt.NDArray[np.int64],
    catalogue: Mapping[str, float],
    *,
    user_ids: npt.NDArray[Any] | None = None,
    targets: npt.NDArray[Any] | None = None,
) -> Evaluation:
    """The results of lists that were evaluated part by part, as if they had been evaluated together.

    Args:
        parts: at least one, all at the same k. Their values are moved, so that memory holds them once.
        order: ``[L]`` places of the lists in the parts, one part after the other, in the order of the result.
        catalogue: metrics of all lists together, which cannot be joined; those of the parts are dropped.
        user_ids: ``[L]`` in the order of the result, as of `evaluate`; those of the parts are dropped.
        targets: as `user_ids`.
    """
    per_user = {
        name: np.concatenate([part.per_user.pop(name) for part in parts])[order] for name in list(parts[0].per_user)
    }
    return Evaluation(
        parts[0].ks,
        per_user,
        dict(catalogue),
        len(order) if user_ids is None else first_lists(user_ids).size,
        sum(part.num_without_relevant for part in parts),
        sum(part.num_relevant_outside for part in parts),
        user_ids,
        targets,
    )


def first_lists(user_ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """``[U]`` places from which on the ids of the next user follow in ``[L]`` ids."""
    return np.flatnonzero(np.concatenate(([True], user_ids[1:] != user_ids[:-1]))) if len(user_ids) else np.arange(0)


def _one_per_user(name: str, ids: Any, lists: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Ids as an array, one for each list."""
    if ids is None:
        return None
    found = np.asarray(ids.cpu() if hasattr(ids, "cpu") else ids)
    if found.shape != lists.shape[:1]:
        raise ValueError(f"{name} must hold {lists.shape[0]} ids, one per list, got shape {found.shape}")
    return found
