"""What lies behind the averages of a run: intervals, bands of users, popularity, ten users to look at.

Stage ``evaluate`` writes it into ``data/evaluate/details/``, stage ``report`` shows it:

- ``intervals.csv``: every metric at every k with its 95 % bootstrap interval, the model and the ranking by popularity;
  the exact interval where no user was hit, or every one
- ``comparison.csv``: popularity at 10 and what the model gains on it, user by user
- ``bands.csv``: metrics at 10 by length of history and by popularity of the target
- ``popularity.csv``: how popular and how concentrated the recommendations and the targets are
- ``concentration.csv``: the share of them that falls on the most popular items, from one item to all
- ``examples.json``: ten users drawn at random, ids as in the raw log
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rec_eval import compare, intervals, metrics_by_segment, popularity_profile, write_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from rec_eval import Evaluation, IntervalRow, SegmentRow

Bounded = TypeVar("Bounded", "IntervalRow", "SegmentRow")

EXAMPLES = 10
SHOWN = 10
"""Items of a history and of a list that an example shows."""
POINTS = 200
"""Points of the curves of concentration."""
RESAMPLES = 1000
BANDED = ("ndcg@10", "hitrate@10")
LEVEL = 0.95
ACCURACIES = ("ndcg", "recall", "hitrate", "precision", "map", "mrr")
"""Metrics of a user that are 0 where no target is in the list, and never above 1."""


@dataclass(frozen=True)
class Run:
    """A model and its baseline on the same test users, U of them, over a catalogue of V items."""

    lists: dict[str, npt.NDArray[Any]]
    """``[U, K]`` ids, -1 in empty places, of ``model`` and ``popularity``."""
    results: dict[str, Evaluation]
    """By the same names."""
    targets: npt.NDArray[Any]
    """``[U]`` ids."""
    offsets: npt.NDArray[Any]
    """``[U + 1]``: the history of user u is ``history[offsets[u] : offsets[u + 1]]``."""
    history: npt.NDArray[Any]
    """``[nnz]`` ids."""
    counts: npt.NDArray[Any]
    """``[V]`` interactions of each item in training."""
    user_names: Any
    """``[U]`` Arrow array, ids as in the raw log."""
    item_names: Any
    """``[V]`` likewise."""


def write_details(run: Run, folder: Path) -> None:
    """Write all the tables and the examples."""
    _write_named({name: interval_rows(result) for name, result in run.results.items()}, folder / "intervals.csv")
    if run.targets.size > 1:
        model, baseline = run.results["model"], run.results["popularity"]
        names = [name for name in model.per_user if name.endswith("@10")]
        rows = [compare(baseline, model, name, name_a="popularity", name_b="model") for name in names]
        write_rows(rows, folder / "comparison.csv")
    properties = {"history": np.diff(run.offsets), "popularity": run.counts[run.targets]}
    bands = {
        name: [
            with_certain_bounds(row)
            for by, values in properties.items()
            for row in metrics_by_segment(result, by, values, metrics=BANDED, level=LEVEL, resamples=RESAMPLES)
        ]
        for name, result in run.results.items()
    }
    _write_named(bands, folder / "bands.csv")
    ks = run.results["model"].ks
    profiles = {name: popularity_profile(lists, run.targets, run.counts, ks) for name, lists in run.lists.items()}
    profiles["popularity"] = profiles["popularity"][1:]  # what is consumed is said once
    _write_named(profiles, folder / "popularity.csv")
    _write_concentration(run, folder / "concentration.csv")
    (folder / "examples.json").write_text(json.dumps(examples(run), indent=1, default=str) + "\n", encoding="utf-8")


def interval_rows(result: Evaluation) -> list[IntervalRow]:
    """The whole table of results; NaN where there is no interval: Coverage, and a test of one user."""
    from rec_eval import IntervalRow

    users = result.num_users - result.num_without_relevant
    known = {}
    if users > 1:
        known = {(row.metric, row.k): row for row in intervals(result, level=LEVEL, resamples=RESAMPLES)}
    return [
        with_certain_bounds(known.get((metric, k), IntervalRow(metric, k, value, math.nan, math.nan, users)))
        for metric, k, value in result.rows()
    ]


def with_certain_bounds(row: Bounded) -> Bounded:
    """Replace the interval of an accuracy that is 0 for all users, or 1 for all.

    Resampling users who are all alike gives the same mean every time, as if it were certain. The share of users who are
    otherwise is at most ``1 - 0.025 ** (1 / n)``, by Clopper and Pearson's interval for none of n, and no accuracy is
    farther from 0 (or from 1) than this share.
    """
    if row.metric not in ACCURACIES or row.users < 2 or not row.low == row.high == row.value:
        return row
    share = 1 - ((1 - LEVEL) / 2) ** (1 / row.users)
    if row.value == 0:
        return row._replace(high=share)
    return row._replace(low=1 - share) if row.value == 1 else row


def _write_named(tables: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Tables of one kind as one CSV, whose first column says whose rows they are; NaN is left empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["ranking", *next(iter(tables.values()))[0]._fields])
        for name, rows in tables.items():
            writer.writerows([name, *("" if value != value else value for value in row)] for row in rows)


def _write_concentration(run: Run, path: Path) -> None:
    """Cumulative shares over the catalogue from the most popular item on, at places that are even on a log scale."""
    order = np.argsort(-run.counts, kind="stable")
    places = np.unique(np.geomspace(1, order.size, POINTS).round().astype(np.int64))
    events = {"consumed": run.targets, **{name: lists[:, :SHOWN] for name, lists in run.lists.items()}}
    curves = {}
    for name, ids in events.items():
        times = np.bincount((ids + 1).ravel(), minlength=order.size + 1)[1:]  # place 0 takes the empty ones
        curves[name] = np.cumsum(times[order])[places - 1] / times.sum()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["items", *curves])
        writer.writerows(zip(places.tolist(), *(np.round(curve, 6).tolist() for curve in curves.values()), strict=True))


def examples(run: Run) -> list[dict[str, Any]]:
    """Test users drawn evenly (the same for every run over one split), with what they did and what they were shown.

    Returns:
        For each user: ``user``; ``history``, the last items; ``earlier``, how many came before these; ``target``;
        ``target_count``, its interactions in training; ``rank`` of the target in the list or None; ``recommended``.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(run.targets.size)[:EXAMPLES])
    lists = run.lists["model"]

    def names(ids: npt.NDArray[Any]) -> list[Any]:
        found: list[Any] = run.item_names.take(ids[ids >= 0]).to_pylist()
        return found

    rows = []
    for user in chosen.tolist():
        history = run.history[run.offsets[user] : run.offsets[user + 1]]
        target = run.targets[user]
        place = np.flatnonzero(lists[user] == target)
        rows.append(
            {
                "user": run.user_names[user].as_py(),
                "history": names(history[-SHOWN:]),
                "earlier": max(0, history.size - SHOWN),
                "target": names(run.targets[user : user + 1])[0],
                "target_count": int(run.counts[target]),
                "rank": int(place[0]) + 1 if place.size else None,
                "recommended": names(lists[user, :SHOWN]),
            }
        )
    return rows
