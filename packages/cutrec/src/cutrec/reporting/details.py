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
import pyarrow as pa

from cutrec.outputs import write_csv
from rec_eval import Evaluation, IntervalRow, ShownItems, compare, intervals, metrics_by_segment, popularity_profile

EXAMPLES = 10
SHOWN = 10
"""Items of a history and of a list that an example shows; of the lists whose concentration is drawn."""
POINTS = 200
"""Points of the curves of concentration."""
SEGMENT_METRICS = ("ndcg@10", "hitrate@10")
LEVEL = 0.95


@dataclass(frozen=True)
class Rankings:
    """What was measured of a model and of its baseline, on the same L lists over V items."""

    results: dict[str, Evaluation]
    """Of ``model`` and ``popularity``."""
    shown: dict[str, ShownItems]
    """By the same names, at the same k."""
    targets: npt.NDArray[Any]
    """``[L]`` ids."""
    lengths: npt.NDArray[Any]
    """``[L]`` items of each history."""
    counts: npt.NDArray[Any]
    """``[V]`` interactions of each item in training."""
    examples: list[dict[str, Any]]
    """Of `example`."""
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
        "history": rankings.lengths,
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
        name: popularity_profile(shown, rankings.targets, rankings.counts, ks) for name, shown in rankings.shown.items()
    }
    profiles["popularity"] = profiles["popularity"][1:]  # the row of consumed items is the same in both
    _write_named(profiles, folder / "popularity.csv")
    _write_concentration(rankings, folder / "concentration.csv")
    text = json.dumps(rankings.examples, indent=1, default=str)
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
    shown = {name: found.times[found.ks.index(SHOWN)] for name, found in rankings.shown.items()}
    events = {"consumed": np.bincount(rankings.targets, minlength=order.size), **shown}  # [V] each
    curves = {name: np.cumsum(times[order])[places - 1] / times.sum() for name, times in events.items()}
    columns = [places.tolist(), *(np.round(curve, 6).tolist() for curve in curves.values())]
    write_csv(path, ["items", *curves], zip(*columns, strict=True))


def example_rows(lists: int) -> npt.NDArray[np.int64]:
    """The test users that are shown as examples: rows drawn at random, the same for every run over one split."""
    return np.sort(np.random.default_rng(0).permutation(lists)[:EXAMPLES])


def example(
    user: Any,
    history: npt.NDArray[Any],
    target: int,
    recommended: npt.NDArray[Any],
    *,
    counts: npt.NDArray[Any],
    item_names: pa.Array,
) -> dict[str, Any]:
    """A test user with their history, target and list.

    Args:
        user: the id as in the raw log.
        history: ids of items.
        target: id of an item.
        recommended: ids, -1 in empty places.
        counts: ``[V]`` interactions of each item in training.
        item_names: ``[V]`` ids as in the raw log.

    Returns:
        ``user``; ``history``, the last items; ``earlier``, how many items came before these; ``target``; ``repeat``,
        whether it is in the history already; ``target_count``, its interactions in training; ``rank`` of the target in
        the list or None; ``recommended``.
    """

    def names(ids: npt.NDArray[Any]) -> list[Any]:
        return list(item_names.take(pa.array(ids[ids >= 0])).to_pylist())

    place = np.flatnonzero(recommended == target)
    return {
        "user": user,
        "history": names(history[-SHOWN:]),
        "earlier": max(0, history.size - SHOWN),
        "target": item_names[target].as_py(),
        "repeat": bool(np.isin(target, history)),
        "target_count": int(counts[target]),
        "rank": int(place[0]) + 1 if place.size else None,
        "recommended": names(recommended[:SHOWN]),
    }
