"""Metrics by bands of users: of short and long histories, of targets in the tail and in the head."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rec_eval.bootstrap import mean_interval
from rec_eval.evaluation import Evaluation
from rec_eval.hits import as_integers


class BandRow(NamedTuple):
    """One metric of the users of one band, with its interval; low and high are NaN for a band of one user."""

    by: str
    band: str
    start: float
    users: int
    metric: str
    k: int
    value: float
    low: float
    high: float


def band_edges(values: npt.NDArray[Any], bands: int = 5) -> list[int]:
    """First value of each band, so that bands hold about equal numbers of users; equal values are never parted.

    Args:
        values: ``[U]`` integers.
        bands: how many bands to aim at, at least 1; ties may leave fewer.

    Returns:
        Ascending first values; the first is the smallest value.

    Raises:
        ValueError: no values, or ``bands`` below 1.
    """
    if bands < 1 or values.size == 0:
        raise ValueError(f"bands must be at least 1 and there must be users, got {bands} bands, {values.size} users")
    ordered = np.sort(values)
    return sorted({int(ordered[index * ordered.size // bands]) for index in range(bands)})


def metrics_by_band(
    evaluation: Evaluation,
    by: str,
    values: Any,
    *,
    metrics: Sequence[str] = ("ndcg@10",),
    edges: Sequence[int] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[BandRow]:
    """Mean of each metric over the users of each band of an integer property, with bootstrap intervals.

    Pass the length of each user's history for "how much do we know of the user", or the training count of each user's
    target for "how popular is what was to be found".

    Args:
        evaluation: the run.
        by: name of the property, kept in the rows.
        values: ``[U]`` integers, one for each user.
        metrics: keys of ``per_user``.
        edges: first value of each band, ascending; by default five bands of about equal numbers of users. Values below
            the first edge are refused.
        level: of the interval.
        resamples: of the interval.
        seed: of the interval.

    Returns:
        Rows in order of metric, then band. A band in which no user has a value is left out.

    Raises:
        ValueError: rows or edges do not fit, or the run lacks a metric.
    """
    known = as_integers("values", values, 1)
    if known.size != evaluation.num_users:
        raise ValueError(f"values must hold one number for each of the {evaluation.num_users} users, got {known.size}")
    starts = band_edges(known) if edges is None else list(edges)
    if not starts or any(low >= high for low, high in itertools.pairwise(starts)) or known.min() < starts[0]:
        raise ValueError(f"edges must ascend from at most the smallest value, {known.min()}; got {starts}")
    band = np.searchsorted(starts, known, side="right") - 1
    rows = []
    for name in metrics:
        if name not in evaluation.per_user:
            raise ValueError(f"the run has no {name} per user; it has {', '.join(evaluation.per_user)}")
        metric, k = name.split("@")
        for index, start in enumerate(starts):
            inside = evaluation.per_user[name][band == index]
            inside = inside[~np.isnan(inside)]
            if inside.size == 0:
                continue
            low = high = float("nan")
            if inside.size > 1:
                _, low, high, _ = mean_interval(inside, level=level, resamples=resamples, seed=seed)
            label = _label(start, starts[index + 1] if index + 1 < len(starts) else int(known.max()) + 1)
            rows.append(BandRow(by, label, start, inside.size, metric, int(k), float(inside.mean()), low, high))
    return rows


def _label(start: int, end: int) -> str:
    """Name of the band from start to just before end: "3" or "3-5"."""
    return f"{start:,}" if end - start <= 1 else f"{start:,}-{end - 1:,}"
