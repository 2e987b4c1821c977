"""The tables, the picture and the page of a backtest, from the evaluations of its windows.

- ``windows.csv``: every metric at every k in every window, with its interval over users
- ``means.csv``: the mean over windows, with a 95 % interval by Student's t
- ``ndcg.png``, and ``backtest.html`` with both, which needs no other file
"""

import csv
import math
import statistics
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from cutrec.checksums import verified
from cutrec.outputs import read_json, write_csv
from rec_eval import Evaluation, IntervalRow, compare, intervals, read_evaluation

TEMPLATE = Path(__file__).parent / "backtest.html.jinja"
LEVEL = 0.95
SHARED = "model on shared targets"
"""The ranking of a model on the users and targets that the newer and the older model of a window are both tested on."""
DIFFERENCE = "per window - once"
"""The column ``trained`` of what the newer model gains on them; its interval is of paired users."""
SERIES = {
    ("per window", "model"): "trained per window",
    ("once", "model"): "trained before the first window",
    (DIFFERENCE, SHARED): "gain on shared targets",
    ("per window", "popularity"): "popularity",
    ("once", "popularity"): "popularity of the first window",
}
"""The columns of the tables, by the columns ``trained`` and ``ranking`` of the files."""
METRICS = {"ndcg": "NDCG", "recall": "Recall", "mrr": "MRR", "coverage": "Coverage", "surprisal": "Surprisal"}


class Value(NamedTuple):
    """A metric of a ranking in a window; NaN where there is no interval."""

    window: int
    begin: str
    end: str
    trained: str
    """``per window``, ``once`` (before the first window) or `DIFFERENCE`."""
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


class Mean(NamedTuple):
    """The mean of a metric over windows; NaN where there is no interval, as for one window."""

    trained: str
    ranking: str
    metric: str
    k: int
    mean: float
    low: float
    high: float
    windows: int


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


