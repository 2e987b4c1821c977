"""The details behind the averages of a run: intervals, segments of users, popularity, ten example users.

The stage ``evaluate`` writes these files into ``data/evaluate/details/``, the stage ``report`` shows them:

- ``intervals.csv``: every metric at every k with its 95 % interval, for the model and the ranking by popularity; no
  interval for Coverage, or with too few users
- ``comparison.csv``: the metrics at 10 of both rankings compared user by user
- ``segments.csv``: metrics at 10 per segment of users, by length of history, by days since the last event of the
  history, by popularity of the target, and by whether training has the target
- ``popularity.csv``: how popular and how concentrated the recommendations and the targets are
- ``concentration.csv``: the share of both that the most popular items hold, from one item to all
- ``examples.json``: ten users drawn at random, ids as in the raw log
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cutrec.outputs import write_csv
from rec_eval import Evaluation, IntervalRow, compare, intervals, metrics_by_segment, popularity_profile

EXAMPLES = 10
SHOWN = 10
"""Items of a history and of a list that an example shows."""
POINTS = 200
"""Points of the curves of concentration."""
SEGMENT_METRICS = ("ndcg@10", "hitrate@10")
LEVEL = 0.95


@dataclass(frozen=True)
class Rankings:
    """The lists of a model and of its baseline for the same U test users over V items, and their metrics."""

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
    """``[V]`` Arrow array, ids as in the raw log."""
    days: npt.NDArray[Any] | None = None
    """``[L]`` days from the last event of the history to the target; None without a clock."""


def write_details(rankings: Rankings, folder: Path) -> None:
    """Write all the tables and the examples."""
    _write_named({name: interval_rows(result) for name, result in rankings.results.items()}, folder / "intervals.csv")
    model, baseline = rankings.results["model"], rankings.results["popularity"]
    names = [name for name in model.per_user if name.endswith("@10")]
    compared = [compare(baseline, model, name, name_a="popularity", name_b="model") for name in names]
    write_csv(folder / "comparison.csv", compared[0]._fields, map(_without_nan, compared))
    interactions = rankings.counts[rankings.targets]
    properties = {
        "history": np.diff(rankings.offsets),
        **({} if rankings.days is None else {"days": rankings.days}),
        "popularity": interactions,
        "known_target": np.minimum(interactions, 1),
    }
    edges = {"known_target": range(int(interactions.min() > 0), 1 + int(interactions.max() > 0))}
    segments = {
        name: [
            row
            for by, values in properties.items()
            for row in metrics_by_segment(result, by, values, metrics=SEGMENT_METRICS, edges=edges.get(by), level=LEVEL)
        ]
        for name, result in rankings.results.items()
    }
    _write_named(segments, folder / "segments.csv")
    ks = rankings.results["model"].ks
    profiles = {
        name: popularity_profile(lists, rankings.targets, rankings.counts, ks) for name, lists in rankings.lists.items()
    }
    profiles["popularity"] = profiles["popularity"][1:]  # the row of consumed items is the same in both
    _write_named(profiles, folder / "popularity.csv")
    _write_concentration(rankings, folder / "concentration.csv")
    text = json.dumps(examples(rankings), indent=1, default=str)
    (folder / "examples.json").write_text(text + "\n", encoding="utf-8")


def interval_rows(result: Evaluation) -> list[IntervalRow]:
    """All metrics with their intervals; NaN where there is none: for Coverage, and with too few users."""
    known = {(row.metric, row.k): row for row in intervals(result, level=LEVEL)}
    users = int(np.count_nonzero(~np.isnan(result.user_means(result.per_user[f"ndcg@{result.ks[0]}"]))))
    return [
        known.get((metric, k), IntervalRow(metric, k, value, math.nan, math.nan, users))
        for metric, k, value in result.rows()
    ]


def _write_named(tables: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Write tables of one kind as one CSV whose first column names the ranking; NaN becomes an empty cell."""
    header = ["ranking", *next(iter(tables.values()))[0]._fields]
    named = [(name, *row) for name, rows in tables.items() for row in rows]
    write_csv(path, header, map(_without_nan, named))


def _without_nan(row: Sequence[Any]) -> list[Any]:
    """A row of a table, with an empty cell for NaN."""
    return ["" if value != value else value for value in row]


def _write_concentration(rankings: Rankings, path: Path) -> None:
    """Write the cumulative shares from the most popular item on, at places that are evenly spaced on a log scale."""
    order = np.argsort(-rankings.counts, kind="stable")
    places = np.unique(np.geomspace(1, order.size, POINTS).round().astype(np.int64))
    events = {"consumed": rankings.targets, **{name: lists[:, :SHOWN] for name, lists in rankings.lists.items()}}
    curves = {}
    for name, ids in events.items():
        times = np.bincount((ids + 1).ravel(), minlength=order.size + 1)[1:]  # place 0 counts the empty places
        curves[name] = np.cumsum(times[order])[places - 1] / times.sum()
    columns = [places.tolist(), *(np.round(curve, 6).tolist() for curve in curves.values())]
    write_csv(path, ["items", *curves], zip(*columns, strict=True))


def examples(rankings: Rankings) -> list[dict[str, Any]]:
    """Test users drawn at random (the same for every run over one split), with their history, target and list.

    Returns:
        For each user: ``user``; ``history``, the last items; ``earlier``, how many items came before these; ``target``;
        ``repeat``, whether it is in the history already; ``target_count``, its interactions in training; ``rank`` of
        the target in the list or None; ``recommended``.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(rankings.targets.size)[:EXAMPLES])
    lists = rankings.lists["model"]

    def names(ids: npt.NDArray[Any]) -> list[Any]:
        return list(rankings.item_names.take(ids[ids >= 0]).to_pylist())

    rows = []
    for user in chosen.tolist():
        history = rankings.history[rankings.offsets[user] : rankings.offsets[user + 1]]
        target = rankings.targets[user]
        place = np.flatnonzero(lists[user] == target)
        rows.append(
            {
                "user": rankings.user_names[user].as_py(),
                "history": names(history[-SHOWN:]),
                "earlier": max(0, history.size - SHOWN),
                "target": names(rankings.targets[user : user + 1])[0],
                "repeat": bool(np.isin(target, history)),
                "target_count": int(rankings.counts[target]),
                "rank": int(place[0]) + 1 if place.size else None,
                "recommended": names(lists[user, :SHOWN]),
            }
        )
    return rows
