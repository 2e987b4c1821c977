"""Metrics by user segment (history length, popularity of the target), and the popularity of recommended items."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rec_eval.checks import as_integers, check_ids
from rec_eval.metrics.evaluate import Evaluation
from rec_eval.metrics.hits import Floats, check_cutoffs, check_recommended
from rec_eval.metrics.intervals import metric_interval
from rec_eval.metrics.shown import ShownItems


class PopularityRow(NamedTuple):
    """Popularity of a multiset of items: the recommended ones at k, or the consumed ones (k = 0)."""

    what: str
    k: int
    events: int
    mean_count: float
    median_count: float
    tail_share: float
    distinct_items: int
    gini: float
    entropy: float


def long_tail(counts: npt.NDArray[Any], head_share: float = 0.8) -> npt.NDArray[np.bool_]:
    """Mark the items outside the head: ``[V]`` numbers of interactions give ``[V]`` bool.

    The head is the smallest set of most consumed items (lower id first among equals) that together hold at least
    ``head_share`` of all interactions: the Pareto cut as in Abdollahpouri, Burke and Mobasher, "Managing popularity
    bias in recommender systems with personalized re-ranking", FLAIRS 2019.

    Raises:
        ValueError: ``head_share`` is not between 0 and 1, or all counts are 0.
    """
    if not 0 < head_share < 1:
        raise ValueError(f"head_share must lie between 0 and 1, got {head_share}")
    if counts.size == 0 or counts.min() < 0 or counts.sum() == 0:
        raise ValueError("counts must be zero or above, and not all zero")
    order = np.argsort(-counts.astype(np.int64), kind="stable")
    reached = np.cumsum(counts[order], dtype=np.float64)
    head = int(np.searchsorted(reached, head_share * reached[-1])) + 1
    tail = np.ones(counts.size, dtype=bool)
    tail[order[:head]] = False
    return tail


def popularity_profile(
    recommended: Any, consumed: Any, counts: Any, ks: Sequence[int], *, head_share: float = 0.8
) -> list[PopularityRow]:
    """Compare the popularity of recommended items at each k with that of consumed items.

    Args:
        recommended: ``[U, K]`` integer ids, -1 for an empty place; or the counts of lists at the same cutoffs.
        consumed: ``[n]`` integer ids of items that users consumed, for example the test targets.
        counts: ``[V]`` interactions of each item in train.
        ks: cutoffs of the lists, from 1 to K.
        head_share: share of interactions that forms the head, see ``long_tail``.

    Returns:
        One row for the consumed items, then one per k: mean and median training count over events, share of events on
        items of the long tail, number of distinct items, and Gini index of the events over the whole catalogue (0: all
        items equally often; near 1: few items have all events), and their Shannon entropy.

    Raises:
        ValueError: shapes or ids do not fit, or there are no events.
    """
    known = as_integers("counts", counts, 1)
    if isinstance(recommended, ShownItems):
        shown = recommended
    else:
        lists = check_recommended(recommended, known.size)
        shown = ShownItems.of(lists, check_cutoffs(ks, lists), known.size)
    events = as_integers("consumed", consumed, 1)
    check_ids("consumed ids", events, known.size)
    tail = long_tail(known, head_share)
    rows = [_describe("consumed", 0, np.bincount(events, minlength=known.size), known, tail)]
    for k, times in zip(shown.ks, shown.times, strict=True):
        rows.append(_describe("recommended", k, times, known, tail))
    return rows


def _describe(
    what: str, k: int, times: npt.NDArray[np.int64], counts: npt.NDArray[Any], tail: npt.NDArray[np.bool_]
) -> PopularityRow:
    """Compute a row from the number of times that each item occurs."""
    events = int(times.sum())
    if events == 0:
        raise ValueError(f"{what} holds no item; allowed: at least one")
    order = np.argsort(counts, kind="stable")
    middle = np.searchsorted(np.cumsum(times[order]), (events + 1) // 2)  # lower median
    return PopularityRow(
        what=what,
        k=k,
        events=events,
        mean_count=float(times @ counts / events),
        median_count=float(counts[order][middle]),
        tail_share=float(times[tail].sum() / events),
        distinct_items=int((times > 0).sum()),
        gini=gini(times.astype(np.float64)),
        entropy=entropy(times.astype(np.float64)),
    )


def gini(times: Floats) -> float:
    """Gini index of ``[V]`` amounts >= 0, not all zero: 0 if all are equal, ``1 - 1 / V`` if one item has everything.

    ``sum_i (2 i - V - 1) x_i / (V sum x)`` over the amounts in ascending order, i from 1. Source: Gini (1912) in the
    form of Sen, "On Economic Inequality", 1973.
    """
    ordered = np.sort(times)
    places = 2 * np.arange(1, times.size + 1) - times.size - 1
    return float(places @ ordered / (times.size * ordered.sum()))


def entropy(times: Floats) -> float:
    """Shannon entropy in bits of ``[V]`` amounts >= 0, not all zero: from 0 (one item) to log2(V).

    ``-sum_i p_i log2(p_i)`` over the shares ``p_i = x_i / sum x``. Source: Shannon, "A mathematical theory of
    communication", 1948; of recommended items: Adomavicius and Kwon, "Improving aggregate recommendation diversity
    using ranking-based techniques", IEEE TKDE 24(5), 2012.
    """
    shares = times[times > 0] / times.sum()
    return float(-(shares @ np.log2(shares))) + 0.0  # no -0


class SegmentRow(NamedTuple):
    """One metric in one segment, with its interval; low and high are NaN with too few users."""

    by: str
    segment: str
    start: float
    users: int
    metric: str
    k: int
    value: float
    low: float
    high: float


def segment_edges(values: npt.NDArray[Any], segments: int = 5) -> list[int]:
    """Choose the first value of each segment, ascending, so that segments of ``[U]`` values have nearly equal sizes.

    Equal values stay together, so that ties can give fewer segments. The first value is the smallest one.

    Raises:
        ValueError: there are no values, or ``segments`` is below 1.
    """
    if segments < 1 or values.size == 0:
        raise ValueError(f"segments and users must be at least 1, got {segments} segments, {values.size} users")
    ordered = np.sort(values)
    return sorted({int(ordered[index * ordered.size // segments]) for index in range(segments)})


def metrics_by_segment(
    evaluation: Evaluation,
    by: str,
    values: Any,
    *,
    metrics: Sequence[str] = ("ndcg@10",),
    edges: Sequence[int] | None = None,
    level: float = 0.95,
) -> list[SegmentRow]:
    """Mean of each metric by segments of an integer property of lists, with intervals over users.

    Typical properties are the length of the history, and the training count of the target.

    Args:
        evaluation: the run.
        by: name of the property, kept in the rows.
        values: ``[L]`` integers, one per list.
        metrics: keys of ``per_user``.
        edges: first value of each segment, ascending; by default five segments of nearly equal sizes. Values below the
            first edge are refused.
        level: as for ``mean_interval``.

    Returns:
        Rows in order of metric, then segment. Segments in which no user has a value are left out.

    Raises:
        ValueError: values or edges do not fit, or the run lacks a metric.
    """
    known = as_integers("values", values, 1)
    lists = next(iter(evaluation.per_user.values())).size
    if known.size != lists:
        raise ValueError(f"values must hold one number for each of the {lists} lists, got {known.size}")
    starts = segment_edges(known) if edges is None else list(edges)
    if not starts or any(low >= high for low, high in itertools.pairwise(starts)) or known.min() < starts[0]:
        raise ValueError(f"edges must ascend from at most the smallest value, {known.min()}; got {starts}")
    segment = np.searchsorted(starts, known, side="right") - 1
    rows = []
    for name in metrics:
        if name not in evaluation.per_user:
            raise ValueError(f"the run has no {name} per user; it has {', '.join(evaluation.per_user)}")
        metric, k = name.split("@")
        for index, start in enumerate(starts):
            inside = evaluation.user_means(np.where(segment == index, evaluation.per_user[name], np.nan))
            inside = inside[~np.isnan(inside)]
            if inside.size == 0:
                continue
            value, low, high, users = metric_interval(metric, inside, level)
            last = starts[index + 1] - 1 if index + 1 < len(starts) else int(known.max())
            label = f"{start:,}" if last <= start else f"{start:,}-{last:,}"
            rows.append(SegmentRow(by, label, start, users, metric, int(k), value, low, high))
    return rows