def read_shared(folder: Path, window: int, dates: tuple[str, str]) -> WindowResult:
    """Both models of a window on the users and targets of both, and what the newer one gains, paired by user.

    Empty if they share no target. The older model is not tested on items that are unknown to it.
    """
    places = (folder / "evaluate", folder / "rolled" / "evaluate")
    runs = [read_evaluation(verified(place / "per_user.parquet")) for place in places]
    rows = [_rows(run) for run in runs]
    shared = [key for key in rows[0] if key in rows[1]]
    if not shared:
        return []
    newer, older = (_lists(run, [known[key] for key in shared]) for run, known in zip(runs, rows, strict=True))
    found = [("per window", row) for row in intervals(newer)] + [("once", row) for row in intervals(older)]
    for metric, k, *_ in intervals(newer):
        gain = compare(older, newer, f"{metric}@{k}")
        found.append((DIFFERENCE, IntervalRow(metric, k, gain.difference, gain.low, gain.high, gain.users)))
    return [
        Value(window, *dates, trained, SHARED, metric, k, value, low, high, users, unknown=math.nan)
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


def means(results: Sequence[WindowResult]) -> list[Mean]:
    """The mean of every metric over windows."""
    series: dict[tuple[str, str, str, int], list[float]] = {}
    for value in (value for result in results for value in result):
        series.setdefault((value.trained, value.ranking, value.metric, value.k), []).append(value.value)
    return [Mean(*key, *mean_interval(values), len(values)) for key, values in series.items()]


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float, float]:
    """The mean of n independent, normally distributed values with its interval by Student's t, n - 1 degrees.

    Successive windows share users and training data, so the interval is too narrow where these matter.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = t_quantile(level, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def t_quantile(level: float, degrees: int) -> float:
    """The t for which Student's distribution has the probability `level` between -t and t.

    By bisection of the finite sums for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """

    def probability(angle: float) -> float:  # t = sqrt(degrees) * tan(angle)
        sine, cosine = math.sin(angle), math.cos(angle)
        odd = degrees % 2
        term, total = (cosine, 0.0) if odd else (1.0, 0.0)
        for power in range(1 + odd, degrees, 2):
            total += term
            term *= cosine**2 * power / (power + 1)
        return 2 / math.pi * (angle + sine * total) if odd else sine * total

    low, high = 0.0, math.pi / 2
    for _ in range(52):  # bits of a float64
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < level else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def table(results: Sequence[WindowResult], *, metric: str = "ndcg", k: int = 10) -> list[tuple[str, ...]]:
    """A metric in every window and its mean, as texts: a row per window, and a column per series.

    Numbers of users are those of the model per window, of the older model, and of the shared targets.
    """
    names = shown(results)
    values = {(v.window, v.trained, v.ranking): v for v in _of(results, metric, k)}
    old = ("once", "model")
    extra = ("on unknown items",) if old in names else ()
    rows: list[tuple[str, ...]] = [("window", "from", "users", *names.values(), *extra)]
    for window in sorted({key[0] for key in values}):
        cells = {key: value for key in names if (value := values.get((window, *key)))}
        first = next(iter(cells.values()))
        tested = [f"{cell.users:,}" for (_, ranking), cell in cells.items() if ranking != "popularity"]
        users = " / ".join(tested if len(set(tested)) > 1 else tested[:1])
        texts = (_cell(key, cells.get(key)) for key in names)
        unknown = [cells[old].unknown] if extra else []
        shares = ("" if math.isnan(share) else f"{share:.1%}" for share in unknown)
        rows.append((str(window), first.begin[:16], users, *texts, *shares))
    found = _means(results)
    average = (_cell(key, found.get((*key, metric, k))) for key in names)
    rows.append(("mean", "", "", *average, *("" for _ in extra)))
    return rows


def _cell(series: tuple[str, str], found: Value | Mean | None) -> str:
    """A value with its interval as a text, empty if there is none, such as a gain in the first window."""
    if found is None:
        return ""
    value = found.mean if isinstance(found, Mean) else found.value
    return interval(value, found.low, found.high, sign="+" if series[0] == DIFFERENCE else "")


def shown(results: Sequence[WindowResult]) -> dict[tuple[str, str], str]:
    """The series of the tables: one popularity is enough."""
    there = {(value.trained, value.ranking) for result in results for value in result}
    names = {key: name for key, name in SERIES.items() if key in there}
    if ("per window", "popularity") in names:
        names.pop(("once", "popularity"), None)
    return names


def difference(results: Sequence[WindowResult], metric: str = "ndcg", k: int = 10) -> str | None:
    """What training again gains, in one sentence; None if only one kind of model was evaluated."""
    mean = _means(results).get((DIFFERENCE, SHARED, metric, k))
    if mean is None:
        return None
    count = f"{mean.windows} windows" if mean.windows > 1 else "the window"
    return (
        f"On the users and targets that both models are tested on, training again for each window changes "
        f"{METRICS[metric]}@{k} by {interval(mean.mean, mean.low, mean.high, sign='+')}, over {count} after the first."
    )


def _means(results: Sequence[WindowResult]) -> dict[tuple[str, str, str, int], Mean]:
    """The means by ``trained``, ``ranking``, ``metric`` and ``k``."""
    return {mean[:4]: mean for mean in means(results)}


def interval(value: float, low: float, high: float, *, sign: str = "") -> str:
    """A value with its interval, if it has one."""
    text = f"{value:{sign}.4f}"
    return text if math.isnan(low) else f"{text} ({low:{sign}.4f} to {high:{sign}.4f})"


def draw(results: Sequence[WindowResult], out: Path) -> None:
    """Draw ``ndcg.png``, with two models on the targets of both; their own targets differ and do not compare them.

    Popularity is drawn on all targets of the model per window. In the first window, both models are the same one.
    """
    from cutrec.reporting.figures import draw_windows

    names = shown(results)
    both = names.pop((DIFFERENCE, SHARED), None) is not None
    values = {(v.window, v.trained, v.ranking): v for v in _of(results, "ndcg", 10)}
    windows = {v.window: v.begin[:10] for v in values.values()}
    series: dict[str, list[tuple[float, float, float]]] = {}
    for (trained, ranking), name in names.items():
        for window in windows:
            drawn = SHARED if both and window > 1 and ranking == "model" else ranking
            value = values.get((window, trained, drawn))  # None if no target is shared
            point = (value.value, value.low, value.high) if value else (math.nan,) * 3
            series.setdefault(name, []).append(point)
    title = "NDCG@10 by window"
    if both:
        title = "NDCG@10 on targets that both models know"
        series["popularity (all targets)"] = series.pop("popularity")
    draw_windows(list(windows.values()), series, out, title=title)


def write_backtest(results: Sequence[WindowResult], out: Path, *, title: str, command: str) -> None:
    """Write the tables, the picture and the page into an existing folder."""
    names = shown(results)
    write_csv(out / "windows.csv", Value._fields, _blank(value for result in results for value in result))
    write_csv(out / "means.csv", Mean._fields, _blank(means(results)))
    draw(results, out)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ks = sorted({value.k for value in results[0]})
    found = _means(results)
    at_k = {
        f"{label}@{k}": [_cell(key, found.get((*key, metric, k))) for key in names]
        for metric, label in METRICS.items()
        for k in ks
    }
    header, *rows = table(results)
    page = environment.get_template(TEMPLATE.name).render(
        title=title,
        picture=f"data:image/png;base64,{b64encode((out / 'ndcg.png').read_bytes()).decode()}",
        names=list(names.values()),
        header=header,
        rows=rows,
        means=at_k,
        difference=difference(results),
        command=command,
    )
    (out / "backtest.html").write_text(page, encoding="utf-8")


def _of(results: Sequence[WindowResult], metric: str, k: int) -> list[Value]:
    return [value for result in results for value in result if (value.metric, value.k) == (metric, k)]


def _blank(rows: "Sequence[NamedTuple] | Iterator[NamedTuple]") -> Iterator[list[object]]:
    """Rows with empty cells for NaN."""
    return (["" if value != value else value for value in row] for row in rows)
