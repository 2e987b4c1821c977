"""Accuracy metrics of ranked lists, per user, at several k at once.

Relevance is binary. ``rel`` is the set of a user's relevant items, and ``hit_i`` is 1 if the item at rank i is one of
them. Lists shorter than k count as if filled with misses. Every function takes the hits of all users and the cutoff
k >= 1, and returns ``[U]`` float64. Users without relevant items get NaN, because they have no value.
"""

from collections.abc import Callable

import numpy as np

from rec_eval.metrics.hits import Floats, Hits


def ndcg(hits: Hits, k: int) -> Floats:
    """Normalized discounted cumulative gain: ``sum_i hit_i / log2(i + 1)`` over the same sum of an ideal list.

    The ideal list begins with ``min(k, |rel|)`` hits. Source: Järvelin and Kekäläinen, "Cumulated gain-based
    evaluation of IR techniques", ACM TOIS 20(4), 2002, with the discount ``log2(i + 1)`` of Burges et al., ICML 2005.
    """
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(1, k + 1) + 1.0))])
    gains = _sum_by_user(hits, 1.0 / np.log2(hits.ranks + 1.0), k)
    return _ratio(gains, ideal[np.minimum(hits.relevant, k)], hits)


def recall(hits: Hits, k: int) -> Floats:
    """Share of the relevant items that are in the list: ``sum_i hit_i / |rel|``.

    Source: Manning, Raghavan and Schütze, "Introduction to Information Retrieval", 2008, section 8.3.
    """
    return _ratio(_count_by_user(hits, k), hits.relevant.astype(np.float64), hits)


def hit_rate(hits: Hits, k: int) -> Floats:
    """1 if any relevant item is in the list, else 0.

    Source: Deshpande and Karypis, "Item-based top-N recommendation algorithms", ACM TOIS 22(1), 2004.
    """
    return _ratio(np.minimum(_count_by_user(hits, k), 1.0), np.ones(hits.relevant.size), hits)


def precision(hits: Hits, k: int) -> Floats:
    """Share of relevant items among k places: ``sum_i hit_i / k``, also for shorter lists.

    Source: Manning, Raghavan and Schütze, 2008, section 8.4.
    """
    return _ratio(_count_by_user(hits, k), np.full(hits.relevant.size, float(k)), hits)


def average_precision(hits: Hits, k: int) -> Floats:
    """Mean over ``min(k, |rel|)`` of the precision at the rank of each hit; its mean over users is MAP@k.

    Source: Manning, Raghavan and Schütze, 2008, section 8.4, cut at k. With one relevant item it is MRR@k.
    """
    return _ratio(_sum_by_user(hits, hits.ordinals / hits.ranks, k), np.minimum(hits.relevant, k), hits)


def reciprocal_rank(hits: Hits, k: int) -> Floats:
    """``1 / rank`` of the first hit, 0 if its rank is above k.

    Source: Voorhees, "The TREC-8 question answering track report", 1999.
    """
    return _ratio(_sum_by_user(hits, (hits.ordinals == 1) / hits.ranks, k), np.ones(hits.relevant.size), hits)


ACCURACY: dict[str, Callable[[Hits, int], Floats]] = {
    "ndcg": ndcg,
    "recall": recall,
    "hitrate": hit_rate,
    "precision": precision,
    "map": average_precision,
    "mrr": reciprocal_rank,
}
"""The metrics by their name in results, in the order in which they are shown."""


def _sum_by_user(hits: Hits, values: Floats, k: int) -> Floats:
    near = hits.ranks <= k
    # Without any hit numpy returns integers, whatever the weights are.
    return np.bincount(hits.users[near], weights=values[near], minlength=hits.relevant.size).astype(np.float64)


def _count_by_user(hits: Hits, k: int) -> Floats:
    return _sum_by_user(hits, np.ones(hits.ranks.size), k)


def _ratio(values: Floats, totals: Floats, hits: Hits) -> Floats:
    """``values / totals``, NaN for users without relevant items."""
    return np.where(hits.relevant > 0, values / np.where(totals > 0, totals, 1.0), np.nan)
