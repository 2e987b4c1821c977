"""The tables, the picture and the page of a backtest, from the evaluations of its windows.

- ``windows.csv``: every metric at every k in every window, with its interval over users
- ``training.csv``: epochs and seconds of the training of each model
- ``means.csv``: the mean over windows, with a 95 % interval by Student's t
- ``ndcg.png``, and ``backtest.html`` with both, which needs no other file
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cutrec.outputs import write_csv
from cutrec.reporting import html
from cutrec.reporting.backtest_results import DIFFERENCE, OLDER, SHARED, Training, Value, WindowResult
from rec_eval import student_quantile

TEMPLATE = Path(__file__).parent / "backtest.html.jinja"
LEVEL = 0.95
SERIES = {
    ("per window", "model"): "trained per window",
    ("updated", "model"): "updated per window",
    ("once", "model"): "trained before the first window",
    (DIFFERENCE["updated"], SHARED["updated"]): "gain on targets shared with the update",
    (DIFFERENCE["once"], SHARED["once"]): "gain on shared targets",
    ("per window", "popularity"): "popularity",
    ("once", "popularity"): "popularity of the first window",
    ("updated", "popularity"): "popularity for the update",
}
"""The columns of the tables, by the columns ``trained`` and ``ranking`` of the files."""
METRICS = {"ndcg": "NDCG", "recall": "Recall", "mrr": "MRR", "coverage": "Coverage", "surprisal": "Surprisal"}


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
    half = student_quantile(level, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def table(results: Sequence[WindowResult], *, metric: str = "ndcg", k: int = 10) -> list[tuple[str, ...]]:
    """A metric in every window and its mean, as texts: a row per window, and a column per series.

    Numbers of users are those of the model per window, of the older model, and of the shared targets.
    """
    names = shown(results)
    values = {(v.window, v.trained, v.ranking): v for v in _of(results, metric, k)}
    old = next((key for key in (("once", "model"), ("updated", "model")) if key in names), None)
    extra = ("on unknown items",) if old else ()
    rows: list[tuple[str, ...]] = [("window", "from", "users", *names.values(), *extra)]
    for window in sorted({key[0] for key in values}):
        cells = {key: value for key in names if (value := values.get((window, *key)))}
        first = next(iter(cells.values()))
        tested = [f"{cell.users:,}" for (_, ranking), cell in cells.items() if ranking != "popularity"]
        users = " / ".join(tested if len(set(tested)) > 1 else tested[:1])
        texts = (_cell(key, cells.get(key)) for key in names)
        unknown = [cells[old].unknown] if old else []
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
    sign = "+" if series[0] in DIFFERENCE.values() else ""
    if isinstance(found, Mean):
        return interval(found.mean, found.low, found.high, sign=sign)
    missing = " (too few users)" if math.isnan(found.low) and found.metric != "coverage" else ""
    return interval(found.value, found.low, found.high, sign=sign) + missing


def shown(results: Sequence[WindowResult]) -> dict[tuple[str, str], str]:
    """The series of the tables: one popularity is enough."""
    there = {(value.trained, value.ranking) for result in results for value in result}
    names = {key: name for key, name in SERIES.items() if key in there}
    popularities = [key for key in names if key[1] == "popularity"]
    return {key: name for key, name in names.items() if key not in popularities[1:]}


def difference(results: Sequence[WindowResult], metric: str = "ndcg", k: int = 10) -> str | None:
    """What training again gains, in one sentence; None if the model of the first window was not evaluated as well."""
    mean = _means(results).get((DIFFERENCE["once"], SHARED["once"], metric, k))
    if mean is None:
        return None
    return (
        f"On the users and targets that both models are tested on, training again for each window changes "
        f"{METRICS[metric]}@{k} by {interval(mean.mean, mean.low, mean.high, sign='+')}, {_windows(mean)}."
    )


def kept(
    results: Sequence[WindowResult], training: Sequence[Training], metric: str = "ndcg", k: int = 10
) -> str | None:
    """What updates keep of training again and what they take, in one sentence; None if one of them was not done."""
    found, ranking = _means(results), SHARED["updated"]
    if (gain := found.get((DIFFERENCE["updated"], ranking, metric, k))) is None:
        return None
    share = found["updated", ranking, metric, k].mean / found["per window", ranking, metric, k].mean
    seconds = {
        kind: sum(row.seconds for row in training if row.trained == kind and row.window > 1)
        for kind in ("per window", "updated")
    }
    return (
        f"On the users and targets that both models are tested on, an update for each window keeps {share:.1%} of the "
        f"{METRICS[metric]}@{k} of training again (which changes it by "
        f"{interval(gain.mean, gain.low, gain.high, sign='+')}) in {seconds['updated'] / seconds['per window']:.1%} of "
        f"its training time, {_windows(gain)}."
    )


def _windows(mean: Mean) -> str:
    return f"over {mean.windows} windows after the first" if mean.windows > 1 else "in the window after the first"


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
    both = next((older for older in reversed(OLDER) if names.pop((DIFFERENCE[older], SHARED[older]), None)), None)
    for older in OLDER:
        names.pop((DIFFERENCE[older], SHARED[older]), None)
    values = {(v.window, v.trained, v.ranking): v for v in _of(results, "ndcg", 10)}
    windows = {v.window: v.begin[:10] for v in values.values()}
    series: dict[str, list[tuple[float, float, float]]] = {}
    for (trained, ranking), name in names.items():
        for window in windows:
            drawn = ranking
            if both and window > 1 and ranking == "model":
                drawn = SHARED.get(trained, SHARED[both])
            value = values.get((window, trained, drawn))  # None if no target is shared
            point = (value.value, value.low, value.high) if value else (math.nan,) * 3
            series.setdefault(name, []).append(point)
    title = "NDCG@10 by window"
    if both:
        title = "NDCG@10 on targets that both models know"
        series["popularity (all targets)"] = series.pop("popularity")
    draw_windows(list(windows.values()), series, out, title=title)


def write_backtest(
    results: Sequence[WindowResult], training: Sequence[Training], out: Path, *, title: str, command: str
) -> None:
    """Write the tables, the picture and the page into an existing folder."""
    names = shown(results)
    write_csv(out / "windows.csv", Value._fields, _blank(value for result in results for value in result))
    write_csv(out / "training.csv", Training._fields, training)
    write_csv(out / "means.csv", Mean._fields, _blank(means(results)))
    draw(results, out)
    ks = sorted({value.k for value in results[0]})
    found = _means(results)
    at_k = {
        f"{label}@{k}": [_cell(key, found.get((*key, metric, k))) for key in names]
        for metric, label in METRICS.items()
        for k in ks
    }
    header, *rows = table(results)
    page = (
        html.environment(TEMPLATE.parent)
        .get_template(TEMPLATE.name)
        .render(
            title=title,
            picture=html.picture((out / "ndcg.png").read_bytes()),
            names=list(names.values()),
            header=header,
            rows=rows,
            means=at_k,
            difference=difference(results),
            kept=kept(results, training),
            training=training,
            command=command,
        )
    )
    (out / "backtest.html").write_text(page, encoding="utf-8")


def _of(results: Sequence[WindowResult], metric: str, k: int) -> list[Value]:
    return [value for result in results for value in result if (value.metric, value.k) == (metric, k)]


def _blank(rows: "Sequence[NamedTuple] | Iterator[NamedTuple]") -> Iterator[list[object]]:
    """Rows with empty cells for NaN."""
    return (["" if value != value else value for value in row] for row in rows)
