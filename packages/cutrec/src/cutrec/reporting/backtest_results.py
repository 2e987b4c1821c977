"""What the evaluations and the trainings of a backtest measured."""

import csv
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cutrec.checksums import verified
from cutrec.outputs import read_json
from rec_eval import Evaluation, IntervalRow, compare, intervals, read_evaluation

OLDER = {"once": "rolled", "updated": "updated"}
"""The folders of the models in the column ``trained`` that a model per window is compared with."""
SHARED = {"once": "model on shared targets", "updated": "model on targets shared with the update"}
"""The ranking of a model on the users and targets that it and the model per window are both tested on."""
DIFFERENCE = {older: f"per window - {older}" for older in OLDER}
"""The column ``trained`` of what the model per window gains on them; its interval is of paired users."""


class Value(NamedTuple):
    """A metric of a ranking in a window; NaN where there is no interval."""

    window: int
    begin: str
    end: str
    trained: str
    """``per window``, ``once`` (before the first window), ``updated`` or one of `DIFFERENCE`."""
    ranking: str
    metric: str
    k: int
    value: float
    low: float
    high: float
    users: int
    unknown: float
    """Share of what these users did in the window that is on items which the model does not know, for a model that is
    older than the window; it is no target."""


WindowResult = list[Value]


class Training(NamedTuple):
    """What the training of a model took."""

    window: int
    trained: str
    """``per window`` or ``updated``."""
    epochs: int
    best_epoch: int
    seconds: float
    """Of the whole training with its start, validation and checkpoints."""


def read_window(folder: Path, window: int, dates: tuple[str, str], trained: str) -> WindowResult:
    """The metrics of a window, from its folders ``split`` and ``evaluate``."""
    unknown = read_json(folder / "split" / "summary.json").get("unknown_items_share", math.nan)
    with verified(folder / "evaluate" / "details" / "intervals.csv").open(encoding="utf-8", newline="") as file:
        return [
            Value(
                window=window,
                begin=dates[0],
                end=dates[1],
                trained=trained,
                ranking=row["ranking"],
                metric=row["metric"],
                k=int(row["k"]),
                value=float(row["value"]),
                low=float(row["low"] or "nan"),
                high=float(row["high"] or "nan"),
                users=int(row["users"]),
                unknown=unknown,
            )
            for row in csv.DictReader(file)
        ]


def read_training(out: Path, windows: int) -> list[Training]:
    """What the trainings of the windows took, from the folders ``train`` that are there."""
    found = []
    for window in range(1, windows + 1):
        for trained, folder in (("per window", "train"), ("updated", "updated/train")):
            path = out / str(window) / folder / "metrics.json"
            if path.is_file() and (facts := read_json(path)):
                seconds = round(facts["epochs"] * facts["whole_epoch_seconds"], 2)
                found.append(Training(window, trained, facts["epochs"], facts["best_epoch"], seconds))
    return found


def read_shared(folder: Path, window: int, dates: tuple[str, str], older_kind: str = "once") -> WindowResult:
    """Both models of a window on the users and targets of both, and what the model per window gains, paired by user.

    Empty if they share no target. The other model (a key of `OLDER`) is not tested on items that are unknown to it.
    """
    places = (folder / "evaluate", folder / OLDER[older_kind] / "evaluate")
    runs = [read_evaluation(verified(place / "per_user.parquet")) for place in places]
    rows = [_rows(run) for run in runs]
    shared = [key for key in rows[0] if key in rows[1]]
    if not shared:
        return []
    newer, older = (_lists(run, [known[key] for key in shared]) for run, known in zip(runs, rows, strict=True))
    found = [("per window", row) for row in intervals(newer)] + [(older_kind, row) for row in intervals(older)]
    for metric, k, *_ in intervals(newer):
        gain = compare(older, newer, f"{metric}@{k}")
        found.append((DIFFERENCE[older_kind], IntervalRow(metric, k, gain.difference, gain.low, gain.high, gain.users)))
    return [
        Value(window, *dates, trained, SHARED[older_kind], metric, k, value, low, high, users, unknown=math.nan)
        for trained, (metric, k, value, low, high, users) in found
    ]


def _lists(run: Evaluation, rows: list[int]) -> Evaluation:
    """Some of the lists of a run."""
    assert run.user_ids is not None
    per_user = {name: column[rows] for name, column in run.per_user.items()}
    return replace(run, per_user=per_user, catalogue={}, user_ids=run.user_ids[rows], targets=None)


def _rows(run: Evaluation) -> dict[tuple[Any, ...], int]:
    """The row of each user, target, and how often the user has had it as a target before."""
    assert run.user_ids is not None
    assert run.targets is not None
    times: Counter[tuple[Any, ...]] = Counter()
    rows = {}
    for row, key in enumerate(zip(run.user_ids.tolist(), run.targets.tolist(), strict=True)):
        rows[(*key, times[key])] = row
        times[key] += 1
    return rows
