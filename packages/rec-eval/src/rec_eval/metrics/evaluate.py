"""Evaluation of recommended lists: every metric at every k, per user and on average."""

from collections.abc import Sequence
from dataclasses import dataclass
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

ORDER = (*ACCURACY, "serendipity", "coverage", "surprisal", "unexpectedness", "novelty", "diversity")
"""The metrics in the order of results."""


class Row(NamedTuple):
    """One row of results."""

    metric: str
    k: int
    value: float


@dataclass(frozen=True)
class Evaluation:
    """Results of one run. Users without relevant items have NaN accuracies, which means leave out."""

    ks: tuple[int, ...]
    """Lengths of the lists, ascending."""
    per_user: dict[str, Floats]
    """``[U]`` float64 by "metric@k": the accuracy metrics, and those for which ``evaluate`` had what they need."""
    catalogue: dict[str, float]
    """Metrics of all lists together by "metric@k": coverage, if a log was given."""
    num_users: int
    """U, the number of lists."""
    num_without_relevant: int
    """Number of users without any relevant item."""
    num_relevant_outside: int
    """Number of relevant items outside the catalogue, which count as misses."""
    user_ids: npt.NDArray[Any] | None = None
    """``[U]`` ids of the users, or None. Two runs with ids can only be compared if these agree."""
    targets: npt.NDArray[Any] | None = None
    """``[U]`` ids of the one relevant item of each user, or None. Two runs can only be compared if these agree."""

    def summary(self) -> dict[str, float]:
        """Means over users, and catalogue metrics, as ``{"ndcg@1": ..., ..., "surprisal@100": ...}``."""
        return {f"{row.metric}@{row.k}": row.value for row in self.rows()}

    def rows(self) -> list[Row]:
        """The summary as (metric, k, value), metric by metric, k ascending."""
        means = {name: float(np.nanmean(values)) for name, values in self.per_user.items()}
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
        recommended: ``[U, K]`` integer ids, best first, as an array or tensor; -1 is an empty place, which is a miss.
        relevant: ``[U]`` ids, one per user, or a pair (offsets ``[U + 1]``, items ``[nnz]``) with any number per user;
            repetitions count once. Relevant items outside the catalogue count as misses; the result says how many.
        ks: cutoffs of the lists, from 1 to K; repetitions are dropped.
        log: counts of the log that Coverage and Surprisal are relative to, or None to leave these out.
        num_items: V, to check ids against; taken from ``log`` if that is given.
        baseline: the ranking by popularity, for Unexpectedness and Serendipity; lists of K places.
        history: a pair (offsets ``[U + 1]``, items ``[nnz]``) of what each user has consumed, for Novelty.
        groups: ``[V]`` integers, the group of each item, -1 for none, for Diversity.
        user_ids: ``[U]`` ids of the users, kept in the result, or None.
        targets: ``[U]`` names of the one relevant item of each user, kept in the result, or None.

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
        catalogue = {f"coverage@{k}": value for k, value in coverage(lists, log, cuts).items()}
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
    return Evaluation(cuts, per_user, catalogue, lists.shape[0], without, hits.outside, user_ids, targets)


def _one_per_user(name: str, ids: Any, lists: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Ids as an array, one for each list."""
    if ids is None:
        return None
    found = np.asarray(ids.cpu() if hasattr(ids, "cpu") else ids)
    if found.shape != lists.shape[:1]:
        raise ValueError(f"{name} must hold {lists.shape[0]} ids, one per user, got shape {found.shape}")
    return found
